"""``python -m simulations.world SCENARIO.toml --seed N [--duration S]``: one run, its main figures as JSON."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import msgspec

from simulations.results import RunResult
from simulations.scenarios.model import Scenario
from simulations.world.running import run


def read(path: Path) -> Scenario:
    """A scenario from its file, its name that of the file."""
    decoded = msgspec.convert(msgspec.toml.decode(path.read_bytes()), Scenario)
    return msgspec.structs.replace(decoded, name=decoded.name or path.stem)


def figures(result: RunResult) -> dict[str, object]:
    """What one looks at first."""
    return {
        "scenario": result.scenario,
        "seed": result.seed,
        "digest": result.digest,
        "events": result.events,
        "virtual_s": result.virtual_s,
        "wall_s": round(result.wall_s, 1),
        "cpu_s": round(result.cpu_s, 1),
        "rss_mib": round(result.rss_mib),
        "jobs": len(result.jobs),
        "outcomes": dict(sorted(Counter(job.outcome for job in result.jobs).items())),
        "errors": dict(Counter(job.error.partition(":")[0] for job in result.jobs if job.error).most_common(8)),
        "traffic": [[row.protocol, row.messages, row.bytes] for row in result.traffic],
        "warnings": result.warnings,
        "stopped_because": result.stopped_because,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m simulations.world", description=__doc__)
    parser.add_argument("scenario", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--duration", type=float, default=None, help="virtual seconds, if fewer than the scenario has")
    given = parser.parse_args()
    result = run(read(given.scenario), given.seed, until_s=given.duration)
    print(json.dumps(figures(result), indent=2))


if __name__ == "__main__":
    main()
