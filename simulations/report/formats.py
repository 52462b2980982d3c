"""Numbers for people. What was not measured, or is no number, is a dash; money is rounded as an integer, never through
a float."""

from __future__ import annotations

import math

from overlay.events import ton

NONE = "–"
MINUS = "\N{MINUS SIGN}"


def money(nanoton: float | None, *, digits: int = 4) -> str:
    """An amount in TON with so many significant digits: ``12.35 TON``. Floats are means, never sums."""
    if nanoton is None or not math.isfinite(nanoton):
        return NONE
    amount = abs(round(nanoton))
    step: int = 10 ** max(0, len(str(amount)) - digits)
    text = ton((amount + step // 2) // step * step).replace(".0 TON", " TON")
    return (MINUS if nanoton < 0 and text != "0 TON" else "") + text


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, thousands apart: ``20,000``, ``0.0123``."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    if not 1e-12 < abs(value) < 1e15:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{abs(value):,.{places}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return (MINUS if value < 0 and text != "0" else "") + text


def count(value: int) -> str:
    """A whole number, thousands apart."""
    return f"{value:,}".replace("-", MINUS)


def share(value: float | None) -> str:
    """A fraction as a percentage with one decimal."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{100 * value:.1f} %".replace("-", MINUS) if abs(value) < 1e6 else f"{number(100 * value)} %"


def seconds(value: float | None) -> str:
    """A span: ``0.42 s``, ``12 s``, ``95 s``."""
    return NONE if value is None or not math.isfinite(value) else f"{number(value)} s"


def clock(at_s: float) -> str:
    """A moment of the run: ``4:05``, ``1:02:03``; tenths where the moment is no whole second."""
    if not math.isfinite(at_s):
        return NONE
    tenths = round(abs(at_s) * 10)
    whole, tenth = divmod(tenths, 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    text = f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return (MINUS if at_s < 0 else "") + text + (f".{tenth}" if tenth else "")


def size(count_bytes: float | None) -> str:
    """Bytes: ``512 B``, ``12.3 MiB``."""
    if count_bytes is None or not math.isfinite(count_bytes):
        return NONE
    value = float(count_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{number(value)} {unit}"
        value /= 1024
    return f"{number(value)} TiB"


def plural(amount: int, noun: str, nouns: str = "") -> str:
    """``1 job``, ``3 jobs``, ``2 happenings``."""
    return f"{count(amount)} {noun if amount == 1 else nouns or noun + 's'}"
