"""Pairs of a model's layers and a state dict's layers, both in order."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._layouts import NORMED, Layouts
from ._leaves import Leaves

SHOWN = 40  # rows of a table in an error
NORMS = tuple(f".{name}" for name in NORMED.values())


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer of the model and its counterpart in the state dict.

    Attributes:
        ours, theirs: the paths of the two, empty if one side has no more layers.
        shapes: shapes of the entries in the state dict.
        agrees: whether the entries for `ours` equal those of `theirs` in names and shapes.
        order_alone: whether only the order identifies the pair: other layers have the same shapes, and the names
            differ.
    """

    ours: str
    theirs: str
    shapes: tuple[tuple[int, ...], ...]
    agrees: bool
    order_alone: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """The pairs of layers of a model and a state dict; `print` shows a table."""

    rows: tuple[Row, ...]

    @property
    def agrees(self) -> bool:
        """Return whether all pairs have the same entries and shapes."""
        return all(row.agrees for row in self.rows)

    @property
    def names(self) -> dict[str, str]:
        """Return the argument `names` of `from_torch`."""
        return {row.ours: row.theirs for row in self.rows if row.ours and row.theirs}

    def __str__(self) -> str:
        return self.text(len(self.rows))

    def text(self, shown: int) -> str:
        """Return the first rows, with those that disagree before all others."""
        rows = self.rows if shown >= len(self.rows) else sorted(self.rows, key=lambda row: row.agrees)[:shown]
        cells = [("model", "state dict", "shapes", ""), *map(_cells, rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(3)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths)), row[3]]).rstrip() for row in cells]
        return "\n".join([*lines, *([f"and {len(self.rows) - shown} rows more"] if shown < len(self.rows) else [])])


def _cells(row: Row) -> tuple[str, str, str, str]:
    note = "differs" if not row.agrees else "by order alone" if row.order_alone else ""
    return row.ours or "-", row.theirs or "-", " ".join("x".join(map(str, shape)) or "()" for shape in row.shapes), note


def paired(leaves: Leaves, shapes: Mapping[str, tuple[int, ...]], options: Mapping[str, Any]) -> Table:
    """Build the table of a model and the shapes of a state dict."""
    layouts = Layouts(
        leaves.arrays, None, None, leaves.mirrored | dict(options.get("mirrored") or {}), options.get("leaves")
    )
    wanted: dict[str, dict[str, Any]] = {path: {} for path in leaves.order}
    for path, leaf in leaves.arrays.items():
        name = layouts.entry(path).removeprefix(".".join(path[:-1])).lstrip(".")
        wanted[".".join(path[:-1])][name] = (path, tuple(leaf.shape))
    given: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        end = next((norm for norm in NORMS if key.endswith(norm)), None)
        module, _, name = (key.removesuffix(end), "", end[1:]) if end else key.rpartition(".")
        given.setdefault(module, {})[name] = tuple(shape)
    ours, theirs = leaves.order, list(given)
    count = max(len(ours), len(theirs))
    pairs = zip([*ours, *[""] * (count - len(ours))], [*theirs, *[""] * (count - len(theirs))])
    rows = [_row(a, b, wanted.get(a, {}), given.get(b, {}), layouts) for a, b in pairs]
    alike = Counter(row.shapes for row in rows if row.agrees)
    return Table(
        tuple(
            dataclasses.replace(row, order_alone=alike[row.shapes] > 1 and not same_name(row.ours, row.theirs))
            for row in rows
        )
    )


def _row(ours: str, theirs: str, wanted: dict, given: dict, layouts: Layouts) -> Row:
    shapes = tuple(given.values())
    if not ours or not theirs or wanted.keys() != given.keys():
        return Row(ours, theirs, shapes, False)
    agrees = all(_fits(path, shape, given[name], layouts) for name, (path, shape) in wanted.items())
    return Row(ours, theirs, shapes, agrees)


def _fits(path: tuple, shape: tuple[int, ...], entry: tuple[int, ...], layouts: Layouts) -> bool:
    import numpy as np

    try:
        return layouts.array(path, np.broadcast_to(np.float32(0), entry), shape).shape == shape
    except ValueError:
        return False


def same_name(ours: str, theirs: str) -> bool:
    """Return whether two paths match, ignoring `layers` of `nnx.Sequential`: equal, or equal in the last part and all
    numbers."""
    plain = lambda path: [part for part in path.split(".") if part != "layers"]
    a, b = plain(ours), plain(theirs)
    digits: Callable[[Sequence[str]], list] = lambda parts: [c for c in ".".join(parts) if c.isdigit()]
    return a == b or (a[-1:] == b[-1:] and digits(a) == digits(b))
