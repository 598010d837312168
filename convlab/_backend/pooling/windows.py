"""Window reductions in slices, reshapes and elementwise operations: sum, max, and what max needs to be differentiated.

Every reduction here is separable, so a window of several axes is taken one axis after another. Outputs whose windows an
edge cuts are computed apart, of the elements that are there: XLA's loops then have no padding to ask about. Nothing
leaves its window: an infinity or a NaN reaches only the outputs whose windows hold it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..buffers import equal, materialize, select
from .axis import MOST_RUNS, Axis

Array = jax.Array
Reducer = Literal["max", "min"]
Stage = tuple[Axis, ...]  # axes that are reduced together
MOST_ELEMENTS = 32  # of a window that are unrolled; more are a loop, so that no program grows with its windows
_VECTOR = 16  # floats


def _pad(x: Array, axis: Axis, low: int, high: int, value: Any, interior: int = 0) -> Array:
    config = [(0, 0, 0)] * x.ndim
    config[axis.index] = (low, high, interior)
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def _wide(x: Array) -> Array:
    """16-bit floats as float32: sums need it, and XLA's loops on a CPU compare it several times faster."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def _slice(x: Array, stage: Stage, starts: Sequence[int], counts: Sequence[int], strides: Sequence[int]) -> Array:
    """`counts` positions along the axes of the stage, from `starts` on."""
    first, last, step = [0] * x.ndim, list(x.shape), [1] * x.ndim
    for axis, start, count, stride in zip(stage, starts, counts, strides):
        first[axis.index], last[axis.index], step[axis.index] = start, start + (count - 1) * stride + 1, stride
    return x if (*first, *last) == (*(0,) * x.ndim, *x.shape) and max(step) == 1 else lax.slice(x, first, last, step)


def _slice_in_loop(x: Array, axis: Axis, start: Any, count: int, stride: int) -> Array:
    view = lax.dynamic_slice_in_dim(x, start, (count - 1) * stride + 1, axis.index)
    return lax.slice_in_dim(view, 0, view.shape[axis.index], stride, axis.index)


def _joined(parts: list, stage: Stage, counts: Sequence[int]) -> Any:
    """The regions, last axis fastest, put together along the axes; `counts` of them along each."""
    for axis, count in zip(reversed(stage), reversed(counts)):
        rows = [parts[i : i + count] for i in range(0, len(parts), count)]
        parts = [jax.tree.map(lambda *a: lax.concatenate(a, axis.index), *row) if count > 1 else row[0] for row in rows]
    return parts[0]


def _others(x: Array, stage: Stage) -> list[int]:
    """The array's axes that are none of the stage's."""
    return [d for d in range(x.ndim) if d not in [axis.index for axis in stage]]


def _number(stage: Stage, elements: Sequence[Any]) -> Any:
    """One number for the window's element along each axis, the last axis fastest."""
    return functools.reduce(lambda number, pair: number * pair[0].window + pair[1], zip(stage, elements), 0)


# --- forward: over the elements of the windows --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Region:
    """Outputs whose windows are cut alike: the first of them and how many, along each axis."""

    firsts: Sequence[int]
    counts: Sequence[int]


def _over_windows(x: Array, stage: Stage, fill: Any, first: Callable, step: Callable) -> Any:
    """A fold over the elements of each window: `step(carry, number, values, region)`, from `first(values, region)` of
    one of them."""
    if len(stage) == 1 and stage[0].window > MOST_ELEMENTS:
        return _in_loop(x, stage[0], fill, first, step)
    runs = []
    for axis in stage:
        if axis.runs is None:
            x = materialize(_pad(x, axis, axis.low, axis.high, fill, axis.base - 1))
            runs.append([(0, axis.out, [(t, t * axis.dilation) for t in range(axis.window)])])
        else:
            runs.append([(o, count, [(t, axis.start(o, t)) for t in real]) for o, count, real in axis.runs])
    strides, parts = [axis.stride for axis in stage], []
    for run in itertools.product(*runs):
        firsts, counts, starts = zip(*run)
        region, carry = _Region(firsts, counts), None
        for element in itertools.product(*starts):
            values = _slice(x, stage, [at for _, at in element], counts, strides)
            number = _number(stage, [t for t, _ in element])
            carry = first(values, region) if carry is None else step(carry, number, values, region)
        if carry is None:  # windows of padding only
            shape = list(x.shape)
            for axis, count in zip(stage, counts):
                shape[axis.index] = count
            carry = first(jnp.full(shape, fill, x.dtype), region)
        parts.append(carry)
    return _joined(parts, stage, [len(r) for r in runs])


def _in_loop(x: Array, axis: Axis, fill: Any, first: Callable, step: Callable) -> Any:
    x, region = _pad(x, axis, axis.low, axis.high, fill, axis.base - 1), _Region([0], [axis.out])

    def read(t: Any) -> Array:
        return _slice_in_loop(x, axis, t * axis.dilation, axis.out, axis.stride)

    start = first(jnp.full_like(read(0), fill), region)
    return lax.fori_loop(0, axis.window, lambda t, carry: step(carry, t, read(t), region), start)


def _reduce(x: Array, axis: Axis, combine: Callable, fill: Any) -> Array:
    if axis.size == 1:  # a global pool's gradient: a window has the value of the one element if it holds it
        held = np.expand_dims(axis.on_input.any(axis=1), _others(x, (axis,)))
        return jnp.where(held, x, jnp.asarray(fill, x.dtype))
    if axis.runs is not None and axis.effective_size > axis.stride and axis.window > MOST_RUNS:
        x = materialize(x)
    return _over_windows(x, (axis,), fill, lambda v, _: v, lambda carry, _, v, __: combine(carry, v))


# --- back: from the outputs to the input --------------------------------------------------------------------------


def _back(values: Sequence[Array], stage: Stage, contribution: Callable[..., Array]) -> Array:
    """What each position of the input, before padding, gets from the outputs whose windows hold it.

    `values` are the outputs'. `contribution(*values, elements)` is what some of them send, each through one element of
    the window for every phase of the strides, -1 for none: the phases are an axis behind each of the window's, and
    `elements` lies along them.
    """
    behind = [axis.index + 1 + nth for nth, axis in enumerate(stage)]
    if len(stage) == 1 and len(stage[0].readers) > MOST_ELEMENTS:
        whole = _merged(_back_in_loop(values, stage[0], contribution), stage, [stage[0].blocks])
    else:
        whole = _back_unrolled(list(values), stage, behind, contribution)
    for axis in stage:
        if axis.base > 1 or axis.dilated < whole.shape[axis.index]:
            whole = lax.slice_in_dim(whole, 0, axis.dilated, axis.base, axis.index)
    return whole


def _back_unrolled(values: list[Array], stage: Stage, behind: list[int], contribution: Callable[..., Array]) -> Array:
    runs = []
    for axis in stage:
        shift, found = 0, axis.reader_runs
        if found is None:
            shift, high = axis.reader_pads
            values = [materialize(_pad(v, axis, shift, high, 0)) for v in values]
            found = [(0, axis.blocks, tuple(range(len(axis.readers))))]
        runs.append(
            [(n, [(b + back + shift, e) for back, e in map(axis.readers.__getitem__, at)]) for b, n, at in found]
        )
    strides, ones, parts = [axis.stride for axis in stage], [1] * len(stage), []
    for region in itertools.product(*runs):
        counts, reached = zip(*region)
        total: Any = None
        for combination in itertools.product(*reached):
            starts, elements = zip(*combination)
            number = np.asarray(_number(stage, np.ix_(*elements)))
            number = np.where(functools.reduce(np.minimum, np.ix_(*elements)) < 0, -1, number)
            read = [jnp.expand_dims(_slice(v, stage, starts, counts, ones), behind) for v in values]
            sent = contribution(*read, np.expand_dims(number, [d for d in range(read[0].ndim) if d not in behind]))
            total = sent if total is None else lax.add(total, sent)
        shape = list(values[0].shape)
        for axis, count in zip(stage, counts):
            shape[axis.index] = count
        for at, stride in zip(behind, strides):
            shape.insert(at, stride)
        total = jnp.zeros((), values[0].dtype) if total is None else total
        parts.append(_merged(jnp.broadcast_to(total, shape), stage, counts))
    return _joined(parts, stage, [len(r) for r in runs])


def _back_in_loop(values: Sequence[Array], axis: Axis, contribution: Callable[..., Array]) -> Array:
    shift, high = axis.reader_pads
    padded = [_pad(v, axis, shift, high, 0) for v in values]
    backs, elements = (jnp.asarray(np.asarray(part)) for part in zip(*axis.readers))
    others = [d for d in range(values[0].ndim + 1) if d != axis.index + 1]

    def sent(nth: Any) -> Array:
        read = [_slice_in_loop(v, axis, backs[nth] + shift, axis.blocks, 1) for v in padded]
        return contribution(*(jnp.expand_dims(v, axis.index + 1) for v in read), jnp.expand_dims(elements[nth], others))

    like = jax.eval_shape(sent, 0)
    return lax.fori_loop(0, len(axis.readers), lambda nth, sum: sum + sent(nth), jnp.zeros(like.shape, like.dtype))


def _merged(x: Array, stage: Stage, counts: Sequence[int]) -> Array:
    """With the phases of each axis, which lie behind it, in their places."""
    for axis, count in zip(stage, counts):
        x = x.reshape(*x.shape[: axis.index], count * axis.stride, *x.shape[axis.index + 2 :])
    return x


# --- sums and maxima ----------------------------------------------------------------------------------------------


def _without_idle_axes(reduction: Callable[..., Array]) -> Callable[..., Array]:
    """The reduction of arrays without axes of one position that no window is on, which make XLA's loops up to ten times
    slower."""

    @functools.wraps(reduction)
    def reduced(*operands: Any, **options: Any) -> Array:
        *arrays, axes = operands
        busy = {axis.index for axis in axes}
        ones = [i for i, n in enumerate(arrays[0].shape[:-1]) if n == 1 and i not in busy]
        moved = [dataclasses.replace(axis, index=axis.index - sum(i < axis.index for i in ones)) for axis in axes]
        return jnp.expand_dims(reduction(*(lax.squeeze(a, ones) for a in arrays), moved, **options), ones)

    return reduced


@_without_idle_axes
def window_sum(x: Array, axes: Sequence[Axis]) -> Array:
    """The sum of each window."""
    y = _wide(x)
    for axis in axes:
        if axis.base > 1 and axis.stride == 1 and axis.size > 1:
            y = _back(
                [y],
                (axis.transposed,),
                lambda y, elements: y if np.all(elements >= 0) else jnp.where(elements >= 0, y, 0),
            )
        else:
            y = _reduce(y, axis, lax.add, 0)
    return y.astype(x.dtype)


def lowest(dtype: Any, reducer: Reducer) -> Any:
    """What never wins: the padding of a max (min: of a min)."""
    if dtype == jnp.bool_:
        return reducer == "min"
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf if reducer == "max" else np.inf
    return jnp.iinfo(dtype).min if reducer == "max" else jnp.iinfo(dtype).max


@_without_idle_axes
def window_max(x: Array, axes: Sequence[Axis], *, reducer: Reducer) -> Array:
    """The maximum, or minimum, of each window."""
    for axis in axes:
        x = _reduce(x, axis, lax.max if reducer == "max" else lax.min, lowest(x.dtype, reducer))
    return x


def _beats(x: Array, best: Array, reducer: Reducer) -> Array:
    """Where `x`, later in the window, takes the place of `best`: only if better, or a NaN; as in PyTorch the last NaN
    wins."""
    better = lax.gt(x, best) if reducer == "max" else lax.lt(x, best)
    return lax.bitwise_or(better, lax.ne(x, x)) if jnp.issubdtype(x.dtype, jnp.floating) else better


def _stages(x: Array, axes: Sequence[Axis]) -> list[Stage]:
    """All axes at once where the windows tile the input, one after another, last first, where they overlap or are cut.

    Either way the first of several equal maxima wins, in the order of the window's elements. With fewer channels than a
    vector holds, XLA's loops over all axes at once are the slower ones.
    """
    few = math.prod(axis.window for axis in axes) <= MOST_ELEMENTS
    together = axes and few and all(axis.tiles for axis in axes) and x.shape[-1] >= _VECTOR
    return [tuple(axes)] if together else [(axis,) for axis in reversed(axes)]


def _argmax(x: Array, stage: Stage, reducer: Reducer) -> tuple[Array, Array]:
    """The maximum of every window along the stage's axes, and the number of the element that it is."""
    small = jnp.int8 if math.prod(axis.window for axis in stage) <= 127 else jnp.int32

    def first(values: Array, region: _Region) -> tuple[Array, Array]:
        firsts = [axis.first_on_input[at : at + n] for axis, at, n in zip(stage, region.firsts, region.counts)]
        number = np.asarray(_number(stage, np.ix_(*firsts))).astype(small)
        return values, lax.broadcast_in_dim(number, values.shape, [axis.index for axis in stage])

    def step(carry: tuple[Array, Array], number: Any, values: Array, region: _Region) -> tuple[Array, Array]:
        best, winner = carry
        take = _beats(values, best, reducer)
        return lax.select(take, values, best), select(take, lax.full_like(winner, number), winner)

    best, winner = _over_windows(x, stage, lowest(x.dtype, reducer), first, step)
    return materialize(best), materialize(winner)


def _at_argmax(winner: Array, values: Array, stage: Stage) -> Array:
    """The values at the elements that won; 0 where the window is all padding."""

    def step(carry: Array, number: Any, element: Array, region: _Region) -> Array:
        chosen = _slice(winner, stage, region.firsts, region.counts, [1] * len(stage))
        return lax.select(lax.eq(chosen, lax.full_like(chosen, number)), element, carry)

    return _over_windows(values, stage, 0, lambda element, _: element, step)


@_without_idle_axes
def window_argmax(x: Array, axes: Sequence[Axis], *, reducer: Reducer) -> Array:
    """The number of the element that wins each window, the last axis fastest; int32."""
    x, index, scale = _wide(x), jnp.zeros(x.shape, jnp.int32), 1
    for stage in _stages(x, axes):
        x, winner = _argmax(x, stage, reducer)
        index = _at_argmax(winner, index, stage) + scale * winner.astype(jnp.int32)
        scale *= math.prod(axis.window for axis in stage)
    return index


@_without_idle_axes
def max_tangent(x: Array, dx: Array, axes: Sequence[Axis], *, reducer: Reducer) -> Array:
    """The tangent of `window_max`: `dx` at the elements that win."""
    x = _wide(x)
    for stage in _stages(x, axes):
        x, winner = _argmax(x, stage, reducer)
        dx = materialize(_at_argmax(winner, dx, stage))
    return dx


@_without_idle_axes
def max_cotangent(x: Array, dy: Array, axes: Sequence[Axis], *, reducer: Reducer) -> Array:
    """The transpose of `max_tangent`: `dy` at the elements that win, added up."""
    x, stages = _wide(x), []
    for stage in _stages(x, axes):
        x, winner = _argmax(x, stage, reducer)
        stages.append((stage, winner))
    dx = _wide(dy)
    for nth, (stage, winner) in reversed(list(enumerate(stages))):

        def contribution(dy: Array, winner: Array, elements: Any) -> Array:
            return select(equal(winner, elements.astype(winner.dtype)), dy, 0)

        dx = materialize(_back([dx, winner], stage, contribution).astype(dx.dtype if nth else dy.dtype))
    return dx
