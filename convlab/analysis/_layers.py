"""The rows of the table, collected by a walk over the program."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._rules import Spans, kind_of, macs_of, spans_of
from ._tracing import Call, Trace, read_mark
from ._walk import walk

FOLDABLE = 1 << 20  # elements of a constant that is computed, because it may hold indices
MERGES = {"add", "add_any", "sub", "mul", "max", "min", "concatenate"}


@dataclasses.dataclass(frozen=True, eq=False)
class Dependency:
    """A value of the program: a constant with its number, or the receptive interval of each element and the rows it
    comes from."""

    known: Any = None
    spans: Spans | None = None
    rows: frozenset[int] = frozenset()


@dataclasses.dataclass
class Row:
    """A layer under construction; `event` is the number of the equation that computes the layer's first result."""

    path: str
    kind: str
    shape: tuple[int, ...] = ()
    spans: Spans | None = None
    parameters: int = 0
    macs: tuple[int, int] = (0, 0)
    event: int = -1


class Finder:
    """A collector of the rows of a program during a walk over its equations."""

    def __init__(self, calls: Sequence[Call]):
        self.calls, self.rows = calls, []  # type: Sequence[Call], list[Row]
        self._open: list[int] = []
        self._row: Row | None = None  # the module without submodules that the walk is inside
        self._event = -1
        self._names: collections.Counter = collections.Counter()

    def step(self, eqn: Any, following: Sequence[Any], inputs: Sequence[Dependency]) -> list[Dependency]:
        self._event += 1
        mark = read_mark(eqn)
        if mark:
            return [self._cross(*mark, eqn, inputs[0])]
        self._add(macs_of(eqn))
        known = evaluate_constants(eqn, inputs)
        if known is not None:
            return [Dependency(known=value) for value in known]
        spans = spans_of(eqn, [dependency.spans for dependency in inputs], [dependency.known for dependency in inputs])
        rows = frozenset().union(*(dependency.rows for dependency in inputs))
        if self._row is None:
            rows = self._list(eqn, following, inputs, spans) or rows
        several = [spans, *(_other(spans, v.aval.ndim) for v in eqn.outvars[1:])]
        return [Dependency(spans=s, rows=rows) for s in several]

    def _cross(self, number: int, side: str, eqn: Any, dependency: Dependency) -> Dependency:
        call = self.calls[number]
        if side == "enter":
            self._open.append(number)
            if call.leaf:
                self._row = Row(call.path, call.kind)
            return dependency
        self._open.pop()
        if not call.leaf or self._row is None:
            return dependency
        row, self._row = self._row, None
        row.shape, row.spans, row.event = tuple(eqn.outvars[0].aval.shape), dependency.spans, self._event
        self.rows.append(row)
        return dataclasses.replace(dependency, rows=frozenset({len(self.rows)}))

    def _add(self, macs: tuple[int, int]) -> None:
        if self._row:
            self._row.macs = (self._row.macs[0] + macs[0], self._row.macs[1] + macs[1])

    def _list(
        self, eqn: Any, following: Sequence[Any], inputs: Sequence[Dependency], spans: Spans | None
    ) -> frozenset[int] | None:
        """Add a row for a convolution, pool, product or merge outside of all modules without submodules."""
        kind = kind_of(eqn) or _merge(eqn, inputs)
        macs = macs_of(eqn)
        if kind is None and not any(macs):
            return None
        name = _pool_name(eqn, following) if kind == "sum_pool" else kind or eqn.primitive.name
        within = self.calls[self._open[-1]].path + "." if self._open else ""
        count = self._names[within + name]
        self._names[within + name] += 1
        path = f"{within}{name}" + (f"_{count}" if count else "")
        self.rows.append(Row(path, name, tuple(eqn.outvars[0].aval.shape), spans, 0, macs, self._event))
        return frozenset({len(self.rows)})


def _other(spans: Spans | None, rank: int) -> Spans | None:
    """Return the spans of a further result of an equation: everything that the first depends on."""
    from ._rules import everything

    return None if spans is None else everything([spans], rank)


def _merge(eqn: Any, inputs: Sequence[Dependency]) -> str | None:
    """Return the name of an operation that joins branches, or None."""
    if eqn.primitive.name not in MERGES:
        return None
    ways = [dependency.rows for dependency in inputs if dependency.spans is not None]
    return {"add_any": "add"}.get(eqn.primitive.name, eqn.primitive.name) if len(set(ways)) > 1 else None


def _pool_name(eqn: Any, following: Sequence[Any]) -> str:
    """Return "avg_pool" for a sum that is divided next, otherwise "sum_pool"."""
    divided = following and following[0].primitive.name == "div" and following[0].invars[0] is eqn.outvars[0]
    return "avg_pool" if divided else "sum_pool"


def evaluate_constants(eqn: Any, inputs: Sequence[Dependency]) -> list[Any] | None:
    """Evaluate an equation on small constants, which may be indices; None if it is not evaluated."""
    small = sum(v.aval.size for v in eqn.outvars if hasattr(v.aval, "size")) <= FOLDABLE
    if (
        not small
        or any(dependency.known is None for dependency in inputs)
        or (not inputs and eqn.primitive.name != "iota")
    ):
        return None
    params = eqn.primitive.get_bind_params(eqn.params)
    try:
        result = eqn.primitive.bind(*(dependency.known for dependency in inputs), **params)
    except Exception:  # a loop or a call that binds only under a trace: it computes no indices
        return None
    return list(result) if eqn.primitive.multiple_results else [result]


def constant(value: Any) -> Dependency:
    return Dependency(known=value if np.size(value) <= FOLDABLE else None)


def rows_of(traced: Trace, spans: Spans) -> tuple[list[Row], dict[str, int]]:
    """Return the rows of a program whose first argument has these spans, and the parameters that belong to no row."""
    finder = Finder(traced.calls)
    arguments = [Dependency(spans=spans, rows=frozenset({0})), *(Dependency() for _ in traced.arguments[1:])]
    walk(traced.program, arguments, constant, finder.step)
    left = dict(traced.parameters)
    for row in finder.rows:
        path = tuple(row.path.split("."))
        mine = [p for p in left if p[: len(path)] == path]
        row.parameters = sum(left.pop(p) for p in mine)
    rest: collections.Counter = collections.Counter()
    for path, count in left.items():
        rest[".".join(path[:-1]) or path[-1]] += count
    return finder.rows, dict(rest)
