"""What the messages that a channel sends to a wallet say (contract/channel.tolk): their bodies, read back."""

from __future__ import annotations

from typing import Any

from overlay.settlement.transactions import Message

_HEAD_BITS = 32 + 64
"""``op:uint32 queryId:uint64``, with which every one of them begins."""


def cumulative(body: Any) -> int:
    """All that the payee has been paid with this ``Payout``, or had been when this ``Refund`` left, in nanoTON."""
    return _sums(body)[0]


def amount_paid(message: Message) -> int:
    """What a ``Payout`` or ``Refund`` itself pays, in nanoTON; its value beyond that is change."""
    return _sums(message.body)[1]


def _sums(body: Any) -> tuple[int, int]:
    """``cumulative:coins amount:coins``, which follow the head."""
    cursor = body.begin_parse()
    cursor.skip_bits(_HEAD_BITS)
    return int(cursor.load_coins() or 0), int(cursor.load_coins() or 0)
