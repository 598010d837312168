"""Find chains of a convolution and an optional bias, sum with another array and activation, in this order.

`optimize` and `freeze` replace each chain by a jitted call that `call` lowers to one call of the engine. A product of
an array with channels last and a matrix counts as a convolution with a window of one tap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import compat
from . import activations, numbers
from .program import Op, Program, Value

FILLS = ("broadcast_in_dim", "convert_element_type")


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """A convolution and the operations that follow it.

    `bias` has the result's rank and size 1 on every axis but the channels'.
    """

    conv: Op
    bias: Value | None
    residual: Value | None
    activation: str | None
    function: tuple[Op, ...]  # the activation's operations
    argument: Value  # the activation's
    ops: tuple[Op, ...]  # all operations of the chain
    result: Value

    @property
    def kinds(self) -> tuple[str, ...]:
        """The operations that follow the convolution, such as ("bias", "add", "relu")."""
        present = {"bias": self.bias, "add": self.residual, self.activation: self.activation}
        return tuple(kind for kind, value in present.items() if value is not None and kind is not None)

    @property
    def inputs(self) -> list[Value]:
        extras = [value for value in (self.bias, self.residual) if value is not None]
        return [*self.conv.inputs, *extras]


@dataclasses.dataclass(frozen=True)
class Packed:
    """A constant kernel in another layout (`packing`), and the function of lax's operations that undoes it."""

    kernel: np.ndarray
    unpack: Callable[[Any], Any]


def is_convolution(op: Op) -> bool:
    """Return whether an operation is a convolution, or a product that counts as one."""
    if op.name == "conv_general_dilated":
        return op.params["batch_group_count"] == 1
    return is_product(op)


def is_product(op: Op) -> bool:
    """Return whether an operation is a product of the last axis of an array with 3 to 5 axes and a matrix."""
    if op.name != "dot_general":
        return False
    (contracted, _), batches = op.params["dimension_numbers"]
    ranks = [len(value.aval.shape) for value in op.inputs]
    return ranks[1] == 2 and 3 <= ranks[0] <= 5 and tuple(contracted) == (ranks[0] - 1,) and not any(batches)


def axes_of(conv: Op) -> lax.ConvDimensionNumbers:
    """Return the axes of the image, the kernel and the result in lax's order: batch, features, space."""
    if conv.name == "conv_general_dilated":
        return conv.params["dimension_numbers"]
    rank, ((_, (inner,)), _) = len(conv.inputs[0].aval.shape), conv.params["dimension_numbers"]
    image = (0, rank - 1, *range(1, rank - 1))
    return lax.ConvDimensionNumbers(image, (1 - inner, inner), image)


def channel_axis(conv: Op) -> int:
    """Return the result's axis of channels."""
    return axes_of(conv).out_spec[1]


def note_filled_constants(program: Program) -> None:
    """Note the value of arrays that are filled with a known number, and keep the operations that fill them."""
    for op in program.ops:
        if op.name in FILLS and op.inputs and op.inputs[0].constant is not None and op.inputs[0].aval.shape == ():
            op.outputs[0].constant = numbers.evaluate(op, [op.inputs[0].constant])


def find_chains(program: Program) -> list[Chain]:
    """Return the chains of a program; no operation is in two of them."""
    note_filled_constants(program)
    users, taken, found = program.users(), set[Op](), []
    for op in program.ops:
        if is_convolution(op):
            chain = _chain(op, program, users, taken)
            taken.update(chain.ops)
            found.append(chain)
    return found


def _chain(conv: Op, program: Program, users: dict[Value, list[Op]], taken: set[Op]) -> Chain:
    """Return the longest chain that begins with a convolution and has no operation of `taken`."""
    value, ops = conv.outputs[0], [conv]
    extras: dict[str, Value] = {}
    for kind, fits in (("bias", _is_bias), ("add", _is_residual)):
        after = users.get(value, [])
        if len(after) != 1 or value in program.outputs or after[0] in taken or after[0].name not in ("add", "add_any"):
            continue
        others = [v for v in after[0].inputs if v is not value]
        if len(others) == 1 and fits(others[0], value, conv):
            extras[kind] = others[0]
            ops.append(after[0])
            value = after[0].outputs[0]
    argument, activation = value, None
    function: list = []
    found = None if value in program.outputs else activations.find(value, program, users)
    if found is not None and not taken.intersection(found[1]):
        activation, function = found
        value = function[-1].outputs[0]
    return Chain(
        conv=conv,
        bias=extras.get("bias"),
        residual=extras.get("add"),
        activation=activation,
        function=tuple(function),
        argument=argument,
        ops=(*ops, *function),
        result=value,
    )


def _is_bias(other: Value, value: Value, conv: Op) -> bool:
    shape = [1] * len(value.aval.shape)
    shape[channel_axis(conv)] = value.aval.shape[channel_axis(conv)]
    return tuple(other.aval.shape) == tuple(shape) and other.aval.dtype == value.aval.dtype


def _is_residual(other: Value, value: Value, conv: Op) -> bool:
    return tuple(other.aval.shape) == tuple(value.aval.shape) and other.aval.dtype == value.aval.dtype


def make_call(chain: Chain, packed: Packed | None = None) -> Callable[..., Any]:
    """Return a jitted function that computes the chain by lax's operations, of the packed kernel if there is one.

    `call.rule` recognises it by its name.
    """
    fills = list({v for op in chain.function for v in op.inputs if v.constant is not None and v.aval.shape})
    kind = "dot" if is_product(chain.conv) else "conv"
    first = {v: np.ravel(v.constant)[0] for v in fills}
    mark = compat.mark_of(chain.conv.equation.ctx) if chain.conv.equation is not None else None

    def fused(x: Any, kernel: Any, *extras: Any) -> Any:
        with compat.marked(mark or "auto"):
            (y,) = chain.conv.run(x, packed.unpack(kernel) if packed else kernel)
        for extra in extras:
            y = lax.add(y, extra)
        filled = [lax.broadcast_in_dim(jnp.asarray(first[v], v.aval.dtype), v.aval.shape, ()) for v in fills]
        return Program([chain.argument, *fills], [chain.result], list(chain.function))(y, *filled)[0]

    fused.__name__ = fused.__qualname__ = "_".join((f"convlab_{kind}", *chain.kinds))
    return jax.jit(fused)


def replace_chains(program: Program, chosen: Sequence[Chain], packed: Mapping[Chain, Packed] | None = None) -> Program:
    """Return the program with each of the chains replaced by one call, at the chain's last operation.

    `packed` has the kernels of the calls that have one in another layout.
    """
    last = {max(chain.ops, key=program.ops.index): chain for chain in chosen}
    packed = packed or {}
    inside = {op for chain in chosen for op in chain.ops}
    ops = []
    for op in program.ops:
        if op in last:
            chain = last[op]
            call, inputs = make_call(chain, packed.get(chain)), chain.inputs
            if chain in packed:
                inputs[1] = Value(jax.typeof(packed[chain].kernel), packed[chain].kernel)
            run = lambda *arrays, call=call: [call(*arrays)]
            ops.append(Op("fused", tuple(inputs), (chain.result,), {"chain": chain}, run))
        elif op not in inside:
            ops.append(op)
    return Program(program.inputs, program.outputs, ops)
