"""Pages and pictures from results that runs left behind.

python -m simulations.report RESULT.json --html PAGE.html --compare OTHER.json --pictures DIRECTORY --overview FILE.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from overlay.errors import CocoonError
from simulations.report import write_overview, write_pictures, write_report
from simulations.results import ResultError, load


def main(arguments: list[str] | None = None) -> int:
    """Write what was asked for; the page ``RESULT.html`` when nothing was. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m simulations.report", description="The report of a simulated run.")
    parser.add_argument("result", type=Path, help="what a run left behind (JSON)")
    parser.add_argument("--compare", type=Path, metavar="OTHER", help="a second run, side by side in the page")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page there")
    parser.add_argument("--pictures", type=Path, metavar="DIRECTORY", help="write each chart as a PNG there")
    parser.add_argument("--overview", type=Path, metavar="FILE", help="write the run at a glance as one PNG")
    asked = parser.parse_args(arguments)
    page: Path | None = asked.html
    if page is None and (asked.compare or not (asked.pictures or asked.overview)):
        page = asked.result.with_suffix(".html")
    try:
        result = load(asked.result)
        if page is not None:
            write_report(result, page, compare=load(asked.compare) if asked.compare else None)
            print(page)
        if asked.pictures:
            for path in write_pictures(result, asked.pictures):
                print(path)
        if asked.overview:
            write_overview(result, asked.overview)
            print(asked.overview)
    except (CocoonError, ResultError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
