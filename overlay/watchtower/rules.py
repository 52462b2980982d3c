"""What a watchtower does with a channel that it watches, and for whom. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from overlay.settlement import ChannelTerms
from overlay.settlement.chain import ChannelState
from overlay.watchtower.limits import (
    CLAIM_COST_NANOTON,
    CLOSE_MARGIN_S,
    EXPIRY_MARGIN_S,
    MAX_CHANNELS,
    MAX_CHANNELS_PER_PEER,
    MIN_CHALLENGE_PERIOD_S,
    PATIENCE_S,
)

ANYONE = "*"
"""Stands for every peer in the list of whom a tower serves."""


@dataclass(frozen=True)
class TowerPolicy:
    """Whom a tower serves (peer ids, or :data:`ANYONE`), what claims for one of them may cost it in 30 days, and how
    long it lets one that may be there claim by itself."""

    serve: Collection[str]
    allowance_nanoton: int
    patience_s: int = PATIENCE_S

    def serves(self, peer: str) -> bool:
        """Whether ``peer`` may hand vouchers over."""
        return peer in self.serve or ANYONE in self.serve


@dataclass(frozen=True)
class PeerUse:
    """What a payee takes of its tower: channels watched that have not ended, and what claims for it cost in 30 days."""

    channels: int
    spent_nanoton: int


def why_not(
    policy: TowerPolicy, peer: str, terms: ChannelTerms, network_id: int, use: PeerUse, all_channels: int
) -> str | None:
    """The reason to refuse a channel that is new here, before the chain is asked; ``None`` when there is none."""
    if not policy.serves(peer):
        return f"this watchtower does not serve {peer}; its owner can, with watchtower.serve"
    if terms.network_id != network_id:
        return f"the channel is of TON network {terms.network_id}; this watchtower is on {network_id}"
    if terms.challenge_period_s < MIN_CHALLENGE_PERIOD_S:
        return f"a challenge period below {MIN_CHALLENGE_PERIOD_S} s is too short to be kept"
    if use.channels >= MAX_CHANNELS_PER_PEER:
        return f"{use.channels} of your channels are watched here, which is the most"
    if all_channels >= MAX_CHANNELS:
        return "this watchtower has as many channels as it can look after"
    if use.spent_nanoton + (use.channels + 1) * CLAIM_COST_NANOTON > policy.allowance_nanoton:
        return (
            f"the allowance of {policy.allowance_nanoton} nanoTON in 30 days is used: {use.spent_nanoton} were spent "
            f"on claims, and {use.channels} channels may need one"
        )
    return None


def claims_from_s(seen_closing_s: int, close_at_s: int, patience_s: int) -> int:
    """Until then the payee may claim by itself, when a refund was seen to start."""
    patient = seen_closing_s + min(patience_s, max(0, close_at_s - seen_closing_s) // 4)
    return min(patient, close_at_s - CLOSE_MARGIN_S)


def must_claim(
    terms: ChannelTerms,
    amount_nanoton: int,
    state: ChannelState,
    seen_closing_s: int | None,
    patience_s: int,
    now_s: int,
) -> bool:
    """Whether the tower claims now. ``seen_closing_s``: when it first saw that a refund had started."""
    if state.status not in ("open", "closing") or state.paid_nanoton >= amount_nanoton:
        return False
    if state.status == "open":
        return terms.expiry_s - now_s <= EXPIRY_MARGIN_S
    seen = now_s if seen_closing_s is None else seen_closing_s
    return now_s >= claims_from_s(seen, state.close_at_s, patience_s)
