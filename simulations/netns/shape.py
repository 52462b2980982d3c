"""What a network does to packets (delay, jitter, loss, rate), as options say it: ``40ms``, ``1%``, ``20mbit``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from overlay.errors import ConfigError
from simulations.netns.limits import MAX_DELAY_S, MAX_RATE_BIT_S, MIN_RATE_BIT_S

_NUMBER = r"(?P<number>\d+(?:\.\d+)?)"
_DURATION = re.compile(_NUMBER + r"\s*(?P<unit>us|ms|s|m|h)")
_RATE = re.compile(_NUMBER + r"\s*(?P<unit>kbit|mbit|gbit)", re.I)
_SHARE = re.compile(_NUMBER + r"\s*%")

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BITS = {"kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}


@dataclass(frozen=True)
class Shape:
    """The same for every pair of machines, one way.

    ``delay_s`` ± ``jitter_s`` is what a packet takes from one machine to another, so a round trip takes twice that;
    ``loss`` is the share of packets that are lost on the way; ``rate_bit_s`` is each machine's line, up and down.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    rate_bit_s: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.delay_s <= MAX_DELAY_S:
            raise ConfigError(f"--delay is at most {MAX_DELAY_S:g} s")
        if not 0 <= self.jitter_s <= self.delay_s:
            raise ConfigError("--jitter is at most --delay: no packet arrives before it was sent")
        if not 0 <= self.loss < 1:
            raise ConfigError("--loss is less than 100 %: a network that loses everything is a partition")
        if self.rate_bit_s is not None and not MIN_RATE_BIT_S <= self.rate_bit_s <= MAX_RATE_BIT_S:
            raise ConfigError(f"--rate lies between {MIN_RATE_BIT_S // 1000} kbit and {MAX_RATE_BIT_S // 10**9} gbit")

    @property
    def only_rate(self) -> bool:
        """Whether the kernel's tbf is enough."""
        return not (self.delay_s or self.jitter_s or self.loss)

    def __str__(self) -> str:
        parts = []
        if self.delay_s:
            jitter = f" ± {self.jitter_s * 1000:g} ms" if self.jitter_s else ""
            parts.append(f"{self.delay_s * 1000:g} ms{jitter} one way")
        if self.loss:
            parts.append(f"{self.loss * 100:g} % loss")
        if self.rate_bit_s is not None:
            parts.append(f"{self.rate_bit_s / 1e6:g} Mbit/s each way")
        return ", ".join(parts) or "no delay"


def duration_s(text: str, option: str) -> float:
    """Seconds of ``40ms``, ``5s`` or ``2m``. Raises :class:`~overlay.errors.ConfigError`, naming ``option``."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{option}: {text!r} is no duration; write it like 40ms, 5s or 2m")
    return float(match["number"]) * _SECONDS[match["unit"]]


def share(text: str, option: str) -> float:
    """The fraction that ``1%`` is. Raises :class:`~overlay.errors.ConfigError`, naming ``option``."""
    match = _SHARE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{option}: {text!r} is no percentage; write it like 1% or 0.5%")
    return float(match["number"]) / 100


def rate_bit_s(text: str, option: str) -> int:
    """Bits a second of ``20mbit``. Raises :class:`~overlay.errors.ConfigError`, naming ``option``."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{option}: {text!r} is no rate; write it like 500kbit, 20mbit or 1gbit")
    return round(float(match["number"]) * _BITS[match["unit"].lower()])
