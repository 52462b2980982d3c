"""The same scenarios through ``@ton/sandbox`` in JavaScript, which encodes, signs and routes by itself."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

from overlay.settlement.cells import channel_code
from overlay.settlement.devnet.tvm import node_modules, node_program
from overlay.settlement.model import MAINNET_PRICES, ChannelAccount
from overlay.settlement.model.gas import CHANNEL_GAS
from overlay.settlement.model.scenarios import SCENARIOS, Scenario
from overlay.settlement.model.steps import NETWORK_ID, SEEDS, START_S


async def ask_the_oracle() -> list[dict[str, Any]]:
    question = {
        "code": base64.b64encode(channel_code().to_boc()).decode(),
        "seeds": {who: seed.hex() for who, seed in SEEDS.items()},
        "start_s": START_S,
        "scenarios": [asdict(each) for each in SCENARIOS],
    }
    result = await trio.run_process(
        [await node_program(), str(Path(__file__).with_name("oracle.js"))],
        stdin=json.dumps(question).encode(),
        capture_stdout=True,
        env={**os.environ, "NODE_PATH": str(node_modules())},
    )
    answer: list[dict[str, Any]] = json.loads(result.stdout)
    return answer


def expected(scenario: Scenario) -> dict[str, Any]:
    """What the model says of a scenario, in the oracle's words."""
    terms = scenario.stage.terms()
    account = ChannelAccount(terms.address(), MAINNET_PRICES, terms=terms, gas=CHANNEL_GAS, network_id=NETWORK_ID)
    steps = []
    for step in scenario.steps:
        outcome = account.receive(scenario.stage.message(step), START_S + step.at_s)
        sent = [
            {
                "to": each.destination, "value": str(each.value_nanoton), "bounced": each.bounced,
                "op": None if each.bounced else each.op, "query_id": None if each.bounced else str(each.query_id),
            }
            for each in outcome.sent
        ]  # fmt: skip
        steps.append({
            "exit_code": outcome.exit_code, "gas": str(outcome.gas_used), "fees": str(outcome.fee_nanoton),
            "balance": str(account.balance_nanoton), "sent": sent,
        })  # fmt: skip
    return {"name": scenario.name, "address": terms.address(), "steps": steps}


async def test_an_independent_implementation_encodes_and_plays_every_scenario_to_the_same_end() -> None:
    answers = await ask_the_oracle()
    assert len(answers) == len(SCENARIOS) > 40
    for scenario, answer in zip(SCENARIOS, answers, strict=True):
        for step in answer["steps"]:
            for sent in step["sent"]:
                if sent["bounced"]:  # a bounced body is the original's, behind 32 ones
                    sent["op"] = sent["query_id"] = None
        assert [step["exit_code"] for step in answer["steps"]] == list(scenario.codes), scenario.name
        assert answer == expected(scenario)
