"""What became of a channel that somebody settled or left."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settlement:
    """How a channel ended, or how far leaving it has come.

    ``paid_nanoton`` is what the provider got in all, ``refund_nanoton`` what of the deposit came back to the client,
    ``gained_nanoton`` what this very step brought to us, ``fee_nanoton`` what it cost us, ``transaction`` the one that
    did it. ``done`` says that nothing is left to do; otherwise the same command does the rest from ``next_at_s`` (Unix
    seconds) on."""

    channel: str
    peer: str
    action: str
    paid_nanoton: int
    refund_nanoton: int
    fee_nanoton: int
    transaction: str
    text: str
    done: bool = True
    next_at_s: int | None = None
    gained_nanoton: int = 0
