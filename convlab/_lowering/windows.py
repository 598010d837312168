"""Window reductions in slices, reshapes and elementwise operations: sum, max, and what max needs to be differentiated.

Arguments are those of `jax.lax.reduce_window` with one entry per array axis; batch and channel axes have a window of 1. Every
reduction here is separable, so a window of several axes is taken one axis after another where that is less work than all of its
taps at once. Nothing leaves its window: an infinity or a NaN reaches only the outputs whose windows hold it.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Reducer = Literal["max", "min"]


@dataclasses.dataclass(frozen=True)
class _Axis:
    """A window along one axis. Output `o` sees the dilated, padded input at `o * stride + tap * dilation`."""

    index: int
    size: int
    window: int
    stride: int
    low: int
    high: int
    base: int
    dilation: int

    @property
    def dilated(self) -> int:
        """Size after base dilation, before padding."""
        return (self.size - 1) * self.base + 1 if self.size else 0

    @property
    def reach(self) -> int:
        return (self.window - 1) * self.dilation + 1

    @property
    def out(self) -> int:
        span = self.dilated + self.low + self.high - self.reach
        return span // self.stride + 1 if span >= 0 else 0

    @property
    def trivial(self) -> bool:
        return self.reach == self.stride == self.base == 1 and self.low == self.high == 0

    @property
    def first_real(self) -> np.ndarray:
        """Per output the first tap that is no padding; 0 where all are."""
        place = np.arange(self.out)[:, None] * self.stride + np.arange(self.window) * self.dilation - self.low
        return np.argmax((place >= 0) & (place < self.dilated) & (place % self.base == 0), axis=1)


def _axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation) -> list[_Axis]:
    """The axes on which anything happens, first to last."""
    spec = zip(x.shape, window_dimensions, window_strides, padding, base_dilation, window_dilation)
    axes = (_Axis(i, n, k, s, lo, hi, b, d) for i, (n, k, s, (lo, hi), b, d) in enumerate(spec))
    return [axis for axis in axes if not axis.trivial]


def _pad(x: jax.Array, axis: _Axis, low: int, high: int, value, interior: int = 0) -> jax.Array:
    config = [(0, 0, 0)] * x.ndim
    config[axis.index] = (low, high, interior)
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def _taps(x: jax.Array, axis: _Axis, value) -> list[jax.Array]:
    """One array per tap of the window, each of the output's size along the axis."""
    x = _pad(x, axis, axis.low, axis.high, value, axis.base - 1)
    last = (axis.out - 1) * axis.stride + 1
    return [lax.slice_in_dim(x, start, start + last, axis.stride, axis.index) for start in range(0, axis.reach, axis.dilation)]


def _along(values: np.ndarray, axis: _Axis, ndim: int) -> np.ndarray:
    """A vector laid along the axis, to be broadcast over the others."""
    return values.reshape([-1 if i == axis.index else 1 for i in range(ndim)])


def stored(x: jax.Array) -> jax.Array:
    """`x`, kept in memory: XLA writes in place what is updated, and would otherwise compute it anew for every tap that reads it."""
    if 0 in x.shape:
        return x
    origin = (0,) * x.ndim
    return lax.dynamic_update_slice(x, lax.slice(x, origin, (1,) * x.ndim), origin)


def window_sum(x, *, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    wide = jnp.float32 if x.dtype in (jnp.bfloat16, jnp.float16) else x.dtype
    y = x.astype(wide)
    for axis in _axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation):
        y = functools.reduce(operator.add, _taps(y, axis, 0))
    return y.astype(x.dtype)


def _lowest(dtype, reducer: Reducer):
    """What never wins: the padding of a max (min: of a min)."""
    if dtype == jnp.bool_:
        return reducer == "min"
    info = jnp.finfo(dtype) if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf if reducer == "max" else np.inf
    return info.min if reducer == "max" else info.max


def window_max(x, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    for axis in _axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation):
        x = _max_along(x, axis, reducer)
        x = stored(x) if axis.reach > axis.stride > 1 else x
    return x


def _max_along(x, axis, reducer):
    return functools.reduce(lax.max if reducer == "max" else lax.min, _taps(x, axis, _lowest(x.dtype, reducer)))


def _beats(x, best, reducer: Reducer):
    """Where `x`, later in the window, takes the place of `best`: only if better, or the first NaN."""
    better = x > best if reducer == "max" else x < best
    if jnp.issubdtype(x.dtype, jnp.floating):
        better |= (x != x) & (best == best)
    return better


def _winners(x, axis: _Axis, reducer: Reducer, payloads):
    """The winning value of every window along the axis, and the winner's payload, one a tap."""
    first = axis.first_real
    taps = _taps(x, axis, _lowest(x.dtype, reducer))
    best, payload = taps[0], payloads[0]
    for t, (tap, carried) in enumerate(zip(taps[1:], payloads[1:]), 1):
        take = _beats(tap, best, reducer)
        if (first == t).any():
            take |= _along(first == t, axis, x.ndim)
        best, payload = jnp.where(take, tap, best), jnp.where(take, carried, payload)
    return best, payload


def window_argmax(x, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    index, scale = jnp.zeros(x.shape, jnp.int32), 1
    for axis in reversed(_axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation)):
        payloads = [tap + scale * t for t, tap in enumerate(_taps(index, axis, 0))]
        x, index = _winners(x, axis, reducer, payloads)
        scale *= axis.window
    return index


def max_tangent(x, dx, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    for axis in reversed(_axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation)):
        x, dx = map(stored, _winners(x, axis, reducer, _taps(dx, axis, 0)))
    return dx


def max_cotangent(x, dy, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    stages = []
    for axis in reversed(_axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation)):
        offsets = [jnp.full((), t * axis.dilation, jnp.int32) for t in range(axis.window)]
        x, winner = _winners(x, axis, reducer, offsets)
        winner = stored(jnp.broadcast_to(winner, x.shape))
        x = stored(x)
        stages.append((axis, winner))
    for axis, winner in reversed(stages):
        dy = stored(_cotangent_along(winner, dy, axis))
    return dy


def _cotangent_along(winner, dy, axis: _Axis):
    """Sends `dy` to its window's `winner`, an offset from the window's start: by phases of the stride."""
    s, ndim, i = axis.stride, dy.ndim, axis.index
    blocks = -(-axis.dilated // s)
    # input place p = s * block + phase is `p + low - s * o` from the start of window o = block - back
    backs = range(-(axis.low // s) - 1, (axis.reach - axis.low) // s + 2)
    total: Any = 0
    for back in backs:
        offset = back * s + axis.low + np.arange(s)
        if not ((offset >= 0) & (offset < axis.reach) & (offset % axis.dilation == 0)).any():
            continue
        move = lambda a, value: jnp.expand_dims(_pad(a, axis, back, blocks - axis.out - back, value), i + 1)
        here = move(winner, -1) == offset.astype(np.int32).reshape([-1 if j == i + 1 else 1 for j in range(ndim + 1)])
        total += jnp.where(here, move(dy, 0), 0)
    total = jnp.broadcast_to(total, (*dy.shape[:i], blocks, s, *dy.shape[i + 1 :]))
    dx = total.reshape(*dy.shape[:i], blocks * s, *dy.shape[i + 1 :]).astype(dy.dtype)
    return lax.slice_in_dim(dx, 0, axis.dilated, axis.base, i)
