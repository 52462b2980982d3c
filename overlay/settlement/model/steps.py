"""Messages to a channel as plain data: what tests generate, scenarios are written in and the JavaScript oracle reads.

A :class:`Step` says who sends what and when, in terms of a channel between two fixed pairs of keys; nothing is encoded
yet. :class:`Stage` turns it into the message itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from pytoniq_core import begin_cell

from overlay.settlement.cells import (
    OP_TOP_UP,
    ChannelTerms,
    claim_body,
    close_together_body,
    finish_refund_body,
    start_refund_body,
)
from overlay.settlement.model.account import ModelMessage
from overlay.settlement.transactions import BOUNCED_OP
from overlay.settlement.voucher import CloseAgreement, Voucher, channel_public_key, sign_cell_hash

Who = Literal["payer", "payee", "relayer", "nobody"]
Operation = Literal["top_up", "claim", "close_together", "start_refund", "finish_refund", "empty", "unknown", "bounced"]

START_S = 2_000_000_000
NETWORK_ID = -239
"""The configuration of ``@ton/sandbox`` is mainnet's."""

SEEDS: dict[str, bytes] = {"payer": b"a" * 32, "payee": b"b" * 32, "relayer": b"c" * 32}
ADDRESSES: dict[str, str] = {"payer": "0:" + "11" * 32, "payee": "0:" + "22" * 32, "relayer": "0:" + "33" * 32}


@dataclass(frozen=True)
class Step:
    """One message. ``at_s`` and ``valid_for_s`` count from the start of the scenario.

    ``signer`` and ``cosigner`` name whose channel keys sign ("nobody": 64 zero bytes); ``channel`` and ``network_id``
    what they sign for: the channel's own, or others.
    """

    at_s: int
    sender: Who
    op: Operation
    value_nanoton: int
    amount_nanoton: int = 0
    query_id: int = 7
    seq: int = 1
    close: bool = False
    signer: Who = "payer"
    cosigner: Who = "payee"
    channel: Literal["own", "other"] = "own"
    network_id: int = NETWORK_ID
    valid_for_s: int = 2**31
    deploys: bool = False
    bounce: bool = True


@dataclass(frozen=True)
class Stage:
    """A channel's terms in short, and whose messages go to it."""

    expiry_s: int = 86_400
    challenge_period_s: int = 3600
    network_id: int = NETWORK_ID
    nonce: int = 1
    payer: str = ADDRESSES["payer"]
    payee: str = ADDRESSES["payee"]
    relayer: str = ADDRESSES["relayer"]

    def terms(self) -> ChannelTerms:
        """The channel's terms."""
        return _terms(self)

    def address(self) -> str:
        """The channel's raw address."""
        return _address(self)

    def body(self, step: Step) -> Any:
        """The body of a step's message, a cell."""
        channel = self.address() if step.channel == "own" else replace(self, nonce=self.nonce + 1).address()
        if step.op == "top_up":
            head = begin_cell().store_uint(OP_TOP_UP, 32).store_uint(step.query_id, 64)
            return head.store_coins(step.amount_nanoton).end_cell()  # not by `top_up_body`, which refuses zero
        if step.op == "claim":
            voucher = Voucher(channel, step.network_id, step.seq, step.amount_nanoton)
            signature = _sign(step.signer, voucher.cell_hash())
            return claim_body(step.query_id, signature, voucher.to_cell(), close=step.close)
        if step.op == "close_together":
            agreed = CloseAgreement(channel, step.network_id, step.amount_nanoton, START_S + step.valid_for_s)
            signatures = [_sign(each, agreed.cell_hash()) for each in (step.signer, step.cosigner)]
            return close_together_body(step.query_id, signatures[0], signatures[1], agreed.to_cell())
        if step.op == "start_refund":
            return start_refund_body(step.query_id)
        if step.op == "finish_refund":
            return finish_refund_body(step.query_id)
        if step.op == "bounced":
            return begin_cell().store_uint(BOUNCED_OP, 32).store_uint(0x10C00002, 32).end_cell()
        op = begin_cell() if step.op == "empty" else begin_cell().store_uint(0xDEADBEEF, 32).store_uint(1, 64)
        return op.end_cell()

    def message(self, step: Step) -> ModelMessage:
        """A step's message as it arrives."""
        body = self.body(step)
        cursor = body.begin_parse()
        named = cursor.remaining_bits >= 96
        return ModelMessage(
            source={"payer": self.payer, "payee": self.payee}.get(step.sender, self.relayer),
            destination=self.address(), value_nanoton=step.value_nanoton, bounce=step.bounce and step.op != "bounced",
            bounced=step.op == "bounced", op=cursor.load_uint(32) if named else None,
            query_id=cursor.load_uint(64) if named else 0, body=body, deploys=step.deploys,
        )  # fmt: skip


@lru_cache(maxsize=256)
def _terms(stage: Stage) -> ChannelTerms:
    return ChannelTerms(
        payer=stage.payer, payee=stage.payee, payer_key=channel_public_key(SEEDS["payer"]),
        payee_key=channel_public_key(SEEDS["payee"]), network_id=stage.network_id, nonce=stage.nonce,
        expiry_s=START_S + stage.expiry_s, challenge_period_s=stage.challenge_period_s,
    )  # fmt: skip


@lru_cache(maxsize=256)
def _address(stage: Stage) -> str:
    return _terms(stage).address()


def _sign(who: Who, cell_hash: bytes) -> bytes:
    return bytes(64) if who == "nobody" else sign_cell_hash(SEEDS[who], cell_hash)
