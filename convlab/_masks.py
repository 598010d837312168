"""Masks: the valid positions of padded batches, and the segments of packed sequences.

Masks select and never multiply, so that a masked position, even NaN or infinite, changes no value and no gradient.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from . import _backend
from ._arguments import argument_error, as_array, describe_axes, is_int
from ._conv_operands import add_bias
from ._padding import check_zero_padding, pad_axis
from ._patches import MAX_UNROLLED_TAPS
from ._window import Pair, Window, output_size

Array = jax.Array

MAX_PARTS = 8  # into which the terms of a kernel gradient are split, to be added up within one loop


# --- padded batches -----------------------------------------------------------------------------------------------


def read_valid(valid: Any, x: Array) -> Array | None:
    """Check `valid`, `(*batch, *spatial)`, and return it with an axis for the channels of `x`."""
    if valid is None:
        return None
    valid = as_array("valid", valid, "an array of booleans")
    if valid.dtype != bool:
        raise argument_error("valid", "be booleans", valid.dtype.name, kind=TypeError)
    if valid.shape != x.shape[:-1]:
        raise argument_error("valid", f"have shape {x.shape[:-1]}", valid.shape, f"`x` of shape {x.shape}")
    return valid[..., None]


def only_valid(x: Array, valid: Array | None, fill: Any = 0) -> Array:
    """Replace invalid positions of `x` by `fill`."""
    return x if valid is None else jnp.where(valid, x, jnp.asarray(fill).astype(x.dtype))


# --- packed sequences ---------------------------------------------------------------------------------------------


class AxisWindow(NamedTuple):
    """A window along one axis; its output belongs to the segment at its position `anchor`, counted from its first."""

    size: int
    stride: int
    dilation: int
    pads: Pair
    anchor: int

    @property
    def effective_size(self) -> int:
        return (self.size - 1) * self.dilation + 1


def read_segments(segment_ids: Any, x: Array, rank: int) -> Array:
    """Check `segment_ids`, integers `(*batch, length)`, and return them."""
    ids = as_array("segment_ids", segment_ids, "an array of integers")
    if rank != 1:
        raise argument_error(
            "segment_ids", "be None", ids.shape, describe_axes(rank), "Sequences have one spatial axis."
        )
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise argument_error("segment_ids", "be integers", ids.dtype.name, kind=TypeError)
    if ids.shape != x.shape[:-1]:
        raise argument_error("segment_ids", f"have shape {x.shape[:-1]}", ids.shape, f"`x` of shape {x.shape}")
    return ids


def check_packed_options(
    window: Window, modes: tuple[str, ...], padding: Any, padding_mode: Any, others: dict[str, tuple[Any, Any, Any]]
) -> None:
    """Check that a convolution of packed sequences has no other options than its window's; `others` maps names to
    (given, read, default)."""
    check_zero_padding(window, modes, padding, padding_mode, "packed sequences")
    for name, (given, read, default) in others.items():
        if read != default:
            raise argument_error(name, f"be {default!r}", given, "packed sequences")


def packed_window(window: Window, length: int, padding: Any) -> AxisWindow:
    """Return the window of packed sequences: output `i` belongs to the segment at position `i * stride`."""
    ((before, after),) = window.pads((length,))
    (size,), (stride,), (dilation,) = window.size, window.strides, window.dilation
    (effective_size,) = window.effective_size
    if not (is_int(before) and is_int(after)):
        fact = "packed sequences of a symbolic length with strides"
        raise argument_error("padding", "be CAUSAL, VALID or numbers", padding, fact)
    if is_int(length):
        leaves_input = (output_size(length, (before, after), effective_size, stride) - 1) * stride >= length
    else:
        leaves_input = before + after >= effective_size
    if not 0 <= before < effective_size or leaves_input:
        hint = "CAUSAL, SAME and VALID do."
        rule = "have position i * strides in the window of each output i"
        raise argument_error("padding", rule, padding, "packed sequences", hint)
    return AxisWindow(size, stride, dilation, (before, after), before)


def packed_conv(
    x: Array,
    kernel: Array,
    bias: Any,
    ids: Array,
    window: AxisWindow,
    *,
    groups: int,
    precision: Any,
    preferred_element_type: Any,
) -> Array:
    """Convolve `(*batch, length, c)`; taps read zeros where `ids`, `(*batch, length)`, differ from those of their
    output."""
    batch, features = ids.shape[:-1], kernel.shape[-1]
    ids = ids.reshape(math.prod(batch), ids.shape[-1])
    x = x.reshape(*ids.shape, x.shape[-1])
    y = _convolve(x, kernel, ids, window, groups, precision, preferred_element_type)
    return add_bias(y, bias, features).reshape(*batch, *y.shape[1:])


def _convolve(
    x: Array, kernel: Array, ids: Array, window: AxisWindow, groups: int, precision: Any, preferred_element_type: Any
) -> Array:
    is_16_bit = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    result = jnp.dtype(x.dtype if preferred_element_type is None else preferred_element_type)
    least = jnp.dtype(jnp.float32) if is_16_bit else x.dtype
    wide = result if result.itemsize > least.itemsize else least
    outputs = output_size(x.shape[1], window.pads, window.effective_size, window.stride)
    kernel = kernel.reshape(*kernel.shape[:2], groups, -1)
    if groups == x.shape[-1]:
        ends = _without_padding(window, x.shape[1], outputs)
        function = functools.partial(_by_taps, functools.partial(_depthwise, wide=wide))
    else:
        ends = [0, outputs]
        product = functools.partial(_product, groups=groups, precision=precision, wide=wide)
        function = functools.partial(_by_taps if window.size > MAX_UNROLLED_TAPS else _by_patches, product)
    parts = [function(*_slice_span(x, ids, window, *span), kernel, window) for span in zip(ends, ends[1:])]
    y = jnp.concatenate(parts, 1) if len(parts) > 1 else parts[0]
    return y.astype(result)


def _without_padding(window: AxisWindow, length: int, outputs: int) -> list[int]:
    """Return where to split the outputs, so that most of them read the image without a padded copy."""
    if not is_int(length):
        return [0, outputs]
    first = -(-window.pads[0] // window.stride)
    last = min(outputs, (length - window.effective_size + window.pads[0]) // window.stride + 1)
    return sorted({0, first, last, outputs}) if first < last else [0, outputs]


def _slice_span(x: Array, ids: Array, window: AxisWindow, first: int, last: int) -> tuple[Array, Array, Array]:
    """Return the values and segments that the outputs from `first` to `last` read, and the outputs' own segments."""
    start = first * window.stride - window.pads[0]
    stop = start + (last - 1 - first) * window.stride + window.effective_size
    own_stop = stop - window.effective_size + window.anchor + 1
    own = lax.slice_in_dim(ids, start + window.anchor, own_stop, window.stride, 1)
    if is_int(x.shape[1]):
        pads = (max(-start, 0), max(stop - x.shape[1], 0))
        x, ids = (a[:, max(start, 0) : min(stop, a.shape[1])] for a in (x, ids))
    else:
        pads = window.pads
    return pad_axis(x, 1, pads, "zeros"), pad_axis(ids, 1, pads, "zeros"), own


def _tap(x: Array, ids: Array, own: Array, window: AxisWindow, position: Any) -> Array:
    """Return the values that the tap at `position` reads, with zeros where it reads another segment."""
    span = (own.shape[1] - 1) * window.stride + 1
    segments = lax.dynamic_slice_in_dim(ids, position, span, 1)[:, :: window.stride]
    if is_int(position) and is_int(span) and jnp.issubdtype(x.dtype, jnp.inexact):
        values = _slice_along(x, position, span, window.stride)
    else:
        values = lax.dynamic_slice_in_dim(x, position, span, 1)[:, :: window.stride]
    return jnp.where((segments == own)[..., None], values, jnp.zeros((), x.dtype))


def _slice_along(x: Array, position: int, span: int, stride: int) -> Array:
    """Slice along axis 1; on a CPU the transpose is a gather, because sums of padded arrays are slow there."""
    n, size = x.shape[1], (span - 1) // stride + 1

    def forward(x: Array) -> Array:
        return lax.slice_in_dim(x, position, position + span, stride, 1)

    def padded(dy: Array) -> Array:
        pads = [(0, 0, 0), (position, n - position - span, stride - 1), (0, 0, 0)]
        return lax.pad(dy, jnp.zeros((), dy.dtype), pads)

    def gathered(dy: Array) -> Array:
        steps: np.ndarray = np.arange(n) - position
        is_read = jnp.asarray((steps >= 0) & (steps < span) & (steps % stride == 0))[None, :, None]
        at = jnp.asarray(steps // stride, jnp.int32).clip(0, size - 1)
        return jnp.where(is_read, dy.at[:, at].get(mode="promise_in_bounds"), jnp.zeros((), dy.dtype))

    transpose = functools.partial(_backend.by_platform, cpu=gathered, default=padded)
    slice_ = jax.custom_jvp(forward)
    slice_.defjvp(lambda x, dx: (slice_(*x), _backend.linear_map(dx[0], 1, size, forward, transpose)))
    return slice_(x)


def _by_taps(term: Callable, x: Array, ids: Array, own: Array, kernel: Array, window: AxisWindow) -> Array:
    """Sum `term(values, kernel)` over the taps."""
    if window.size <= MAX_UNROLLED_TAPS:
        values = [_tap(x, ids, own, window, t * window.dilation) for t in range(window.size)]
        return functools.reduce(operator.add, [term(tap, kernel[t]) for t, tap in enumerate(values)])

    @jax.checkpoint
    def step(total: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
        return total + term(_tap(x, ids, own, window, tap[0]), tap[1]), None

    of = jax.eval_shape(lambda: term(_tap(x, ids, own, window, 0), kernel[0]))
    positions = jnp.arange(window.size, dtype=jnp.int32) * window.dilation
    return lax.scan(step, jnp.zeros(of.shape, of.dtype), (positions, kernel))[0]


def _depthwise(values: Array, kernel: Array, wide: Any) -> Array:
    """Compute one tap of a depthwise convolution; `kernel` is `(1, c, multiplier)`."""
    return _scale_channels(jnp.repeat(values, kernel.shape[2], -1).astype(wide), kernel.ravel().astype(wide))


@jax.custom_jvp
def _scale_channels(x: Array, factors: Array) -> Array:
    """Multiply `(n, length, c)` by `(c,)`."""
    return x * factors[None, None]


@functools.partial(_scale_channels.defjvp, symbolic_zeros=True)
def _scale_channels_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x, factors), (dx, dfactors) = primals, tangents
    terms = [] if isinstance(dx, SymbolicZero) else [_scale_channels(dx, factors)]
    if not isinstance(dfactors, SymbolicZero):
        terms.append(x * _repeat_channels(dfactors, x.shape))
    return _scale_channels(x, factors), functools.reduce(operator.add, terms or [jnp.zeros_like(x)])


def _repeat_channels(factors: Array, shape: tuple[int, ...]) -> Array:
    """Repeat `(c,)` to `shape`, by a product with ones: its transpose, a product too, is the fastest sum on a CPU."""
    counts = [next(k for k in range(MAX_PARTS, 0, -1) if n % k == 0) for n in shape[:2]]
    axis = counts.index(max(counts))
    block = [n // max(counts) if number == axis else n for number, n in enumerate(shape[:2])]
    ones = jnp.ones((math.prod(block), 1), factors.dtype)
    repeated = lax.dot(ones, factors.reshape(1, shape[2]), precision=lax.Precision.HIGHEST).reshape(*block, shape[2])
    return jnp.concatenate([repeated] * max(counts), axis)


def _by_patches(product: Callable, x: Array, ids: Array, own: Array, kernel: Array, window: AxisWindow) -> Array:
    """Compute one product of the patches of all windows."""
    values = jnp.stack([_tap(x, ids, own, window, t * window.dilation) for t in range(window.size)], 2)
    return product(values, kernel)


def _product(values: Array, kernel: Array, groups: int, precision: Any, wide: Any) -> Array:
    """Multiply `(n, out, [taps,] c)` by `([taps,] c / groups, groups, features)`."""
    equation = "nmgi,igo->nmgo" if values.ndim == 3 else "nmtgi,tigo->nmgo"
    values = values.reshape(*values.shape[:-1], groups, values.shape[-1] // groups)
    y = jnp.einsum(equation, values, kernel, precision=precision, preferred_element_type=wide)
    return y.reshape(*y.shape[:2], y.shape[2] * y.shape[3])
