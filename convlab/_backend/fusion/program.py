"""A jaxpr as a flat list of operations that can be read, changed and run; `optimize` and `freeze` work on it."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .. import compat

CALLS = ("jit", "pjit", "closed_call")
FUSED = ("convlab_conv", "convlab_dot")  # the prefixes of the names of fused calls, which are not inlined


class Value:
    """An array of a program; `constant` is its value, None if that depends on an argument or is not known."""

    __slots__ = ("aval", "constant")

    def __init__(self, aval: Any, constant: Any = None) -> None:
        self.aval, self.constant = aval, constant


@dataclasses.dataclass(eq=False)
class Op:
    """An operation: `run` computes its outputs from its inputs; `equation` is the jaxpr's, None if it is a new one."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    params: dict[str, Any]
    run: Callable[..., Sequence[Any]]
    equation: Any = None

    @property
    def has_effects(self) -> bool:
        return bool(self.equation is not None and self.equation.effects)


@dataclasses.dataclass
class Program:
    """The operations of a program in order, its inputs and its outputs; calling it runs them."""

    inputs: list[Value]
    outputs: list[Value]
    ops: list[Op]

    def users(self) -> dict[Value, list[Op]]:
        """Return the operations that read each value, once for each time that they read it."""
        found: dict[Value, list[Op]] = collections.defaultdict(list)
        for op in self.ops:
            for value in op.inputs:
                found[value].append(op)
        return found

    def __call__(self, *arrays: Any) -> list[Any]:
        known = dict(zip(self.inputs, arrays))
        for op in self.ops:
            known.update(zip(op.outputs, op.run(*(read(known, value) for value in op.inputs))))
        return [read(known, value) for value in self.outputs]


def read(known: dict[Value, Any], value: Value) -> Any:
    """Return the known facts of a value, or else its constant."""
    return known.get(value, value.constant)


def without_dead_ops(program: Program) -> Program:
    """Return the program without the operations that neither a result nor an effect depends on."""
    needed, kept = set(program.outputs), []
    for op in reversed(program.ops):
        if op.has_effects or needed.intersection(op.outputs):
            needed.update(op.inputs)
            kept.append(op)
    return Program(program.inputs, program.outputs, kept[::-1])


def from_jaxpr(closed: Any, constants: Iterable[Any] | None = None) -> Program:
    """Return the program of a jaxpr, with the calls of `jit` inlined."""
    jaxpr = getattr(closed, "jaxpr", closed)
    values = getattr(closed, "consts", ()) if constants is None else constants
    known = {var: Value(var.aval, value) for var, value in zip(jaxpr.constvars, values)}
    inputs = [Value(var.aval) for var in jaxpr.invars]
    known.update(zip(jaxpr.invars, inputs))
    ops: list[Op] = []
    outputs = _inline(jaxpr, known, ops)
    return Program(inputs, outputs, ops)


def _inline(jaxpr: Any, known: dict[Any, Value], ops: list[Op]) -> list[Value]:
    def value(atom: Any) -> Value:
        return Value(atom.aval, atom.val) if hasattr(atom, "val") else known[atom]

    for eqn in jaxpr.eqns:
        operands = tuple(map(value, eqn.invars))
        inner = inlinable_jaxpr(eqn)
        if inner is not None:
            body = getattr(inner, "jaxpr", inner)
            within = {var: Value(var.aval, c) for var, c in zip(body.constvars, getattr(inner, "consts", ()))}
            results = _inline(body, within | dict(zip(body.invars, operands)), ops)
            known.update(zip(eqn.outvars, results))
            continue
        outputs = tuple(Value(var.aval) for var in eqn.outvars)
        known.update(zip(eqn.outvars, outputs))
        run = functools.partial(_run, eqn)
        ops.append(Op(eqn.primitive.name, operands, outputs, eqn.params, run, eqn))
    return [value(atom) for atom in jaxpr.outvars]


def _run(equation: Any, *operands: Any) -> list[Any]:
    return compat.bind(equation, operands)


MARKED = ("conv_general_dilated", "reduce_window_sum", "reduce_window_max", "reduce_window_min")


def mark_operations(program: Program) -> Program:
    """Return the program with its convolutions and pools marked, so that convlab's formulations compute them."""

    def mark(op: Op) -> Op:
        if op.name not in MARKED or op.equation is None or compat.mark_of(op.equation.ctx) is not None:
            return op

        def run(*operands: Any) -> Sequence[Any]:
            with compat.marked("auto"):
                return op.run(*operands)

        return dataclasses.replace(op, run=run)

    return Program(program.inputs, program.outputs, list(map(mark, program.ops)))


def inlinable_jaxpr(eqn: Any) -> Any:
    """Return the jaxpr of a call without shardings, layouts, donation and options, which can be inlined; else None."""
    params = eqn.params
    if eqn.primitive.name not in CALLS or str(params.get("name", "")).startswith(FUSED):
        return None
    shardings = [*params.get("in_shardings", ()), *params.get("out_shardings", ())]
    shardings = [s for s in shardings if type(s).__name__ != "UnspecifiedValue"]
    layouts = [x for x in (*params.get("in_layouts", ()), *params.get("out_layouts", ())) if x is not None]
    if shardings or layouts or any(params.get("donated_invars", ())) or params.get("compiler_options_kvs"):
        return None
    return params.get("jaxpr", params.get("call_jaxpr"))
