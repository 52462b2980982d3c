"""What the messages that a channel sends to a wallet say (contract/channel.tolk): their bodies, read back."""

from __future__ import annotations

from typing import Any

from overlay.settlement.transactions import Message

_HEAD_BITS = 32 + 64
"""``op:uint32 queryId:uint64``, with which every one of them begins."""


def payout_total(body: Any) -> int:
    """All that the payee has been paid with this ``Payout``: ``[seq:uint64] cumulative:coins …`` after the head."""
    cursor = body.begin_parse()
    cursor.skip_bits(_HEAD_BITS)
    if cursor.remaining_bits % 8 == 4:  # one sum, of half a byte and some bytes: the form with a sequence number
        cursor.skip_bits(64)
    return int(cursor.load_coins() or 0)


def refund_total(body: Any) -> int | None:
    """All that the payee had been paid when this ``Refund`` left, where it says so: ``cumulative:coins …``."""
    cursor = body.begin_parse()
    cursor.skip_bits(_HEAD_BITS)
    return int(cursor.load_coins() or 0) if cursor.remaining_bits else None


def amount_paid(message: Message) -> int:
    """What a ``Payout`` or ``Refund`` itself pays: ``cumulative:coins amount:coins``, else its whole value."""
    cursor = message.body.begin_parse()
    cursor.skip_bits(_HEAD_BITS)
    if cursor.remaining_bits and cursor.remaining_bits % 8 == 0:
        cursor.load_coins()
        return int(cursor.load_coins() or 0)
    return message.value_nanoton
