"""Take the gas table from the real TVM: ``python -m overlay.settlement.model.calibrate`` writes ``gas.py`` anew.

Run it whenever the contract has changed. It also shows that a path's gas is one number, wherever it is met.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytoniq_core import Cell

from overlay.settlement.cells import top_up_body
from overlay.settlement.model.account import ChannelAccount
from overlay.settlement.model.fees import MAINNET_PRICES
from overlay.settlement.model.replica import Replica, internal_message, open_replica
from overlay.settlement.model.scenarios import SCENARIOS
from overlay.settlement.model.steps import NETWORK_ID, SEEDS, START_S, Stage
from overlay.settlement.wallet import Transfer, Wallet

_TON = 10**9
_HEADER = '"""The gas of each path through the contract and the wallet: written by ``calibrate.py``, not by hand."""\n'


class _Watch(dict[str, int]):
    """A gas table that says of every path that it costs what the TVM has just taken, and remembers which it was."""

    seen = ""
    now = 0

    def get(self, path: str, default: object = None) -> int:
        self.seen = path
        return self.now


def channel_gas(replica: Replica) -> dict[str, int]:
    """Each path's gas, from every scenario. Raises ``ValueError`` when one path costs now this, now that."""
    found: dict[str, int] = {}
    for number, scenario in enumerate(SCENARIOS):
        stage = Stage(**{**vars(scenario.stage), "nonce": 10_000 + number})
        terms, watch = stage.terms(), _Watch()
        address = terms.address()
        account = ChannelAccount(address, MAINNET_PRICES, terms=terms, gas=watch, network_id=NETWORK_ID)
        for step in scenario.steps:
            message, now, watch.seen = stage.message(step), START_S + step.at_s, ""
            cell = internal_message(
                message.source, address, message.value_nanoton, message.body, bounce=message.bounce,
                init=terms.state_init() if message.deploys else None, bounced=message.bounced, now=now,
            )  # fmt: skip
            transaction = replica.run(address, cell, now)
            assert transaction is not None
            watch.now = transaction.gas_used
            account.receive(message, now)
            if not watch.seen or transaction.exit_code == -14:
                continue
            if found.setdefault(watch.seen, watch.now) != watch.now:
                raise ValueError(f"{watch.seen!r} took {found[watch.seen]} gas, and now {watch.now}")
    return found


def wallet_gas(replica: Replica) -> dict[str, int]:
    """What a wallet uses to send one message, each further one, and to take one in."""
    wallet, now = Wallet(SEEDS["payer"], NETWORK_ID), START_S
    other = "0:" + "99" * 32

    def receive(body: Any) -> int:
        cell = internal_message(other, wallet.address, 100 * _TON, body, bounce=False)
        transaction = replica.run(wallet.address, cell, now)
        assert transaction is not None
        return transaction.gas_used

    def send(count: int, seqno: int) -> int:
        transfers = [Transfer(other, _TON // 100, top_up_body(number, 1)) for number in range(count)]
        signed = wallet.sign_transfers(transfers, seqno=seqno, valid_until_s=now + 60, deploy=seqno == 0)
        transaction = replica.run(wallet.address, signed, now)
        assert transaction is not None
        assert len(transaction.out_messages) == count
        return transaction.gas_used

    receive(Cell.empty())
    one, two, many = send(1, 0), send(2, 1), send(50, 2)
    if many != one + 49 * (two - one):
        raise ValueError("a wallet's gas is not linear in its messages")
    plain, answer = receive(Cell.empty()), receive(top_up_body(1, 1))
    return {"send": one, "send one more": two - one, "receive": answer, "receive plain": plain}


def _table(name: str, gas: Mapping[str, int]) -> str:
    rows = "".join(f'    "{path}": {gas[path]},\n' for path in sorted(gas))
    return f"\n{name}: dict[str, int] = {{\n{rows}}}\n"


if __name__ == "__main__":
    with open_replica() as tvm:
        text = _HEADER + _table("CHANNEL_GAS", channel_gas(tvm)) + _table("WALLET_GAS", wallet_gas(tvm))
    Path(__file__).with_name("gas.py").write_text(text)
    print(text)
