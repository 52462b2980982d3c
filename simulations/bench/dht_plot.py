"""Draws requests of a look-up against nodes, from the document that `cocoon bench dht --json` printed, as SVG.

python -m simulations.bench.dht_plot < RESULT.json > docs/dht-growth.svg
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping

import numpy as np

from simulations.report.drawing import BLUE, GREY, from_zero, style


def growth_svg(requests: Mapping[int, float]) -> str:
    """Points joined by a line, nodes on a logarithmic axis: a straight line is O(log n). The dashed line is what growth
    in proportion to the nodes would be. Raises ``ValueError`` for fewer than two sizes."""
    sizes = sorted(requests)
    if len(sizes) < 2:
        raise ValueError("growth needs two sizes at least")
    values = [requests[size] for size in sizes]
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(sizes, values, color=BLUE, marker="o")
        for size, value in zip(sizes, values, strict=True):
            axes.annotate(f"{value:.1f}", (size, value), (0, 7), textcoords="offset points", ha="center")
        from_zero(axes)
        steep = sizes[0] * axes.get_ylim()[1] / values[0]  # where growth in proportion leaves the picture
        nodes = np.geomspace(sizes[0], steep)
        axes.plot(nodes, values[0] * nodes / sizes[0], color=GREY, linestyle="--", scalex=False)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("nodes")
        axes.set_title("requests of a look-up (dashed: in proportion to nodes)")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def main() -> None:
    """Read the document, write the picture."""
    row = next(row for row in json.load(sys.stdin)["rows"] if row["id"] == "growth")
    sys.stdout.write(growth_svg(dict(zip(row["nodes"], row["samples"], strict=True))))


if __name__ == "__main__":
    main()
