"""Concatenations that each append to the one before, as DenseNet's, written into one array."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from .._backend.fusion.program import Op, Program, Value

SHORTEST = 3  # concatenations; a shorter chain copies little


def write_in_place(program: Program) -> Program:
    """Replace each chain of concatenations by updates of one array, whose beginnings are the results.

    A concatenation copies all its operands, so a chain copies its first one as often as it is long.
    """
    new: dict[Op, list[Op]] = {}
    for chain in _chains(program):
        new.update(_updates(chain))
    return Program(program.inputs, program.outputs, [replaced for op in program.ops for replaced in new.get(op, [op])])


def _chains(program: Program) -> list[list[Op]]:
    """Return the chains, each operation's first operand the result of the one before; no operation is in two.

    What is read after it was appended to ends a chain, since XLA would copy the array before it updates it.
    """
    last_use = {value: op for op in program.ops for value in op.inputs}
    chains: dict[Value, list[Op]] = {}  # by the result of their last operation
    for op in program.ops:
        if op.name == "concatenate" and all(isinstance(n, int) for n in op.outputs[0].aval.shape):
            before = chains.get(op.inputs[0], [])
            ends = last_use[op.inputs[0]] is not op or op.inputs[0] in (*program.outputs, *op.inputs[1:])
            if before and not ends and before[-1].params["dimension"] == op.params["dimension"]:
                del chains[op.inputs[0]]
                chains[op.outputs[0]] = [*before, op]
            else:
                chains[op.outputs[0]] = [op]
    return [chain for chain in chains.values() if len(chain) >= SHORTEST]


def _updates(chain: list[Op]) -> dict[Op, list[Op]]:
    axis, last = chain[0].params["dimension"], chain[-1].outputs[0]
    whole = jax.ShapeDtypeStruct(last.aval.shape, last.aval.dtype)
    buffer: Value | None = None
    filled, new = 0, {}
    for op in chain:
        ops = []
        for part in op.inputs if buffer is None else op.inputs[1:]:
            former, buffer = buffer, Value(whole)
            ops.append(_update(former, part, filled, axis, buffer))
            filled += part.aval.shape[axis]
        (result,) = op.outputs
        assert buffer is not None
        ops.append(Op("slice", (buffer,), (result,), {}, _beginning(result.aval.shape)))
        new[op] = ops
    return new


def _update(former: Value | None, part: Value, first: int, axis: int, buffer: Value) -> Op:
    shape = buffer.aval.shape

    def begin(part: Any) -> list[Any]:
        pads = [(0, whole - n, 0) for whole, n in zip(shape, part.shape)]
        return [lax.pad(part, lax.full((), 0, part.dtype), pads)]

    def update(former: Any, part: Any) -> list[Any]:
        return [lax.dynamic_update_slice(former, part, [first if a == axis else 0 for a in range(len(shape))])]

    if former is None:
        return Op("pad", (part,), (buffer,), {}, begin)
    return Op("dynamic_update_slice", (former, part), (buffer,), {}, update)


def _beginning(shape: tuple[int, ...]) -> Any:
    return lambda buffer: [lax.slice(buffer, [0] * len(shape), shape)]
