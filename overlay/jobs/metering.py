"""What a job has used and what that costs, counted by each side from the events it saw."""

from __future__ import annotations

from collections.abc import Sequence

from compute.estimate import estimate_usage
from compute.tasks import ChatRequest, CompletionRequest, Event, RawDelta, Request, TextDelta
from compute.usage import MAX_COUNT, UNITS_PER_PRICE, Prices, Unit, Usage
from overlay.jobs.limits import COMPLETION_SLACK_TOKENS

_WHOLE = {unit: unit for unit in Unit} | {Unit.CACHED: Unit.PROMPT, Unit.REASONING: Unit.COMPLETION}
"""Which bound a unit counts against: a cached token is a prompt token, a reasoning token a completion's."""


class JobMeter:
    """Adds up the units of one job's events and keeps its cost, ``Prices.cost_nanoton`` of the sum, up to date."""

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        self._counts: dict[Unit, int] = {}
        self._micro = 0

    def cost_with(self, events: Sequence[Event]) -> int:
        """What the job would cost, in nanoTON, with ``events`` added; changes nothing."""
        micro = self._micro
        per_million = self.prices.per_million
        for event in events:
            for unit, count in event.units.counts.items():
                micro += per_million.get(unit, 0) * count
        return -(-micro // UNITS_PER_PRICE)

    def add(self, events: Sequence[Event]) -> int:
        """Count ``events``; returns the job's cost so far in nanoTON. Raises ``ValueError`` when a count overflows."""
        counts = self._counts
        per_million = self.prices.per_million
        for event in events:
            for unit, count in event.units.counts.items():
                counts[unit] = summed = counts.get(unit, 0) + count
                if summed > MAX_COUNT:
                    raise ValueError(f"{unit}: the sum exceeds {MAX_COUNT}")
                self._micro += per_million.get(unit, 0) * count
        return self.cost_nanoton

    @property
    def cost_nanoton(self) -> int:
        """The cost so far: the exact sum, rounded up once."""
        return -(-self._micro // UNITS_PER_PRICE)

    def usage(self) -> Usage:
        """The units so far."""
        return Usage(dict(self._counts))


class Plausibility:
    """What the client can hold the provider's counts against: its own request and the text that came.

    Prompt tokens are bounded by the prompt's bytes, audio by the client's own measure, completion tokens by
    ``max_tokens`` and by the bytes of text that came (:data:`COMPLETION_SLACK_TOKENS` may be invisible). Tokens of
    reasoning that is not shown are bounded by ``max_tokens`` alone.
    """

    def __init__(self, request: Request) -> None:
        self._bound = estimate_usage(request)
        self._textual = isinstance(request, ChatRequest | CompletionRequest)
        self._used: dict[Unit, int] = {}
        self._visible = 0
        self._slack = COMPLETION_SLACK_TOKENS
        if isinstance(request, ChatRequest | CompletionRequest):
            self._slack += max((len(stop.encode()) for stop in request.sampling.stop), default=0)
        self.text_bytes = 0
        """UTF-8, of the answer so far."""

    def check(self, events: Sequence[Event]) -> str | None:
        """Count ``events``; returns what is wrong with the counts so far, or ``None``."""
        used = self._used
        for event in events:
            if self._textual:
                if type(event) is TextDelta:
                    self.text_bytes += len(event.text) if event.text.isascii() else len(event.text.encode())
                elif type(event) is RawDelta:
                    self.text_bytes += len(event.json.encode())
            for unit, count in event.units.counts.items():
                whole = _WHOLE[unit]
                used[whole] = used.get(whole, 0) + count
                if unit is Unit.COMPLETION:
                    self._visible += count
        for whole, total in used.items():
            if total > self._bound.get(whole):
                return f"{total} {whole} units, where this request can use {self._bound.get(whole)} at most"
        most = self.text_bytes + self._slack
        if self._visible > most:
            return f"{self._visible} completion tokens for an answer that can have {most} at most"
        return None


def most_it_can_cost(request: Request, prices: Prices, *, context: int = 0) -> int:
    """An upper bound on a job's cost in nanoTON: what to reserve for it. ``context`` is the model's, 0 if unknown."""
    bound = estimate_usage(request, context=context)
    per_million = prices.per_million
    worst = dict(per_million)
    for unit, whole in _WHOLE.items():
        worst[whole] = max(worst.get(whole, 0), per_million.get(unit, 0))
    return Prices(worst).cost_nanoton(bound)


def least(one: Usage, other: Usage) -> Usage:
    """The smaller count of each unit."""
    return Usage({unit: min(count, other.get(unit)) for unit, count in one.counts.items()})
