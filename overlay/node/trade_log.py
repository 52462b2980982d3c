"""What a negotiation looks like to its user: a line for each step, and the reason of the award."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from compute.tasks import Task
from compute.usage import Unit
from overlay.events import EventLog, prices_text
from overlay.market import Agreed, Agreement, Asked, Candidate, Countered, Declined, Quoted, Trace, Want
from transport.identity import PeerId

_MAIN_UNIT = {Task.TRANSCRIBE: (Unit.AUDIO_MS, "ms of audio"), Task.EMBED: (Unit.EMBEDDING, "tokens")}


@dataclass
class TradeLog:
    """An observer of one negotiation (:data:`overlay.market.Observer`)."""

    log: EventLog
    want: Want
    value_of_time_nanoton_per_s: int
    speeds: dict[PeerId, int]
    """Units a second that each candidate claims; 0 where it claims nothing."""
    _quotes: dict[PeerId, Quoted] = field(default_factory=dict)

    @classmethod
    def of(cls, log: EventLog, want: Want, value_of_time: int, candidates: Iterable[Candidate]) -> TradeLog:
        """For a negotiation with ``candidates``."""
        return cls(log, want, value_of_time, {c.provider: round(c.units_per_s) for c in candidates})

    def __call__(self, event: Trace) -> None:
        """Tell of one step."""
        match event:
            case Asked(provider, asks, cost):
                speed = self.speeds.get(provider, 0)
                claim = f" and claims {speed} {self._unit[1]}/s" if speed else ""
                self.log.info(
                    "asked", f"asking …{provider[-8:]}, which asks {prices_text(asks.to_wire())}{claim}",
                    provider=provider, prices=asks.to_wire(), cost_nanoton=cost, units_per_s=speed,
                )  # fmt: skip
            case Quoted(provider, prices, start_ms, cost, last_word):
                self._quotes[provider] = event
                word = "has the last word:" if last_word else "quotes"
                start = f", starting in {start_ms} ms" if start_ms else ""
                self.log.info(
                    "quoted", f"…{provider[-8:]} {word} {prices_text(prices.to_wire())}{start}",
                    provider=provider, prices=prices.to_wire(), start_ms=start_ms, cost_nanoton=cost,
                    last_word=last_word,
                )  # fmt: skip
            case Declined(provider, reason, explanation):
                text = f"…{provider[-8:]} declines: {explanation}"
                self.log.info("declined", text, provider=provider, reason=str(reason))
            case Countered(provider, prices, cost):
                text = f"countering …{provider[-8:]} with {prices_text(prices.to_wire())}"
                self.log.info("countered", text, provider=provider, prices=prices.to_wire(), cost_nanoton=cost)
            case Agreed(agreement):
                self._agreed(agreement)

    def _agreed(self, agreement: Agreement) -> None:
        body = agreement.body
        price, why = prices_text(body.prices.to_wire()), self._why(body.provider)
        self.log.info(
            "agreed", f"agreed with …{body.provider[-8:]} on {price} for {body.model}" + (f": {why}" if why else ""),
            provider=body.provider, task=str(self.want.task), model=body.model, prices=body.prices.to_wire(),
            agreement=agreement.id.hex(), why=why,
        )  # fmt: skip

    def _why(self, winner: PeerId) -> str:
        """Why the award went to ``winner`` although another one quoted less; empty when nobody did."""
        won = self._quotes.get(winner)
        if won is None:
            return ""
        cheapest = min(self._quotes.values(), key=lambda quote: quote.cost_nanoton)
        dearer_by = won.cost_nanoton - cheapest.cost_nanoton
        if dearer_by <= 0:
            return ""
        sooner_s = self._seconds(cheapest) - self._seconds(won)
        if sooner_s <= 0:
            return f"…{cheapest.provider[-8:]} is cheaper and did not come to an agreement"
        worth = round(sooner_s * self.value_of_time_nanoton_per_s)
        return (
            f"{sooner_s:.1f} s sooner than …{cheapest.provider[-8:]}, which is worth {worth} nanoTON to you "
            f"(market.value_of_time_nanoton_per_s) and costs {dearer_by} more"
        )

    def _seconds(self, quote: Quoted) -> float:
        speed = self.speeds.get(quote.provider, 0)
        return quote.start_ms / 1000 + (self.want.usage.get(self._unit[0]) / speed if speed else 0.0)

    @property
    def _unit(self) -> tuple[Unit, str]:
        return _MAIN_UNIT.get(self.want.task, (Unit.COMPLETION, "tokens"))
