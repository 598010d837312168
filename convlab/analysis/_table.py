"""The table that `summary` prints: by rich if it is installed, otherwise in plain columns."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

TITLES = ("layer", "kind", "output shape", "parameters", "multiply-adds", "with padding", "field", "stride", "offset")
NUMBERS = 3  # number of text columns before the right-aligned numbers


def cells(analysis: Any) -> Iterator[tuple[str, ...]]:
    for layer in analysis.layers:
        shape = "×".join(map(str, layer.output_shape))
        counts = (layer.parameters, layer.macs, layer.macs_with_padding)
        field = layer.field
        geometry = (
            [_axes(row) for row in (field.size, field.stride, field.offset)] if field and field.size else ["", "", ""]
        )
        yield (layer.path, layer.kind, shape, *(f"{n:,}" if n else "" for n in counts), *geometry)


def totals(analysis: Any) -> tuple[str, ...]:
    counts = (analysis.parameters, analysis.macs, analysis.macs_with_padding)
    return ("total", "", "", *(f"{n:,}" for n in counts), "", "", "")


def _axes(numbers: Any) -> str:
    """Return one number if all axes agree."""
    shown = [
        str(n) if not isinstance(n, Fraction) or n.denominator == 1 else f"{n.numerator}/{n.denominator}"
        for n in numbers
    ]
    return shown[0] if len(set(shown)) == 1 else "×".join(shown)


def text(analysis: Any) -> str:
    rows = [TITLES, *cells(analysis), totals(analysis)]
    widths = [max(map(len, column)) for column in zip(*rows)]

    def line(row: tuple[str, ...]) -> str:
        aligned = [cell.rjust(w) if i >= NUMBERS else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        return "  ".join(aligned).rstrip()

    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:-1]), rule, line(rows[-1])])


def show(analysis: Any) -> None:
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(text(analysis))
        return
    table = Table(box=box.SIMPLE, show_footer=True, pad_edge=False)
    for i, (title, footer) in enumerate(zip(TITLES, totals(analysis))):
        table.add_column(title, footer, justify="right" if i >= NUMBERS else "left", overflow="fold")
    for row in cells(analysis):
        table.add_row(*row)
    console = Console()
    wide = Console(width=max(map(len, text(analysis).splitlines())) + 2 * len(TITLES))
    (console if console.is_terminal else wide).print(table)
