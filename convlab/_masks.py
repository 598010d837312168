"""Which positions count: the valid ones of a padded batch, and those of the same sequence in a packed one.

Masks select and never multiply, so that what does not count changes nothing, be it NaN or infinite, in values and
gradients.
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

from . import _backend
from ._operands import check_zeros, with_bias
from ._patches import MAX_UNROLLED_TAPS, as_array, pad_axis
from ._window import Pair, Window, argument_error, axes, output_size

Array = jax.Array


# --- padded batches -----------------------------------------------------------------------------------------------


def read_valid(valid: Any, x: Array) -> Array | None:
    """`valid`, `(*batch, *spatial)`, with an axis for the channels of `x`."""
    if valid is None:
        return None
    valid = as_array("valid", valid, "an array of booleans")
    if valid.dtype != bool:
        raise argument_error("valid", "be booleans", valid.dtype.name, kind=TypeError)
    if valid.shape != x.shape[:-1]:
        raise argument_error("valid", f"have shape {x.shape[:-1]}", valid.shape, f"`x` of shape {x.shape}")
    return valid[..., None]


def only_valid(x: Array, valid: Array | None, fill: Any = 0) -> Array:
    """`x` where it is valid, elsewhere `fill`."""
    return x if valid is None else jnp.where(valid, x, jnp.asarray(fill).astype(x.dtype))


# --- packed sequences ---------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A window on one axis; its output belongs to the segment at its position `anchor`, counted from its first."""

    size: int
    stride: int
    dilation: int
    pads: Pair
    anchor: int

    @property
    def effective_size(self) -> int:
        return (self.size - 1) * self.dilation + 1


def read_segments(segment_ids: Any, x: Array, rank: int) -> Array:
    """Integers, `(*batch, length)`."""
    ids = as_array("segment_ids", segment_ids, "an array of integers")
    if rank != 1:
        raise argument_error("segment_ids", "be None", ids.shape, axes(rank), "Sequences have one spatial axis.")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise argument_error("segment_ids", "be integers", ids.dtype.name, kind=TypeError)
    if ids.shape != x.shape[:-1]:
        raise argument_error("segment_ids", f"have shape {x.shape[:-1]}", ids.shape, f"`x` of shape {x.shape}")
    return ids


def check_plain(
    window: Window, modes: tuple[str, ...], padding: Any, padding_mode: Any, others: dict[str, tuple[Any, Any, Any]]
) -> None:
    """That a convolution of packed sequences has no options but those of its window: for each other (given, read,
    default)."""
    check_zeros(window, modes, padding, padding_mode, "packed sequences")
    for name, (given, read, default) in others.items():
        if read != default:
            raise argument_error(name, f"be {default!r}", given, "packed sequences")


def packed_line(window: Window, length: int, padding: Any) -> Line:
    """The window of a convolution over packed sequences: output `i` belongs to the segment at position `i * stride`."""
    ((before, after),) = window.pads((length,))
    (size,), (stride,), (dilation,), (reach,) = window.size, window.strides, window.dilation, window.effective_size
    outputs = output_size(length, (before, after), reach, stride)
    if not 0 <= before < reach or (outputs - 1) * stride >= length:
        hint = "CAUSAL, SAME and VALID do."
        rule = "have position i * strides in the window of each output i"
        raise argument_error("padding", rule, padding, "packed sequences", hint)
    return Line(size, stride, dilation, (before, after), before)


def packed_conv(
    x: Array,
    kernel: Array,
    bias: Any,
    ids: Array,
    line: Line,
    *,
    groups: int,
    precision: Any,
    preferred_element_type: Any,
) -> Array:
    """The convolution of `(*batch, length, c)` whose taps see zeros where `ids: (*batch, length)` differ from their
    output's."""
    batch, features = ids.shape[:-1], kernel.shape[-1]
    ids = ids.reshape(math.prod(batch), ids.shape[-1])
    x = x.reshape(*ids.shape, x.shape[-1])
    y = _convolve(x, kernel, ids, line, groups, precision, preferred_element_type)
    return with_bias(y, bias, features).reshape(*batch, *y.shape[1:])


def _convolve(
    x: Array, kernel: Array, ids: Array, line: Line, groups: int, precision: Any, preferred_element_type: Any
) -> Array:
    narrow = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    result = jnp.dtype(x.dtype if preferred_element_type is None else preferred_element_type)
    least = jnp.dtype(jnp.float32) if narrow else x.dtype
    wide = result if result.itemsize > least.itemsize else least
    outputs = output_size(x.shape[1], line.pads, line.effective_size, line.stride)
    kernel = kernel.reshape(*kernel.shape[:2], groups, -1)
    if groups == x.shape[-1]:
        ends = _without_padding(line, x.shape[1], outputs)
        function = functools.partial(_by_taps, functools.partial(_depthwise, wide=wide))
    else:
        ends = [0, outputs]
        product = functools.partial(_product, groups=groups, precision=precision, wide=wide)
        function = functools.partial(_by_taps if line.size > MAX_UNROLLED_TAPS else _by_patches, product)
    parts = [function(*_span(x, ids, line, *span), kernel, line) for span in zip(ends, ends[1:])]
    y = jnp.concatenate(parts, 1) if len(parts) > 1 else parts[0]
    return y.astype(result)


def _without_padding(line: Line, length: int, outputs: int) -> list[int]:
    """Where to cut the outputs, so that most of them read the image as it lies in memory."""
    first = -(-line.pads[0] // line.stride)
    last = min(outputs, (length - line.effective_size + line.pads[0]) // line.stride + 1)
    return sorted({0, first, last, outputs}) if first < last else [0, outputs]


def _span(x: Array, ids: Array, line: Line, first: int, last: int) -> tuple[Array, Array, Array]:
    """What the outputs from `first` to `last` see: values, segments, and their own segments."""
    start = first * line.stride - line.pads[0]
    stop = start + (last - 1 - first) * line.stride + line.effective_size
    pads = (max(-start, 0), max(stop - x.shape[1], 0))
    own = ids[:, start + line.anchor : stop - line.effective_size + line.anchor + 1 : line.stride]
    x, ids = (pad_axis(a[:, max(start, 0) : min(stop, a.shape[1])], 1, pads, "zeros") for a in (x, ids))
    return x, ids, own


def _tap(x: Array, ids: Array, own: Array, line: Line, place: Any) -> Array:
    """What the tap at `place` sees."""
    span = (own.shape[1] - 1) * line.stride + 1
    segments = lax.dynamic_slice_in_dim(ids, place, span, 1)[:, :: line.stride]
    if isinstance(place, int) and jnp.issubdtype(x.dtype, jnp.inexact):
        seen = _sliced(x, place, span, line.stride)
    else:
        seen = lax.dynamic_slice_in_dim(x, place, span, 1)[:, :: line.stride]
    return jnp.where((segments == own)[..., None], seen, jnp.zeros((), x.dtype))


def _sliced(x: Array, place: int, span: int, stride: int) -> Array:
    """A slice along axis 1; on a CPU its transpose is a gather, for sums of padded arrays are slow there."""
    n, size = x.shape[1], (span - 1) // stride + 1

    def forward(x: Array) -> Array:
        return lax.slice_in_dim(x, place, place + span, stride, 1)

    def padded(dy: Array) -> Array:
        pads = [(0, 0, 0), (place, n - place - span, stride - 1), (0, 0, 0)]
        return lax.pad(dy, jnp.zeros((), dy.dtype), pads)

    def gathered(dy: Array) -> Array:
        steps: np.ndarray = np.arange(n) - place
        is_read = jnp.asarray((steps >= 0) & (steps < span) & (steps % stride == 0))[None, :, None]
        at = jnp.asarray(steps // stride, jnp.int32).clip(0, size - 1)
        return jnp.where(is_read, dy.at[:, at].get(mode="promise_in_bounds"), jnp.zeros((), dy.dtype))

    transpose = functools.partial(_backend.by_platform, cpu=gathered, default=padded)
    slice_ = jax.custom_jvp(forward)
    slice_.defjvp(lambda x, dx: (slice_(*x), _backend.linear_map(dx[0], 1, size, forward, transpose)))
    return slice_(x)


def _by_taps(term: Callable, x: Array, ids: Array, own: Array, kernel: Array, line: Line) -> Array:
    """The sum over the taps of `term(what it sees, its kernel)`."""
    if line.size <= MAX_UNROLLED_TAPS:
        seen = [_tap(x, ids, own, line, t * line.dilation) for t in range(line.size)]
        return functools.reduce(operator.add, [term(tap, kernel[t]) for t, tap in enumerate(seen)])

    @jax.checkpoint
    def step(total: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
        return total + term(_tap(x, ids, own, line, tap[0]), tap[1]), None

    of = jax.eval_shape(lambda: term(_tap(x, ids, own, line, 0), kernel[0]))
    places = jnp.arange(line.size, dtype=jnp.int32) * line.dilation
    return lax.scan(step, jnp.zeros(of.shape, of.dtype), (places, kernel))[0]


def _depthwise(seen: Array, kernel: Array, wide: Any) -> Array:
    """One tap of a convolution that keeps channels apart; `kernel` is `(1, c, multiplier)`."""
    if kernel.shape[2] == 1:
        return seen.astype(wide) * kernel.reshape(1, 1, -1).astype(wide)
    product = seen.astype(wide)[..., None] * kernel.astype(wide)[None]
    return product.reshape(*seen.shape[:-1], math.prod(kernel.shape))


def _by_patches(product: Callable, x: Array, ids: Array, own: Array, kernel: Array, line: Line) -> Array:
    """One product of all that the windows see."""
    seen = jnp.stack([_tap(x, ids, own, line, t * line.dilation) for t in range(line.size)], 2)
    return product(seen, kernel)


def _product(seen: Array, kernel: Array, groups: int, precision: Any, wide: Any) -> Array:
    """`(n, out, [taps,] c)` by `([taps,] c / groups, groups, features)`."""
    taps, equation = (seen.shape[:-1], "nmgi,igo->nmgo") if seen.ndim == 3 else (seen.shape[:-1], "nmtgi,tigo->nmgo")
    seen = seen.reshape(*taps, groups, seen.shape[-1] // groups)
    y = jnp.einsum(equation, seen, kernel, precision=precision, preferred_element_type=wide)
    return y.reshape(*y.shape[:2], y.shape[2] * y.shape[3])
