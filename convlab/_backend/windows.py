"""Window reductions in slices, reshapes and elementwise operations: sum, max, and what max needs to be differentiated.

Arguments are those of `jax.lax.reduce_window` with one entry per array axis; batch and channel axes have a window of 1. Every
reduction here is separable, so a window of several axes is taken one axis after another. Outputs whose windows are cut by an edge
are computed apart, of the taps that are there: XLA's loops then have no padding to ask about. Nothing leaves its window: an infinity
or a NaN reaches only the outputs whose windows hold it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from .axis import MOST_RUNS, Axis, axes

Reducer = Literal["max", "min"]
Taps = list[tuple[int, jax.Array]]
Stage = tuple[Axis, ...]  # axes that are reduced together
_VECTOR = 16  # floats
Region = tuple[Sequence[int], Sequence[int]]


def _pad(x: jax.Array, axis: Axis, low: int, high: int, value, interior: int = 0) -> jax.Array:
    config = [(0, 0, 0)] * x.ndim
    config[axis.index] = (low, high, interior)
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def materialize(x: jax.Array) -> jax.Array:
    """`x`, kept in memory: XLA writes in place what is updated, and would otherwise compute it anew for every tap that reads it."""
    if 0 in x.shape:
        return x
    origin = (0,) * x.ndim
    return lax.dynamic_update_slice(x, lax.slice(x, origin, (1,) * x.ndim), origin)


def no_inline(function: Callable, *args: jax.Array) -> jax.Array:
    """`function(*args)`, which XLA neither fuses with what reads it nor computes anew for every reader."""
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)(*args)


def _wide(x: jax.Array) -> jax.Array:
    """16-bit floats as float32: sums need it, and XLA's loops on a CPU compare it several times faster."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def _slice(x: jax.Array, stage: Stage, starts, counts, strides) -> jax.Array:
    """`counts` places along the axes of the stage, from `starts` on."""
    index = [slice(None)] * x.ndim
    for axis, start, count, stride in zip(stage, starts, counts, strides):
        index[axis.index] = slice(start, start + (count - 1) * stride + 1, stride)
    return x[tuple(index)]


def _joined(parts: list, stage: Stage, counts: Sequence[int]):
    """The regions, last axis fastest, put together along the axes; `counts` of them along each."""
    for axis, count in zip(reversed(stage), reversed(counts)):
        rows = [parts[i : i + count] for i in range(0, len(parts), count)]
        parts = [jax.tree.map(lambda *a: lax.concatenate(a, axis.index), *row) if count > 1 else row[0] for row in rows]
    return parts[0]


def _over_windows(x: jax.Array, stage: Stage, fill, body: Callable[[Taps, Region], Any]) -> Any:
    """`body(taps, region)` for every region of outputs whose windows are cut alike, put together.

    A tap is its number, over the axes of the stage, and its values; a region is the first output and the number of them, per axis.
    """
    runs = []
    for axis in stage:
        if axis.runs is None:
            x = materialize(_pad(x, axis, axis.low, axis.high, fill, axis.base - 1))
            runs.append([(0, axis.out, [(t, t * axis.dilation) for t in range(axis.window)])])
        else:
            runs.append([(o, count, [(t, axis.start(o, t)) for t in real]) for o, count, real in axis.runs])
    strides, parts = [axis.stride for axis in stage], []
    for region in itertools.product(*runs):
        firsts, counts, starts = zip(*region)
        taps = [
            (_number(stage, [t for t, _ in tap]), _slice(x, stage, [at for _, at in tap], counts, strides))
            for tap in itertools.product(*starts)
        ]
        if not taps:
            shape = list(x.shape)
            for axis, count in zip(stage, counts):
                shape[axis.index] = count
            taps = [(0, jnp.full(shape, fill, x.dtype))]
        parts.append(body(taps, (firsts, counts)))
    return _joined(parts, stage, [len(r) for r in runs])


def _number(stage: Stage, taps: Sequence[Any]) -> Any:
    """One number for the taps of all axes, the last one fastest."""
    return functools.reduce(lambda number, pair: number * pair[0].window + pair[1], zip(stage, taps), 0)


def _fold(x: jax.Array, axis: Axis, combine: Callable, fill) -> jax.Array:
    if axis.size == 1:  # a global pool's gradient: what sees the one place has its value
        sees = np.expand_dims(axis.real.any(axis=1), _others(x, (axis,)))
        return jnp.where(sees, x, jnp.asarray(fill, x.dtype))
    if axis.runs is not None and axis.effective_size > axis.stride and axis.window > MOST_RUNS:
        x = materialize(x)
    return _over_windows(x, (axis,), fill, lambda taps, _: functools.reduce(combine, [values for _, values in taps]))


def _back(values: Sequence[jax.Array], stage: Stage, contribution: Callable[..., jax.Array]) -> jax.Array:
    """What each place of the input, before padding, gets from the outputs that see it.

    `values` are the outputs'. `contribution(*values, taps)` is what some of them send, each through one tap for every phase of the
    strides, -1 for none: the phases are an axis behind each of the window's, and `taps` lies along them.
    """
    runs = []
    for axis in stage:
        shift, found = 0, axis.reached_runs
        if found is None:
            backs = [back for back, _ in axis.reached]
            shift, high = max(0, -min(backs)), max(0, axis.blocks + max(backs) - axis.out)
            values = [materialize(_pad(v, axis, shift, high, 0)) for v in values]
            found = [(0, axis.blocks, tuple(range(len(backs))))]
        runs.append([(n, [(b + back + shift, taps) for back, taps in map(axis.reached.__getitem__, at)]) for b, n, at in found])
    behind = [axis.index + 1 + nth for nth, axis in enumerate(stage)]
    strides, ones = [axis.stride for axis in stage], [1] * len(stage)
    parts = []
    for region in itertools.product(*runs):
        counts, reached = zip(*region)
        total: Any = jnp.zeros((), values[0].dtype)
        for combination in itertools.product(*reached):
            starts, taps = zip(*combination)
            number = np.asarray(_number(stage, np.ix_(*taps)))
            number = np.where(functools.reduce(np.minimum, np.ix_(*taps)) < 0, -1, number)
            seen = [jnp.expand_dims(_slice(v, stage, starts, counts, ones), behind) for v in values]
            total += contribution(*seen, np.expand_dims(number, [d for d in range(seen[0].ndim) if d not in behind]))
        shape = list(values[0].shape)
        for axis, count in zip(stage, counts):
            shape[axis.index] = count
        for place, stride in zip(behind, strides):
            shape.insert(place, stride)
        total = jnp.broadcast_to(total, shape)
        for axis, count in zip(stage, counts):
            total = total.reshape(*total.shape[: axis.index], count * axis.stride, *total.shape[axis.index + 2 :])
        parts.append(total)
    whole = _joined(parts, stage, [len(r) for r in runs])
    for axis in stage:
        whole = lax.slice_in_dim(whole, 0, axis.dilated, axis.base, axis.index)
    return whole


def _without_ones(reduction: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The reduction of arrays without the idle axes of one place, which make XLA's loops up to ten times slower."""

    @functools.wraps(reduction)
    def reduced(*arrays, **options):
        shape, window = arrays[0].shape, {name: value for name, value in options.items() if name != "reducer"}
        facts = zip(shape, options["window_dimensions"], options["window_strides"], options["padding"])
        ones = [i for i, fact in enumerate(facts) if (*fact[:3], tuple(fact[3])) == (1, 1, 1, (0, 0)) and i < len(shape) - 1]
        kept = [i for i in range(len(shape)) if i not in ones]
        options |= {name: tuple(value[i] for i in kept) for name, value in window.items()}
        return jnp.expand_dims(reduction(*(lax.squeeze(a, ones) for a in arrays), **options), ones)

    return reduced


@_without_ones
def window_sum(x, *, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    y = _wide(x)
    for axis in axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation):
        if axis.base > 1 and axis.stride == 1 and axis.size > 1:
            y = _back([y], (axis.mirrored,), lambda y, taps: y if (taps >= 0).all() else jnp.where(taps >= 0, y, 0))
        else:
            y = _fold(y, axis, lax.add, 0)
    return y.astype(x.dtype)


def lowest(dtype, reducer: Reducer):
    """What never wins: the padding of a max (min: of a min)."""
    if dtype == jnp.bool_:
        return reducer == "min"
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf if reducer == "max" else np.inf
    return jnp.iinfo(dtype).min if reducer == "max" else jnp.iinfo(dtype).max


@_without_ones
def window_max(x, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    for axis in axes(x, window_dimensions, window_strides, padding, base_dilation, window_dilation):
        x = _fold(x, axis, lax.max if reducer == "max" else lax.min, lowest(x.dtype, reducer))
    return x


def _beats(x, best, reducer: Reducer):
    """Where `x`, later in the window, takes the place of `best`: only if better, or a NaN; as in PyTorch the last NaN wins."""
    better = x > best if reducer == "max" else x < best
    if jnp.issubdtype(x.dtype, jnp.floating):
        better |= x != x
    return better


def _stages(x, *window) -> list[Stage]:
    """All axes at once where the windows tile the input, one after another, last first, where they overlap or are cut.

    Either way the first of several winners wins, in the order of the window's places. With fewer channels than a vector holds,
    XLA's loops over all axes at once are the slower ones.
    """
    found = axes(x, *window)
    together = found and all(axis.tiles for axis in found) and x.shape[-1] >= _VECTOR
    return [tuple(found)] if together else [(axis,) for axis in reversed(found)]


def _winners(x, stage: Stage, reducer: Reducer):
    """The winning value of every window along the stage's axes, and the number of the tap that wins."""
    small = jnp.int8 if math.prod(axis.window for axis in stage) <= 127 else jnp.int32

    def body(taps: Taps, region: Region):
        best = taps[0][1]
        firsts = [axis.first_real[first : first + count] for axis, first, count in zip(stage, *region)]
        first = np.asarray(_number(stage, np.ix_(*firsts))).astype(small)
        winner = jnp.broadcast_to(jnp.expand_dims(first, _others(best, stage)), best.shape)
        for tap, values in taps[1:]:
            take = _beats(values, best, reducer)
            best, winner = jnp.where(take, values, best), jnp.where(take, small(tap), winner)
        return best, winner

    best, winner = _over_windows(x, stage, lowest(x.dtype, reducer), body)
    return materialize(best), materialize(winner)


def _others(x: jax.Array, stage: Stage) -> list[int]:
    """The axes that are none of the stage's."""
    return [d for d in range(x.ndim) if d not in [axis.index for axis in stage]]


def _at_winner(winner, values, stage: Stage):
    """The values' entries at the winning taps; 0 where the window is all padding."""

    def body(taps: Taps, region: Region):
        chosen = _slice(winner, stage, *region, [1] * len(stage))
        return functools.reduce(lambda rest, tap: jnp.where(chosen == tap[0], tap[1], rest), taps[1:], taps[0][1])

    return _over_windows(values, stage, 0, body)


@_without_ones
def window_argmax(x, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    x, index, scale = _wide(x), jnp.zeros(x.shape, jnp.int32), 1
    for stage in _stages(x, window_dimensions, window_strides, padding, base_dilation, window_dilation):
        x, winner = _winners(x, stage, reducer)
        index = _at_winner(winner, index, stage) + scale * winner.astype(jnp.int32)
        scale *= math.prod(axis.window for axis in stage)
    return index


@_without_ones
def max_tangent(x, dx, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    x = _wide(x)
    for stage in _stages(x, window_dimensions, window_strides, padding, base_dilation, window_dilation):
        x, winner = _winners(x, stage, reducer)
        dx = materialize(_at_winner(winner, dx, stage))
    return dx


@_without_ones
def max_cotangent(x, dy, *, reducer: Reducer, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    x, stages = _wide(x), []
    for stage in _stages(x, window_dimensions, window_strides, padding, base_dilation, window_dilation):
        x, winner = _winners(x, stage, reducer)
        stages.append((stage, winner))
    dx = _wide(dy)
    for nth, (stage, winner) in reversed(list(enumerate(stages))):
        back = _back([dx, winner], stage, lambda dy, won, taps: jnp.where(won == taps.astype(won.dtype), dy, 0))
        dx = materialize(back.astype(dx.dtype if nth else dy.dtype))
    return dx
