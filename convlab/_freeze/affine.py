"""Folding of affine operations per channel that follow a convolution into its kernel and bias."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import lax

from .._backend import entry
from .._backend.fusion.chains import axes_of, channel_axis, is_convolution, is_product
from .._backend.fusion.program import Op, Program, Value

Array = jax.Array
FLOATS = ("float32", "float64")


def fold_affine(program: Program) -> tuple[Program, int]:
    """Fold these chains into kernels and biases; return the program and the number of folded operations."""
    users, count = program.users(), 0
    new: dict[Op, list[Op]] = {}
    for op in filter(_is_foldable, program.ops):
        chain, scale, shift = _chain(op, users, program.outputs)
        replacement = _replacement(op, chain[-1].outputs[0], scale, shift) if len(chain) > 1 else []
        if replacement:
            new |= dict.fromkeys(chain[:-1], []) | {chain[-1]: replacement}
            count += len(chain) - 1
    ops = [replaced for op in program.ops for replaced in new.get(op, [op])]
    return Program(program.inputs, program.outputs, ops), count


def _is_foldable(op: Op) -> bool:
    if not is_convolution(op) or op.inputs[1].constant is None:
        return False
    dtypes = {str(v.aval.dtype) for v in (*op.inputs, *op.outputs)}
    return len(dtypes) == 1 and dtypes <= set(FLOATS)


def _chain(conv: Op, users: dict[Value, list[Op]], outputs: list[Value]) -> tuple[list[Op], Any, Any]:
    """Return the convolution and the affine operations after it, with the scale and shift of each channel."""
    value, axis, chain = conv.outputs[0], channel_axis(conv), [conv]
    scale, shift = np.ones(value.aval.shape[axis]), np.zeros(value.aval.shape[axis])
    while value not in outputs and len(users[value]) == 1:
        (op,) = users[value]
        step = _step(op, value, axis)
        if step is None:
            break
        scale, shift = scale * step[0], shift * step[0] + step[1]
        chain.append(op)
        value = op.outputs[0]
    return chain, scale, shift


def _step(op: Op, value: Value, axis: int) -> tuple[Any, Any] | None:
    """Return the scale and shift of an affine operation on `value`; None if it is another operation, or varies within a
    channel."""
    if (
        len(op.outputs) != 1
        or op.outputs[0].aval.shape != value.aval.shape
        or op.outputs[0].aval.dtype != value.aval.dtype
    ):
        return None
    if op.name in ("neg", "copy", "stop_gradient"):
        return (-1.0 if op.name == "neg" else 1.0), 0.0
    if op.name not in ("add", "sub", "mul", "div", "add_any"):
        return None
    first, second = op.inputs
    channel = per_channel(second if first is value else first, value.aval.shape, axis)
    if channel is None or op.name == "div" and second is value:
        return None
    with np.errstate(all="ignore"):
        return {
            "add": (1.0, channel),
            "add_any": (1.0, channel),
            "sub": (1.0, -channel) if first is value else (-1.0, channel),
            "mul": (channel, 0.0),
            "div": (1 / channel, 0.0),
        }[op.name]


def per_channel(other: Value, shape: tuple[int, ...], axis: int) -> Any:
    """Return the value of each channel of a constant broadcast to `shape`; None if it varies along another axis or is
    not constant."""
    if other.constant is None:
        return None
    numbers = np.asarray(other.constant)
    if numbers.ndim == 0:
        return np.full(shape[axis], numbers, np.float64)
    if numbers.ndim != len(shape):
        return None
    numbers = numbers[tuple(slice(0, 1) if step == 0 else slice(None) for step in numbers.strides)]
    first = numbers[tuple(slice(None) if a == axis else slice(0, 1) for a in range(len(shape)))]
    if numbers.size == 0 or not np.array_equal(numbers, np.broadcast_to(first, numbers.shape), equal_nan=True):
        return None
    return np.broadcast_to(first.ravel().astype(np.float64), (shape[axis],))


def _replacement(conv: Op, result: Value, scale: Any, shift: Any) -> list[Op]:
    """Return the convolution with the scaled kernel, and the addition of the shift unless it is 0; no operations if a
    number is not finite."""
    spec = axes_of(conv)
    kernel = np.asarray(conv.inputs[1].constant)
    along = [1] * kernel.ndim
    along[spec.rhs_spec[0]] = -1
    with np.errstate(all="ignore"):
        scaled, shift = (kernel * scale.reshape(along)).astype(kernel.dtype), shift.astype(kernel.dtype)
    if not np.isfinite(scaled).all() or not np.isfinite(shift).all():
        return []
    if not shift.any():
        return [with_kernel(conv, scaled, conv.params, result)]
    axis, rank = channel_axis(conv), len(result.aval.shape)
    bias = shift.reshape([-1 if a == axis else 1 for a in range(rank)])
    y = Value(result.aval)
    add = Op("add", (y, constant(bias)), (result,), {}, lambda y, bias: [lax.add(y, bias)])
    return [with_kernel(conv, scaled, conv.params, y), add]


def constant(numbers: Any) -> Value:
    return Value(jax.typeof(numbers), numbers)


def with_kernel(conv: Op, kernel: Any, params: dict[str, Any], result: Value) -> Op:
    """Return a convolution of the same image with another kernel and lax's `params`."""
    named = {name: value for name, value in params.items() if name != "padding"}
    product = is_product(conv)  # `run` must not refer to `conv`, which has the former kernel

    def run(x: Array, kernel: Array) -> list[Array]:
        if product:
            return [lax.dot_general(x, kernel, **params)]
        return [entry.conv_general_dilated(x, kernel, padding=params["padding"], **named)]

    return Op(conv.name, (conv.inputs[0], constant(kernel)), (result,), params, run)


def make_output_first(program: Program) -> None:
    """Transpose constant kernels to the layout that the engine reads: output channels, input channels, window.

    Operations are changed in place: chains refer to them, and each former kernel is freed before the next is copied.
    """
    for op in program.ops:
        if is_convolution(op) and op.inputs[1].constant is not None:
            new = _output_first(op)
            op.inputs, op.params, op.run, op.equation = new.inputs, new.params, new.run, new.equation


def _output_first(conv: Op) -> Op:
    spec = axes_of(conv)
    kernel = np.ascontiguousarray(np.transpose(np.asarray(conv.inputs[1].constant), spec.rhs_spec))
    if is_product(conv):
        numbers: Any = (((len(conv.inputs[0].aval.shape) - 1,), (1,)), ((), ()))
    else:
        numbers = lax.ConvDimensionNumbers(spec.lhs_spec, tuple(range(kernel.ndim)), spec.out_spec)
    return with_kernel(conv, kernel, conv.params | {"dimension_numbers": numbers}, conv.outputs[0])
