"""What the channel contract decides: ``contract/channel.tolk`` again, in Python, without money moving yet.

A message either fails with the contract's exit code or gives the channel's next state and a list of actions. Each way
through the contract has a name, its *path*: the same path always costs the same gas, which is how the model knows gas
without a TVM (:mod:`overlay.settlement.model.gas`). :mod:`overlay.settlement.model.account` carries the actions out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from overlay.settlement.cells import (
    OP_CLAIM,
    OP_CLOSE_TOGETHER,
    OP_EXCESSES,
    OP_FINISH_REFUND,
    OP_PAYOUT,
    OP_REFUND,
    OP_REFUND_STARTED,
    OP_START_REFUND,
    OP_TOP_UP,
    VOUCHER_TAG,
    StoredChannel,
    raw_address,
)
from overlay.settlement.limits import (
    ATTACHED_MIN_NANOTON,
    MAX_CHALLENGE_PERIOD_S,
    MAX_LIFETIME_S,
    MIN_DEPOSIT_NANOTON,
    RENT_RESERVE_NANOTON,
)
from overlay.settlement.voucher import CLOSE_TAG, verify_cell_hash

NOT_PAYER, NOT_PAYEE, STATE, SIGNATURE, STALE, OVERDRAFT, EARLY = range(101, 108)
LOW_VALUE, EXPIRED, DOMAIN, LIFETIME, LOW_DEPOSIT = range(108, 113)
UNKNOWN_OP = 0xFFFF


class Mode(Enum):
    """How a message is paid for (the contract's send modes)."""

    EXACT = "exact"
    """The value arrives, its forward fee is paid beside it."""
    WITH_CHANGE = "with change"
    """The value and what is left of the incoming message's value, less the forward fee."""
    ALL = "all"
    """Everything that is not reserved, less the forward fee."""
    LAST = "last"
    """The same, and the account ends."""


@dataclass(frozen=True)
class Reserve:
    """Keep this much out of reach of the messages that follow."""

    nanoton: int


@dataclass(frozen=True)
class Send:
    """A message to a party: its operation and the numbers in its body."""

    to: str
    mode: Mode
    nanoton: int
    op: int
    query_id: int
    fields: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decision:
    """One way through the contract: ``exit_code`` 0 and a new ``state``, or the contract's refusal."""

    path: str
    exit_code: int
    state: StoredChannel | None = None
    actions: tuple[Reserve | Send, ...] = ()


@dataclass(frozen=True)
class Incoming:
    """A message to the channel. ``held_nanoton`` is what the account had before it, ``network_id`` the chain's own."""

    channel: str
    sender: str
    value_nanoton: int
    held_nanoton: int
    body: Any
    now: int
    network_id: int


class _Refused(Exception):
    def __init__(self, code: int, at: str = "") -> None:
        self.code, self.at = code, at


def _check(condition: bool, code: int, at: str = "") -> None:
    """``at`` tells apart the checks of one operation that fail with the same code."""
    if not condition:
        raise _Refused(code, at)


def decide(state: StoredChannel, message: Incoming) -> Decision:
    """What the contract does with ``message``. The body must be empty, of an unknown operation, or well formed."""
    body = message.body.begin_parse()
    op = body.load_uint(32) if body.remaining_bits >= 32 else None
    name, run = _OPERATIONS.get(op, ("unknown", None))
    if run is None:
        return Decision("unknown", UNKNOWN_OP)
    try:
        way, new, actions = run(state, message, body.load_uint(64), body)
    except _Refused as refusal:
        return Decision(f"{name} refused {refusal.code}{refusal.at}", refusal.code)
    return Decision(f"{name}{way}", 0, new, tuple(actions))


_Done = tuple[str, StoredChannel, list["Reserve | Send"]]


def _claim(state: StoredChannel, message: Incoming, query_id: int, body: Any) -> _Done:
    signature, close, cell = body.load_bytes(64), bool(body.load_bit()), body.load_ref()
    terms = state.terms
    _check(message.value_nanoton >= ATTACHED_MIN_NANOTON, LOW_VALUE)
    _check(verify_cell_hash(terms.payer_key, cell.hash, signature), SIGNATURE)
    voucher = cell.begin_parse()
    domain = (voucher.load_uint(32), voucher.load_int(32))
    _check(domain == (VOUCHER_TAG, terms.network_id), DOMAIN, " tag")
    _check(raw_address(voucher.load_address()) == message.channel, DOMAIN, " channel")
    voucher.load_uint(64)
    total = voucher.load_coins() or 0
    _check(state.deposit_nanoton >= total, OVERDRAFT)
    delta = total - state.paid_nanoton
    if close:
        _check(message.sender == terms.payee, NOT_PAYEE)
        _check(delta >= 0, STALE, " at the end")
        way, ended, sent = _settle(state, message, query_id, total)
        return f" and close{way}", ended, sent
    _check(delta > 0, STALE)
    paid = replace(state, paid_nanoton=total)
    if message.sender == terms.payee:
        return " by the payee", paid, [Send(terms.payee, Mode.WITH_CHANGE, delta, OP_PAYOUT, query_id, (total, delta))]
    return (
        " relayed",
        paid,
        [
            Reserve(message.held_nanoton - delta),
            Send(terms.payee, Mode.EXACT, delta, OP_PAYOUT, query_id, (total, delta)),
            Send(message.sender, Mode.ALL, 0, OP_EXCESSES, query_id),
        ],
    )


def _top_up(state: StoredChannel, message: Incoming, query_id: int, body: Any) -> _Done:
    terms, amount = state.terms, body.load_coins() or 0
    ahead = terms.expiry_s - message.now
    _check(message.sender == terms.payer, NOT_PAYER)
    _check(not state.closing, STATE)
    _check(terms.network_id == message.network_id, DOMAIN)
    _check(ahead > 0, EXPIRED)
    _check(ahead <= MAX_LIFETIME_S, LIFETIME, " expiry")
    _check(terms.challenge_period_s <= MAX_CHALLENGE_PERIOD_S, LIFETIME, " challenge")
    _check(amount > 0, LOW_DEPOSIT, " nothing")
    deposit = state.deposit_nanoton + amount
    _check(deposit >= MIN_DEPOSIT_NANOTON, LOW_DEPOSIT)
    keep = deposit - state.paid_nanoton + RENT_RESERVE_NANOTON
    _check(message.held_nanoton + message.value_nanoton >= keep + ATTACHED_MIN_NANOTON, LOW_VALUE)
    filled = replace(state, deposit_nanoton=deposit)
    if query_id == 0:
        return " unanswered", filled, []
    return "", filled, [Reserve(keep), Send(message.sender, Mode.ALL, 0, OP_EXCESSES, query_id)]


def _close_together(state: StoredChannel, message: Incoming, query_id: int, body: Any) -> _Done:
    payer_signature, payee_signature = body.load_bytes(64), body.load_ref().begin_parse().load_bytes(64)
    cell, terms = body.load_ref(), state.terms
    _check(message.value_nanoton >= ATTACHED_MIN_NANOTON, LOW_VALUE)
    _check(verify_cell_hash(terms.payer_key, cell.hash, payer_signature), SIGNATURE, " payer")
    _check(verify_cell_hash(terms.payee_key, cell.hash, payee_signature), SIGNATURE, " payee")
    agreement = cell.begin_parse()
    _check(agreement.load_uint(32) == CLOSE_TAG, DOMAIN, " tag")
    _check(agreement.load_int(32) == terms.network_id, DOMAIN, " network")
    _check(raw_address(agreement.load_address()) == message.channel, DOMAIN, " channel")
    amount, valid_until = agreement.load_coins() or 0, agreement.load_uint(32)
    _check(valid_until >= message.now, EXPIRED)
    _check(amount >= state.paid_nanoton, STALE)
    _check(state.deposit_nanoton >= amount, OVERDRAFT)
    return _settle(state, message, query_id, amount)


def _start_refund(state: StoredChannel, message: Incoming, query_id: int, body: Any) -> _Done:
    terms = state.terms
    _check(message.sender == terms.payer, NOT_PAYER)
    _check(not state.closing, STATE)
    _check(message.value_nanoton >= ATTACHED_MIN_NANOTON, LOW_VALUE)
    close_at = max(message.now, terms.expiry_s) + terms.challenge_period_s
    return (
        "",
        replace(state, closing=True, close_at_s=close_at),
        [
            Reserve(message.held_nanoton),
            Send(terms.payee, Mode.EXACT, 1, OP_REFUND_STARTED, query_id, (close_at,)),
            Send(message.sender, Mode.ALL, 0, OP_EXCESSES, query_id),
        ],
    )


def _finish_refund(state: StoredChannel, message: Incoming, query_id: int, body: Any) -> _Done:
    _check(message.value_nanoton >= ATTACHED_MIN_NANOTON, LOW_VALUE)
    _check(state.closing, STATE)
    _check(message.now >= state.close_at_s, EARLY)
    return _settle(state, message, query_id, state.paid_nanoton)


def _settle(state: StoredChannel, message: Incoming, query_id: int, total: int) -> _Done:
    """Both get what is theirs, the sender the change, and the account ends."""
    payer, payee, sender = state.terms.payer, state.terms.payee, message.sender
    delta = total - state.paid_nanoton
    back = max(message.held_nanoton - delta, 0)
    payout, refund = (OP_PAYOUT, query_id, (total, delta)), (OP_REFUND, query_id, (total, back))
    if sender == payee:
        sent = [Send(payer, Mode.EXACT, back, *refund), Send(payee, Mode.LAST, 0, *payout)]
        return " by the payee", state, [*sent]
    first = [Send(payee, Mode.EXACT, delta, *payout)] if delta > 0 else []
    what = "" if delta > 0 else ", nothing due"
    if sender == payer:
        return f" by the payer{what}", state, [*first, Send(payer, Mode.LAST, 0, *refund)]
    last = [Send(payer, Mode.EXACT, back, *refund), Send(sender, Mode.LAST, 0, OP_EXCESSES, query_id)]
    return f" by another{what}", state, [*first, *last]


_OPERATIONS: dict[int | None, Any] = {
    OP_CLAIM: ("claim", _claim),
    OP_TOP_UP: ("top up", _top_up),
    OP_CLOSE_TOGETHER: ("close together", _close_together),
    OP_START_REFUND: ("start refund", _start_refund),
    OP_FINISH_REFUND: ("finish refund", _finish_refund),
}
