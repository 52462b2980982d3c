"""What a negotiation looks like from the client's chair: events for whoever watches it (`cocoon demo`, `cocoon quote`).

They are shown, never acted on. ``cost_nanoton`` is what the expected job would cost at the prices given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compute.usage import Prices
from overlay.market.agreement import Agreement
from overlay.market.messages import Reason
from transport.identity import PeerId


@dataclass(frozen=True)
class Asked:
    """A request for a quote goes out; ``asks`` is what the index says the provider asks."""

    provider: PeerId
    asks: Prices
    cost_nanoton: int


@dataclass(frozen=True)
class Quoted:
    """A binding quote came in; ``last_word`` when it answers a counter."""

    provider: PeerId
    prices: Prices
    start_ms: int
    cost_nanoton: int
    last_word: bool


@dataclass(frozen=True)
class Declined:
    """There will be no agreement with this provider, and why."""

    provider: PeerId
    reason: Reason
    explanation: str


@dataclass(frozen=True)
class Countered:
    """Every quote was too dear: these prices are proposed instead."""

    provider: PeerId
    prices: Prices
    cost_nanoton: int


@dataclass(frozen=True)
class Agreed:
    """Both have signed."""

    agreement: Agreement


Trace = Asked | Quoted | Declined | Countered | Agreed

_SILENT = (Reason.UNREACHABLE, Reason.NO_ANSWER)


def silent(event: Trace) -> bool:
    """Whether a provider was not there when it was asked: it is not worth asking again for a while."""
    return isinstance(event, Declined) and event.reason in _SILENT


Observer = Callable[[Trace], None]
"""Called in order, from the negotiating task; must be quick and must not raise."""


def ignore(_event: Trace) -> None:
    """An observer that looks away."""
