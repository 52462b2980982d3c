"""Draws requests of a look-up against nodes, from the document that `cocoon bench dht --json` printed, as SVG.

python -m simulations.bench.dht_plot < RESULT.json > docs/dht-growth.svg
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping

_WIDTH, _HEIGHT, _MARGIN = 640, 360, 56


def growth_svg(requests: Mapping[int, float]) -> str:
    """Points joined by a line, nodes on a logarithmic axis: a straight line is O(log n). The dashed line is what growth
    in proportion to the nodes would be. Raises ``ValueError`` for fewer than two sizes."""
    sizes = sorted(requests)
    if len(sizes) < 2:
        raise ValueError("growth needs two sizes at least")
    top = 1.25 * max(requests.values())
    low, high = math.log10(sizes[0]), math.log10(sizes[-1])

    def at(nodes: float, value: float) -> str:
        x = _MARGIN + (math.log10(nodes) - low) / (high - low) * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN - value / top * (_HEIGHT - 2 * _MARGIN)
        return f"{x:.1f},{y:.1f}"

    line = " ".join(at(size, requests[size]) for size in sizes)
    steep = top / requests[sizes[0]]  # where growth in proportion leaves the picture
    linear = f"{at(sizes[0], requests[sizes[0]])} {at(sizes[0] * min(steep, sizes[-1] / sizes[0]), top)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<polyline points="{at(sizes[0], top)} {at(sizes[0], 0)} {at(sizes[-1], 0)}" fill="none" stroke="#444"/>',
        f'<polyline points="{linear}" fill="none" stroke="#999" stroke-dasharray="5 4"/>',
        f'<polyline points="{line}" fill="none" stroke="#1f5fbf" stroke-width="2"/>',
    ]
    for size in sizes:
        x, y = at(size, requests[size]).split(",")
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="#1f5fbf"/>')
        parts.append(f'<text x="{x}" y="{float(y) - 10:.1f}" text-anchor="middle">{requests[size]:.1f}</text>')
        parts.append(f'<text x="{x}" y="{_HEIGHT - _MARGIN + 20}" text-anchor="middle">{size:,}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 12}" text-anchor="middle">nodes</text>')
    parts.append(
        f'<text x="{_MARGIN}" y="{_MARGIN - 24}">requests of a look-up (dashed: in proportion to nodes)</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Read the document, write the picture."""
    row = next(row for row in json.load(sys.stdin)["rows"] if row["id"] == "growth")
    sys.stdout.write(growth_svg(dict(zip(row["nodes"], row["samples"], strict=True))))


if __name__ == "__main__":
    main()
