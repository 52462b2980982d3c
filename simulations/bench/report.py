"""What a benchmark prints: one document, a row for each measure, medians with their samples.

    {"bench", "commit", "machine", "rows": [{"id", "measure", "value", "unit", "reach", "ok", "samples"}]}

`reach` is the mark that the project set itself, as text (`≥ 400`), `ok` whether the value meets it, or null where a
row only informs. Absolute times of a shared machine mean little: rows that can, carry the rate of a peer measured in
the same run and the ratio to it.
"""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from simulations.commit import commit

if TYPE_CHECKING:
    from overlay.cli.output import Output


@dataclass(frozen=True)
class Row:
    """One measure. ``samples`` are in ``unit`` and in the order taken; ``value`` is usually their median."""

    id: str
    measure: str
    value: float | None
    unit: str
    reach: str = ""
    ok: bool | None = None
    samples: Sequence[float] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


def row(
    id: str,
    measure: str,
    samples: Sequence[float],
    unit: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    **extra: Any,
) -> Row:
    """A row whose value is the median of ``samples``, judged against a bound if one is given."""
    value = statistics.median(samples) if samples else None
    reach, ok = "", None
    if at_least is not None:
        reach, ok = f"≥ {at_least:g}", value is not None and value >= at_least
    elif at_most is not None:
        reach, ok = f"≤ {at_most:g}", value is not None and value <= at_most
    return Row(id, measure, _round(value), unit, reach, ok, [_round(s) or 0.0 for s in samples], extra)


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of ``samples``, which must not be empty."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def document(bench: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The whole document; ``extra`` of a row is merged into it."""
    flat = []
    for item in rows:
        plain = asdict(item)
        plain.update(plain.pop("extra"))
        flat.append(plain)
    return {"bench": bench, "commit": commit(), "machine": machine(), "rows": flat}


def show(report: dict[str, Any], output: Output) -> None:
    """The document for people: a line a row, with what it has beside its value."""
    where = report["machine"]
    output.line(f"{where['cpu']}, {where['cores']} cores, Python {where['python']}, commit {report['commit']}")
    known = {item.name for item in fields(Row)} | {"parts", "met", "quick"}
    rows = []
    for line in report["rows"]:
        value = "-" if line["value"] is None else f"{line['value']:g} {line['unit']}"
        verdict = {True: "yes", False: "NO", None: "-"}[line["ok"]]
        extras = ", ".join(f"{key} {_shown(line[key])}" for key in line if key not in known)
        rows.append((line["measure"], value, line["reach"], verdict, extras))
        rows += [_part(part) for part in line.get("parts", ())]
    output.table("Benchmark", ["measure", "value", "mark", "met", "beside it"], rows, empty="nothing was measured")


def _part(part: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """One of several figures of a row."""
    value = "-" if part["value"] is None else f"{part['value']:g} {part['unit']}"
    beside = {key: part[key] for key in part if key not in ("id", "measure", "value", "unit", "mark", "met", "samples")}
    extras = ", ".join(f"{key} {_shown(value)}" for key, value in beside.items())
    return f"  … {part['measure']}", value, part["mark"], {True: "yes", False: "NO", None: "-"}[part["met"]], extras


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_shown(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def machine() -> dict[str, Any]:
    """What the numbers were taken on; never its name or address."""
    return {
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load_1m": round(psutil.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
