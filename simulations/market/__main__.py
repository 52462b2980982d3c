"""`python -m simulations.market`: the market alone, in a table or as JSON."""

from __future__ import annotations

import argparse
import json

from overlay.cli.output import Output
from simulations.bench.report import document, show
from simulations.market.rows import market_rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m simulations.market", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--quick", action="store_true", help="small and short: shows that all is there")
    parser.add_argument("--seeds", type=int, default=0, help="how many (5)")
    parser.add_argument("--providers", type=int, default=0, help="how many (60)")
    given = parser.parse_args()
    if given.seeds < 0 or (given.providers and given.providers < 12):
        parser.error("at least one seed and twelve providers")
    report = document("market", market_rows(given.quick, seeds=given.seeds, providers=given.providers))
    if given.json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        show(report, Output(as_json=False))


if __name__ == "__main__":
    main()
