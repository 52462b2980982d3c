"""The rows of `cocoon bench sim` that are about the market alone, and what is measured for them.

Each seed and each deviation is a job for one of two processes; a value is the mean of the seeds, with every seed beside
it. The same seed gives the same numbers on every machine.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from typing import Any

from simulations.bench.report import Row
from simulations.market.baselines import Cocoon, Golem
from simulations.market.deviations import DEVIATIONS, Deviation, gain, honest, setting
from simulations.market.floor import Floor, Policy
from simulations.market.measure import efficiency, move, prices, service, variation, windows
from simulations.market.ours import Options, Ours
from simulations.market.workload import make_workload, shocks

PROVIDERS, QUICK_PROVIDERS = 60, 20
SEEDS = 5
AT_ONCE = 2

_POLICIES = ("ours", "standing", "cocoon", "golem")
_MARKS = {"steady": 0.96, "x2": 0.96, "x2 first": 0.955, "loss first": 0.90}
_WORDS = {
    "steady": "steady", "x2": "demand ×2, settled", "x2 first": "demand ×2, first 60 s",
    "loss first": "−30 % supply, first 60 s",
}  # fmt: skip
_MOVES = {"x2": ("doubles", 45.0, 0.10), "half": ("halves", 25.0, None), "loss": ("meets 30 % less supply", 55.0, 0.20)}


def _policy(name: str) -> Policy:
    match name:
        case "ours":
            return Ours()
        case "standing":
            return Ours(Options(standing_s=60.0))
        case "cocoon":
            return Cocoon()
        case _:
            return Golem()


def measured(seed: int, providers: int, quick: bool, policy: str) -> dict[str, Any]:
    """One run of one policy through the shocks: every number by name."""
    segments = shocks(90.0, 90.0) if quick else shocks()
    workload = make_workload(seed, providers=providers, segments=segments)
    floor = Floor(workload, _policy(policy)).run()
    series = prices(floor)
    return {
        "efficiency": {name: efficiency(floor, name) for name in windows(workload)},
        "moves": {s.name: asdict(move(series, s)) for s in workload.segments[1:]},
        "variation": variation(series, windows(workload)["steady"]),
        "service": asdict(service(floor, "steady")),
    }


def deviated(seed: int, providers: int, quick: bool) -> dict[str, float]:
    """The gain of every deviation in the market of one seed."""
    before = honest(setting(seed, providers, 180.0 if quick else 420.0))
    return {deviation.name: gain(deviation, before) for deviation in DEVIATIONS}


def market_rows(quick: bool, *, seeds: int = 0, providers: int = 0) -> list[Row]:
    """All rows; ``seeds`` and ``providers`` replace the defaults. Quick runs show that all is there; they are too short
    and too small for the marks. Takes seconds, or about five minutes of CPU."""
    seeds = seeds or (1 if quick else SEEDS)
    providers = providers or (QUICK_PROVIDERS if quick else PROVIDERS)
    numbers = range(1, seeds + 1)
    with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn")) as pool:
        runs = {name: [pool.submit(measured, n, providers, quick, name) for n in numbers] for name in _POLICIES}
        pairs = [pool.submit(deviated, n, max(12, providers * 2 // 3), quick) for n in numbers]
        results = {name: [run.result() for run in found] for name, found in runs.items()}
        gains = [pair.result() for pair in pairs]
    return [
        *_efficiency_rows(results), *_move_rows(results["ours"]), *_service_rows(results),
        *(_gain_row(deviation, [found[deviation.name] for found in gains]) for deviation in DEVIATIONS),
    ]  # fmt: skip


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _row(
    id: str, measure: str, samples: Sequence[float], unit: str, *,
    at_least: float | None = None, at_most: float | None = None, **extra: Any,
) -> Row:  # fmt: skip
    """A row whose value is the mean of the seeds, held against a mark if there is one."""
    samples = [sample for sample in samples if not math.isnan(sample)]
    if not samples:
        return Row(id, measure, None, unit)
    value = _short(statistics.fmean(samples))
    reach, ok = "", None
    if at_least is not None:
        reach, ok = f"≥ {at_least:g}", value >= at_least
    elif at_most is not None:
        reach, ok = f"≤ {at_most:g}", value <= at_most
    return Row(id, measure, value, unit, reach, ok, [_short(sample) for sample in samples], extra)


def _efficiency_rows(results: dict[str, list[dict[str, Any]]]) -> list[Row]:
    rows = []
    for window, mark in _MARKS.items():
        found = {name: [run["efficiency"][window] for run in results[name]] for name in _POLICIES}
        means = {name: _short(statistics.fmean(values)) for name, values in found.items()}
        id = "market-" + window.replace(" ", "-")
        row = _row(
            id, f"the market, {_WORDS[window]}: surplus over the bound", found["ours"], "of 1", at_least=mark,
            cocoon=means["cocoon"], golem=means["golem"], agreements_of_60_s=means["standing"],
        )  # fmt: skip
        rows.append(row)
    above = min(
        min(run["efficiency"][w] - other["efficiency"][w] for w in _MARKS)
        for name in ("cocoon", "golem")
        for run, other in zip(results["ours"], results[name], strict=True)
    )
    rows.append(Row("market-above", "the market: least lead over both baselines, in any of these windows and any seed",
                    _short(above), "of 1", "> 0", above > 0))  # fmt: skip
    return rows


def _move_rows(runs: Sequence[dict[str, Any]]) -> list[Row]:
    rows = []
    for name, (words, mark_s, beyond) in _MOVES.items():
        moves = [run["moves"][name] for run in runs]
        seconds = [found["seconds"] for found in moves]
        rows.append(_row(f"market-{name}-s", f"the price when it {words}: within 5 % of the new level", seconds, "s",
                         at_most=mark_s))  # fmt: skip
        if beyond is not None:
            over = [found["overshoot"] for found in moves]
            rows.append(_row(f"market-{name}-overshoot", f"the price when it {words}: how far beyond the new level",
                             over, "of 1", at_most=beyond))  # fmt: skip
    variations = [run["variation"] for run in runs]
    rows.append(_row("market-variation", "the steady price: standard deviation over mean",
                     variations, "of 1", at_most=0.02))  # fmt: skip
    return rows


def _service_rows(results: dict[str, list[dict[str, Any]]]) -> list[Row]:
    rows = []
    for field, words, unit in (
        ("refused", "valuable jobs not done in time", "of 1"), ("wait_s", "mean wait for a start", "s"),
        ("messages", "messages a trade", ""),
    ):  # fmt: skip
        beside = {
            name: _short(statistics.fmean(run["service"][field] for run in results[name]))
            for name in ("cocoon", "golem", "standing")
        }
        samples = [run["service"][field] for run in results["ours"]]
        rows.append(_row(f"market-{field.removesuffix('_s')}", f"the market, steady: {words}", samples, unit, **beside))
    return rows


def _gain_row(deviation: Deviation, samples: Sequence[float]) -> Row:
    at_most = None
    if deviation.row:
        at_most = 0.03 if deviation.by == "client" else 0.07
    samples = [sample for sample in samples if not math.isnan(sample)]  # of a seed in which nobody could deviate
    error = statistics.stdev(samples) / math.sqrt(len(samples)) if len(samples) > 1 else math.nan
    extra = {} if math.isnan(error) else {"standard_error": _short(error)}
    who = {"client": "a client", "provider": "a provider"}.get(deviation.by, "a party")
    return _row(
        f"gain-{deviation.name}", f"gain of {who} that {deviation.text}", samples, "of 1", at_most=at_most, **extra
    )
