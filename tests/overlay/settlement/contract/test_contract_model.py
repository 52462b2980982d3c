"""The model of the contract against the real TVM: the same messages, equal states and equal balances to the nanoTON."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pytoniq_core import Cell

from overlay.settlement import Transfer, Wallet
from overlay.settlement.cells import OP_REFUND_STARTED, parse_channel_data
from overlay.settlement.limits import ATTACHED_MIN_NANOTON, MAX_LIFETIME_S, RENT_RESERVE_NANOTON
from overlay.settlement.model import MAINNET_PRICES, ChannelAccount, ModelChain, ModelEnds, Outcome
from overlay.settlement.model.calibrate import wallet_gas
from overlay.settlement.model.gas import CHANNEL_GAS, WALLET_GAS
from overlay.settlement.model.replica import Replica, internal_message
from overlay.settlement.model.scenarios import SCENARIOS, Scenario
from overlay.settlement.model.steps import NETWORK_ID, START_S, Stage, Step
from overlay.settlement.transactions import AccountTransaction, parse_message

TON = 10**9


def same_transaction(mine: Outcome, real: AccountTransaction) -> None:
    """Exit code, gas, fee and every message that left, with its value and its fee."""
    assert mine.exit_code == real.exit_code, mine
    assert (mine.gas_used, mine.fee_nanoton) == (real.gas_used, real.fee_nanoton), mine
    assert [(each.destination, each.value_nanoton, each.forward_fee_nanoton, each.bounced) for each in mine.sent] == [
        (each.destination, each.value_nanoton, each.forward_fee_nanoton, each.bounced) for each in real.out_messages
    ], mine
    for sent, message in zip(mine.sent, real.out_messages, strict=True):
        if sent.op is not None:
            assert (sent.op, sent.query_id) == message.operation()
        if sent.fields and not sent.bounced:
            body = message.body.begin_parse().skip_bits(96)
            times = sent.op == OP_REFUND_STARTED
            assert sent.fields == tuple(body.load_uint(32) if times else body.load_coins() or 0 for _ in sent.fields)


def same_account(mine: ChannelAccount, replica: Replica) -> None:
    real = replica.account(mine.address)
    assert (mine.status != "none", mine.balance_nanoton, mine.due_nanoton) == (
        real.exists,
        real.balance_nanoton,
        real.due_nanoton,
    )
    state = mine.state if mine.status == "active" else None
    assert state == (None if real.data is None else parse_channel_data(real.data))


@dataclass
class Duel:
    """One channel, in the model and in the TVM."""

    replica: Replica
    stage: Stage

    def __post_init__(self) -> None:
        self.terms = self.stage.terms()
        self.account = ChannelAccount(
            self.terms.address(), MAINNET_PRICES, terms=self.terms, gas=CHANNEL_GAS, network_id=NETWORK_ID
        )

    def play(self, step: Step) -> Outcome:
        message, now = self.stage.message(step), START_S + step.at_s
        cell = internal_message(
            message.source, message.destination, message.value_nanoton, message.body, bounce=message.bounce,
            init=self.terms.state_init() if message.deploys else None, bounced=message.bounced, now=now,
        )  # fmt: skip
        outcome = self.account.receive(message, now)
        transaction = self.replica.run(message.destination, cell, now)
        assert transaction is not None
        same_transaction(outcome, transaction)
        same_account(self.account, self.replica)
        return outcome


def test_the_prices_are_those_of_the_configuration(replica: Replica) -> None:
    parameters = replica.config.begin_parse().load_hashmap(32, value_deserializer=lambda value: value.load_ref())
    gas = parameters[21].begin_parse()
    assert gas.load_uint(8) == 0xD1
    flat = gas.load_uint(64), gas.load_uint(64)
    assert gas.load_uint(8) == 0xDE
    assert (*flat, gas.load_uint(64), gas.load_uint(64)) == (
        MAINNET_PRICES.flat_gas_limit, MAINNET_PRICES.flat_gas_price, MAINNET_PRICES.gas_price,
        MAINNET_PRICES.gas_limit,
    )  # fmt: skip
    messages = parameters[25].begin_parse()
    assert messages.load_uint(8) == 0xEA
    prices = messages.load_uint(64), messages.load_uint(64), messages.load_uint(64)
    assert prices == (MAINNET_PRICES.lump_nanoton, MAINNET_PRICES.bit_price, MAINNET_PRICES.cell_price)
    assert messages.load_uint(32) >= 0  # ihr_price_factor: nobody uses it
    assert messages.load_uint(16) == MAINNET_PRICES.first_fraction
    storage = parameters[18].begin_parse().load_hashmap(32, value_deserializer=lambda value: value)[0]
    assert storage.load_uint(8) == 0xCC
    assert storage.load_uint(32) == 0  # since when
    assert (storage.load_uint(64), storage.load_uint(64)) == (MAINNET_PRICES.storage_bit, MAINNET_PRICES.storage_cell)
    assert parameters[19].begin_parse().load_int(32) == NETWORK_ID


def test_the_wallets_gas_is_what_the_tvm_takes(replica: Replica) -> None:
    assert wallet_gas(replica) == WALLET_GAS


def test_the_scenarios_go_every_way_through_the_contract_that_the_gas_table_knows() -> None:
    met = set()
    for scenario in SCENARIOS:
        terms = scenario.stage.terms()
        account = ChannelAccount(
            terms.address(), MAINNET_PRICES, terms=terms, gas=CHANNEL_GAS, network_id=NETWORK_ID
        )  # fmt: skip
        met |= {account.receive(scenario.stage.message(step), START_S + step.at_s).path for step in scenario.steps}
    assert met - {"out of gas", "no gas", "no state"} == set(CHANNEL_GAS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_a_scenario_ends_as_it_should_in_the_model_and_in_the_tvm(replica: Replica, scenario: Scenario) -> None:
    duel = Duel(replica, scenario.stage)
    assert [duel.play(step).exit_code for step in scenario.steps] == list(scenario.codes)


STAGES = st.builds(
    Stage,
    expiry_s=st.sampled_from([3600, 86_400, 10 * 86_400, MAX_LIFETIME_S] * 5 + [10, MAX_LIFETIME_S + 1]),
    challenge_period_s=st.sampled_from([0, 600, 3600, 30 * 86_400]),
    network_id=st.sampled_from([NETWORK_ID] * 29 + [-3]),
)


def test_a_claim_takes_no_more_gas_than_the_prototypes() -> None:
    assert CHANNEL_GAS["claim by the payee"] <= CHANNEL_GAS["claim relayed"] <= 5913


SEEDS = st.integers(0, 2**64 - 1)
"""One draw makes a whole message: fourteen draws would take as long as the TVM does."""

WAITS_S = st.sampled_from([0, 0, 1, 1, 60, 60, 600, 600, 3600, 3600, 86_400, 10 * 86_400])
OPERATIONS = ["top_up"] * 6 + ["claim"] * 15 + ["close_together"] * 3 + ["start_refund"] * 2 + ["finish_refund"] * 4
OPERATIONS += ["empty", "unknown", "bounced"]
LAST_S = 420 * 86_400
"""Later, rent has eaten the reserve of the longest life: the model says that it ends there."""


def random_step(draws: random.Random, at_s: int, account: ChannelAccount) -> Step:
    """A random message: mostly sensible ones, near the edges of what the channel takes."""
    state = account.state
    paid, deposit = (0, 0) if state is None else (state.paid_nanoton, state.deposit_nanoton)
    op = draws.choice(OPERATIONS if deposit else ["top_up"] * 60 + OPERATIONS)
    edges = [paid - 1, paid, paid + 1, (paid + deposit) // 2, deposit, deposit + 1, TON // 10, TON // 10 - 1, TON]
    amount = max(0 if op in ("top_up", "close_together") else 1, draws.choice(edges))
    enough = amount + RENT_RESERVE_NANOTON if op == "top_up" else 0
    least = ATTACHED_MIN_NANOTON
    attached = draws.choice([2 * least] * 9 + [least, draws.randrange(least), draws.randrange(least // 5)])
    senders = (
        ["payer"] * 18 + ["payee", "relayer"] if op in ("top_up", "start_refund") else ["payer", "payee", "relayer"]
    )

    def mostly(usual: Any, other: Any, odds: int = 10) -> Any:
        return other if draws.randrange(odds) == 0 else usual

    return Step(
        at_s,
        draws.choice(senders),
        op,
        enough + attached,
        amount,
        query_id=draws.choice([0, 7, 2**63]),
        seq=draws.randint(1, 9),
        close=mostly(False, True),
        signer=mostly("payer", draws.choice(["payee", "nobody"]), 15),
        cosigner=mostly("payee", "payer"),
        channel=mostly("own", "other", 15),
        network_id=mostly(NETWORK_ID, -3, 15),
        valid_for_s=mostly(at_s + 60, max(at_s - 1, 1), 5),
        deploys=mostly(not deposit, True, 4),
        bounce=mostly(True, False, 20),
    )


HOPELESS = {"top up refused 109", "top up refused 110", "top up refused 111 expiry"}
"""After these the next messages go to a fresh channel."""


def next_stage(stage: Stage, draws: random.Random, at_s: int) -> Stage:
    life_s = draws.choice([3600, 86_400, 10 * 86_400, 100 * 86_400])
    return replace(stage, nonce=stage.nonce + 1, expiry_s=at_s + life_s, network_id=NETWORK_ID)


class ChannelMachine(RuleBasedStateMachine):
    """Random messages from the parties, a relayer and strangers to one channel after another."""

    replica: Replica
    steps = 0

    @initialize(stage=STAGES)
    def begin(self, stage: Stage) -> None:
        self.replica.forget()
        self.duel, self.at_s = Duel(self.replica, stage), 0

    @rule(seed=SEEDS, wait_s=WAITS_S)
    def message(self, seed: int, wait_s: int) -> None:
        self.at_s = min(self.at_s + wait_s, LAST_S)
        draws = random.Random(f"{seed} {type(self).steps}")
        outcome = self.duel.play(random_step(draws, self.at_s, self.duel.account))
        type(self).steps += 1
        over = self.duel.account.status == "none" and draws.randrange(2) == 0
        if over or outcome.path in HOPELESS:
            self.duel = Duel(self.replica, next_stage(self.duel.stage, draws, self.at_s))


def run_machine(machine: type[Any], replica: Replica, *, at_least: int, per_example: int) -> None:
    """Run until ``at_least`` messages were compared: counted, for an example may end before its last step."""
    kind: Any = type(machine.__name__, (machine,), {"replica": replica, "steps": 0})
    while kind.steps < at_least:
        examples = -(-(at_least - kind.steps) // per_example) + 1  # the first of a run has next to no steps
        run_state_machine_as_test(
            kind,
            settings=settings(
                max_examples=examples, stateful_step_count=per_example, deadline=None, database=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate,),  # shrinking runs the TVM thousands of times
            ),
        )  # fmt: skip
    assert kind.steps >= at_least


class WalletMachine(RuleBasedStateMachine):
    """The same, with every message from a real wallet v5r1 and every answer taken in by one."""

    replica: Replica
    steps = 0

    @initialize(stage=STAGES)
    def begin(self, stage: Stage) -> None:
        self.replica.forget()
        self.at_s = 0
        self.wallets = {
            who: Wallet(seed * 32, NETWORK_ID) for who, seed in (("payer", b"1"), ("payee", b"2"), ("relayer", b"3"))
        }
        self.chain = ModelChain(NETWORK_ID)
        for wallet in self.wallets.values():
            self.chain.add_wallet(wallet, 10_000 * TON, START_S)
            gift = internal_message("0:" + "99" * 32, wallet.address, 10_000 * TON, Cell.empty(), bounce=False)
            assert self.replica.run(wallet.address, gift, START_S) is not None
        self.play_on(replace(stage, **{who: wallet.address for who, wallet in self.wallets.items()}))

    def play_on(self, stage: Stage) -> None:
        self.stage, terms = stage, stage.terms()
        self.channel, self.init = terms.address(), terms.state_init()
        empty = ChannelAccount(self.channel, MAINNET_PRICES, terms=terms, gas=CHANNEL_GAS, network_id=NETWORK_ID)
        self.chain.channels[self.channel] = empty

    @rule(seed=SEEDS, wait_s=WAITS_S)
    def message(self, seed: int, wait_s: int) -> None:
        self.at_s = min(self.at_s + wait_s, LAST_S)
        now = START_S + self.at_s
        draws = random.Random(f"{seed} {type(self).steps}")
        step = random_step(draws, self.at_s, self.chain.channels[self.channel])
        if step.op == "bounced":  # no wallet can send one
            return
        sender = self.wallets[step.sender].address
        init = self.init if step.deploys else None
        transfer = Transfer(self.channel, step.value_nanoton, self.stage.body(step), init, bounce=step.bounce)
        external = self.chain.wallets[sender].external([transfer], now)
        outcome = self.chain.send(sender, [transfer], now)
        transaction = self.replica.run(sender, external, now)
        assert transaction is not None
        same_transaction(outcome, transaction)
        waiting, paths = list(transaction.out_messages), set()
        while self.chain.busy:
            (delivered,) = self.chain.deliver(now, 1)
            message = parse_message(waiting.pop(0).cell)
            assert message.destination == delivered.message.destination
            transaction = self.replica.run(message.destination or "", message.cell, now)
            assert transaction is not None
            same_transaction(delivered.outcome, transaction)
            paths.add(delivered.outcome.path)
            waiting.extend(transaction.out_messages)
        assert not waiting
        same_account(self.chain.channels[self.channel], self.replica)
        for wallet in self.wallets.values():
            assert self.chain.balance_nanoton(wallet.address) == self.replica.account(wallet.address).balance_nanoton
        assert self.chain.conserved()
        type(self).steps += 1
        over = self.chain.channels[self.channel].status == "none" and draws.randrange(2) == 0
        if over or paths & HOPELESS:
            self.play_on(next_stage(self.stage, draws, self.at_s))


def test_model_and_tvm_agree_over_800_random_messages(replica: Replica) -> None:
    run_machine(ChannelMachine, replica, at_least=800, per_example=40)


def test_model_and_tvm_agree_over_random_messages_through_real_wallets(replica: Replica) -> None:
    run_machine(WalletMachine, replica, at_least=80, per_example=40)


@pytest.mark.slow
def test_model_and_tvm_agree_over_15000_random_messages(replica: Replica) -> None:
    run_machine(ChannelMachine, replica, at_least=15_000, per_example=60)


@pytest.mark.slow
def test_model_and_tvm_agree_over_5000_random_messages_through_real_wallets(replica: Replica) -> None:
    run_machine(WalletMachine, replica, at_least=5000, per_example=60)


def test_the_model_says_where_it_ends() -> None:
    account = ChannelAccount(
        Stage().terms().address(), MAINNET_PRICES, terms=Stage().terms(), gas={}, network_id=NETWORK_ID
    )
    step = Step(0, "payer", "top_up", TON, TON // 2, deploys=True)
    with pytest.raises(ModelEnds, match="calibration"):
        account.receive(Stage().message(step), START_S)
