"""One job at the client: counts what comes, holds the counts against what is possible, and holds the money aside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compute.tasks import Event, Request
from compute.usage import Prices
from overlay.jobs.limits import PAY_EARLY_DIVISOR
from overlay.jobs.metering import JobMeter, Plausibility
from overlay.settlement.ledger import Hold

if TYPE_CHECKING:
    from overlay.jobs.payer import PayerChannel


class PayerJob:
    """One job as the client counts it."""

    def __init__(
        self,
        channel: PayerChannel,
        job_id: bytes,
        agreement_id: bytes,
        prices: Prices,
        window_nanoton: int,
        request: Request,
        hold: Hold,
        stake: Hold | None,
    ) -> None:
        self.job_id = job_id
        self.hold = hold
        self.stake = stake
        self.handshake_hash = channel.handshake_hash
        self.agreement_id = agreement_id
        self.ended = False
        self._channel = channel
        self._meter = JobMeter(prices)
        self._plausibility = Plausibility(request)
        self._early = window_nanoton // PAY_EARLY_DIVISOR

    @property
    def meter(self) -> JobMeter:
        """What came so far."""
        return self._meter

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of text that came so far."""
        return self._plausibility.text_bytes

    @property
    def void(self) -> bool:
        """Whether the channel has begun anew on another tunnel: what this one's streams still hold does not count."""
        return self.handshake_hash != self._channel.handshake_hash

    def close(self, total_nanoton: int) -> None:
        """The job has its final sum."""
        self.hold.close(total_nanoton)
        self.over()

    def over(self) -> None:
        """Nothing comes any more: the rest of what was set aside is free again, and nothing is at risk."""
        self.hold.give_back()
        if self.stake is not None:
            self.stake.close()

    def take(self, events: Sequence[Event]) -> bool:
        """Count events that arrived; returns whether a payment is due.

        Events of a tunnel that was followed by another are not counted: the claim for them was made, and is settled.
        Raises :class:`Overcharged` when the provider's counts are impossible or exceed what was set aside; the channel
        is then disputed and nothing of these events is owed.
        """
        if self.void:
            return False
        wrong = self._plausibility.check(events)
        hold = self.hold
        if wrong is None:
            cost = self._meter.cost_with(events)
            if not hold.fits(cost):
                wrong = f"{cost} nanoTON for a job of at most {hold.maximum_nanoton}"
        if wrong is not None:
            raise self._channel.overcharged(wrong)
        hold.apply(self._meter.add(events))
        if self.stake is not None and not self.stake.closed:
            self.stake.apply(hold.applied_nanoton)
        return self._channel.pay_beyond(self._early)
