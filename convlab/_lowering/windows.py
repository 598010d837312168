"""Window reductions in slices, reshapes and elementwise operations: sum, max, and what max needs to be differentiated.

Arguments are those of `jax.lax.reduce_window` with one entry per array axis; batch and channel axes have a window of 1. Every
reduction here is separable, so a window of several axes is taken one axis after another. Outputs whose windows are cut by an edge
are computed apart, of the taps that are there: XLA's loops then have no padding to ask about. Nothing leaves its window: an infinity
or a NaN reaches only the outputs whose windows hold it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .axis import Axis, axes

Reducer = Literal["max", "min"]
Taps = list[tuple[int, jax.Array]]


def _pad(x: jax.Array, axis: Axis, low: int, high: int, value, interior: int = 0) -> jax.Array:
    config = [(0, 0, 0)] * x.ndim
    config[axis.index] = (low, high, interior)
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def _along(values: np.ndarray, axis: Axis, ndim: int) -> np.ndarray:
    """A vector laid along the axis, to be broadcast over the others."""
    return values.reshape([-1 if i == axis.index else 1 for i in range(ndim)])


def stored(x: jax.Array) -> jax.Array:
    """`x`, kept in memory: XLA writes in place what is updated, and would otherwise compute it anew for every tap that reads it."""
    if 0 in x.shape:
        return x
    origin = (0,) * x.ndim
    return lax.dynamic_update_slice(x, lax.slice(x, origin, (1,) * x.ndim), origin)


def _over_windows(x: jax.Array, axis: Axis, fill, body: Callable[[Taps, slice], Any]) -> Any:
    """`body(taps, outputs)` for the outputs of each run, put together along the axis; a tap is its number and its values."""
    i, stride = axis.index, axis.stride
    if axis.runs is None:
        x = stored(_pad(x, axis, axis.low, axis.high, fill, axis.base - 1))
        last = (axis.out - 1) * stride + 1
        starts = [(tap, tap * axis.dilation) for tap in range(axis.window)]
        return body([(tap, lax.slice_in_dim(x, at, at + last, stride, i)) for tap, at in starts], slice(0, axis.out))
    parts = []
    for first, count, real in axis.runs:
        starts = [(tap, axis.start(first, tap)) for tap in real]
        taps = [(tap, lax.slice_in_dim(x, at, at + (count - 1) * stride + 1, stride, i)) for tap, at in starts]
        nothing = jnp.full((*x.shape[:i], count, *x.shape[i + 1 :]), fill, x.dtype)
        parts.append(body(taps or [(0, nothing)], slice(first, first + count)))
    return jax.tree.map(lambda *runs: lax.concatenate(runs, i) if len(runs) > 1 else runs[0], *parts)


def _fold(x: jax.Array, axis: Axis, combine: Callable, fill) -> jax.Array:
    return _over_windows(x, axis, fill, lambda taps, _: functools.reduce(combine, [values for _, values in taps]))


def _back(values: Sequence[jax.Array], axis: Axis, contribution: Callable[..., jax.Array]) -> jax.Array:
    """What each place of the input, before padding, gets from the outputs that see it.

    `values` are the outputs'. `contribution(*values, taps)` is what some of them send, each through one tap for every phase of the
    stride, -1 for none: the phases are an axis behind the window's, and `taps` lies along it.
    """
    i, ndim, runs = axis.index, values[0].ndim, axis.reached_runs
    shift = 0
    if runs is None:
        backs = [back for back, _ in axis.reached]
        shift = max(0, -min(backs))
        high = max(0, axis.blocks + max(backs) - axis.out)
        values, runs = [stored(_pad(v, axis, shift, high, 0)) for v in values], [(0, axis.blocks, tuple(range(len(backs))))]
    shape = (*values[0].shape[:i], -1, axis.stride, *values[0].shape[i + 1 :])
    parts = []
    for first, count, reached in runs:
        total: Any = jnp.zeros((), values[0].dtype)
        for back, taps in (axis.reached[r] for r in reached):
            start = first + back + shift
            seen = [jnp.expand_dims(lax.slice_in_dim(v, start, start + count, 1, i), i + 1) for v in values]
            total += contribution(*seen, taps.reshape([-1 if j == i + 1 else 1 for j in range(ndim + 1)]))
        parts.append(jnp.broadcast_to(total, [count if j == i else n for j, n in enumerate(shape)]))
    whole = lax.concatenate(parts, i) if len(parts) > 1 else parts[0]
    whole = whole.reshape(*shape[:i], axis.blocks * axis.stride, *shape[i + 2 :])
    return lax.slice_in_dim(whole, 0, axis.dilated, axis.base, i)


def window_sum(x, *, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    wide = jnp.float32 if x.dtype in (jnp.bfloat16, jnp.float16) else x.dtype
    y = x.astype(wide)
    for axis in axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation):
        if axis.base > 1 and axis.stride == 1:
            y = _back([y], axis.mirrored, lambda y, taps: y if (taps >= 0).all() else jnp.where(taps >= 0, y, 0))
        else:
            y = _fold(y, axis, lax.add, 0)
    return y.astype(x.dtype)


def _lowest(dtype, reducer: Reducer):
    """What never wins: the padding of a max (min: of a min)."""
    if dtype == jnp.bool_:
        return reducer == "min"
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf if reducer == "max" else np.inf
    return jnp.iinfo(dtype).min if reducer == "max" else jnp.iinfo(dtype).max


def window_max(x, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    for axis in axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation):
        x = _fold(x, axis, lax.max if reducer == "max" else lax.min, _lowest(x.dtype, reducer))
    return x


def _beats(x, best, reducer: Reducer):
    """Where `x`, later in the window, takes the place of `best`: only if better, or the first NaN."""
    better = x > best if reducer == "max" else x < best
    if jnp.issubdtype(x.dtype, jnp.floating):
        better |= (x != x) & (best == best)
    return better


def _winners(x, axis: Axis, reducer: Reducer):
    """The winning value of every window along the axis, and the tap that wins."""
    small = jnp.int8 if axis.window <= 127 else jnp.int32

    def body(taps: Taps, outputs: slice):
        best = taps[0][1]
        winner = jnp.broadcast_to(_along(axis.first_real[outputs], axis, best.ndim).astype(small), best.shape)
        for tap, values in taps[1:]:
            take = _beats(values, best, reducer)
            best, winner = jnp.where(take, values, best), jnp.where(take, small(tap), winner)
        return best, winner

    best, winner = _over_windows(x, axis, _lowest(x.dtype, reducer), body)
    return stored(best), stored(winner)


def _at_winner(winner, values, axis: Axis):
    """The values' entries at the winning taps; 0 where the window is all padding."""

    def body(taps: Taps, outputs: slice):
        chosen = lax.slice_in_dim(winner, outputs.start, outputs.stop, 1, axis.index)
        return functools.reduce(lambda rest, tap: jnp.where(chosen == tap[0], tap[1], rest), taps[1:], taps[0][1])

    return _over_windows(values, axis, 0, body)


def window_argmax(x, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    index, scale = jnp.zeros(x.shape, jnp.int32), 1
    for axis in reversed(axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation)):
        x, winner = _winners(x, axis, reducer)
        index = _at_winner(winner, index, axis) + scale * winner.astype(jnp.int32)
        scale *= axis.window
    return index


def max_tangent(x, dx, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    for axis in reversed(axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation)):
        x, winner = _winners(x, axis, reducer)
        dx = stored(_at_winner(winner, dx, axis))
    return dx


def max_cotangent(x, dy, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    stages = []
    for axis in reversed(axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation)):
        x, winner = _winners(x, axis, reducer)
        stages.append((axis, winner))
    wide = jnp.float32 if dy.dtype in (jnp.bfloat16, jnp.float16) else dy.dtype
    dx = dy.astype(wide)
    for axis, winner in reversed(stages):
        dx = stored(_back([dx, winner], axis, lambda dy, won, taps: jnp.where(won == taps.astype(won.dtype), dy, 0)))
    return dx.astype(dy.dtype)
