"""Prints the table of eight families of layers in README.md from the rows of benchmarks/README.md.

python benchmarks/families.py"""

from __future__ import annotations

import math
import pathlib
import re

TABLE = pathlib.Path(__file__).with_name("README.md")
CELL = r"\**([\d.]+|-)(?: \([\d.]+\))?\**"  # milliseconds and the ratio; bold if flagged; - if not measured
ROW = re.compile(rf"^\| (.+?) \| (forward|gradients) \| ms \| {CELL} \| {CELL} \| {CELL} \| {CELL} \|", re.M)
# The family in the first words of a case's name, and its heading.
FAMILIES = {
    "3x3 to 7x7 windows, all channels": ("dense",),
    "1x1": ("pointwise",),
    "first layers, few channels": ("stem", "few channels"),
    "depthwise": ("depthwise",),
    "grouped, dilated": ("grouped", "dilated"),
    "sequences, volumes": ("sequence", "causal sequence", "volume"),
    "transposed": ("transposed",),
    "max and average pools": ("max pool", "average pool"),
}


def rows(text: str) -> list[tuple[str, str, float, float, float]]:
    """Return for each case its name, the mode, and the milliseconds of convlab, plain JAX (NaN if not measured) and
    PyTorch."""
    return [(case, mode, *map(_number, (ours, jax, torch))) for case, mode, ours, jax, _, torch in ROW.findall(text)]


def _number(cell: str) -> float:
    return math.nan if cell == "-" else float(cell)


def mean(ratios: list[float]) -> float:
    """Return the geometric mean of the entries that are numbers."""
    logarithms = [math.log(ratio) for ratio in ratios if not math.isnan(ratio)]
    return math.exp(sum(logarithms) / len(logarithms))


def table(text: str) -> str:
    """Return geometric means, per family and mode, of plain JAX's time over convlab's and of PyTorch's over
    convlab's."""
    found = rows(text)
    lines = [
        "| layers (cases) | JAX, forward | JAX, with gradients | PyTorch, forward | PyTorch, with gradients |",
        "|---|---|---|---|---|",
    ]
    for family, starts in FAMILIES.items():
        chosen = [row for row in found if row[0].startswith(starts)]
        lines.append(f"| {family} ({len(chosen) // 2}) | {' | '.join(_cells(chosen))} |")
    return "\n".join(
        [*lines, f"| **all ({len(found) // 2})** | {' | '.join(f'**{cell}**' for cell in _cells(found))} |"]
    )


def _cells(rows: list[tuple[str, str, float, float, float]]) -> list[str]:
    return [
        f"{mean([row[rival] / row[2] for row in rows if row[1] == mode]):.1f}"
        for rival in (3, 4)
        for mode in ("forward", "gradients")
    ]


if __name__ == "__main__":
    print(table(TABLE.read_text()))
