"""Window sums and maxima, and the derivatives of the maximum, by slices, reshapes and elementwise operations.

`pooling.operations` chooses these functions on the CPU. Every reduction here is separable, so a window of several axes
is reduced one axis after another. Outputs whose windows an edge cuts are computed separately, from their taps on input,
so that XLA's loops contain no padding. An infinity or a NaN reaches only the outputs whose windows contain it.
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
from ..formulations.base import VECTOR
from .axis import MAX_RUNS, Axis

Array = jax.Array
Reducer = Literal["max", "min"]
Stage = tuple[Axis, ...]  # axes that are reduced together
MAX_UNROLLED = 32  # elements of a window; more become a loop, so that no program grows with its windows


def _pad(x: Array, axis: Axis, low: int, high: int, value: Any, interior: int = 0) -> Array:
    config = [(0, 0, 0)] * x.ndim
    config[axis.index] = (low, high, interior)
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def _as_float32(x: Array) -> Array:
    """Convert 16-bit floats to float32: sums need it, and XLA compares it several times faster on a CPU."""
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def _slice(x: Array, stage: Stage, starts: Sequence[int], counts: Sequence[int], strides: Sequence[int]) -> Array:
    """Take `counts` positions along the axes of the stage, from `starts` on."""
    first, last, step = [0] * x.ndim, list(x.shape), [1] * x.ndim
    for axis, start, count, stride in zip(stage, starts, counts, strides):
        first[axis.index], last[axis.index], step[axis.index] = start, start + (count - 1) * stride + 1, stride
    return x if (*first, *last) == (*(0,) * x.ndim, *x.shape) and max(step) == 1 else lax.slice(x, first, last, step)


def _slice_in_loop(x: Array, axis: Axis, start: Any, count: int, stride: int) -> Array:
    view = lax.dynamic_slice_in_dim(x, start, (count - 1) * stride + 1, axis.index)
    return lax.slice_in_dim(view, 0, view.shape[axis.index], stride, axis.index)


def _join_regions(parts: list, stage: Stage, counts: Sequence[int]) -> Any:
    """Concatenate regions, in order with the last axis fastest, along the axes; `counts` of them along each."""
    for axis, count in zip(reversed(stage), reversed(counts)):
        rows = [parts[i : i + count] for i in range(0, len(parts), count)]
        parts = [jax.tree.map(lambda *a: lax.concatenate(a, axis.index), *row) if count > 1 else row[0] for row in rows]
    return parts[0]


def _other_axes(x: Array, stage: Stage) -> list[int]:
    """Return the array's axes that are not the stage's."""
    return [d for d in range(x.ndim) if d not in [axis.index for axis in stage]]


def _flat_index(stage: Stage, elements: Sequence[Any]) -> Any:
    """Return the flat index of a window's element from its index along each axis, the last axis fastest."""
    return functools.reduce(lambda index, pair: index * pair[0].window + pair[1], zip(stage, elements), 0)


# --- forward: over the elements of the windows --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Region:
    """Outputs whose windows have the same taps on input: the first of them and their count, along each axis."""

    firsts: Sequence[int]
    counts: Sequence[int]


def _fold_windows(x: Array, stage: Stage, fill: Any, first: Callable, step: Callable) -> Any:
    """Fold over the elements of each window: `step(carry, index, values, region)`, starting from `first(values,
    region)` of one of them."""
    if len(stage) == 1 and stage[0].window > MAX_UNROLLED:
        return _fold_in_loop(x, stage[0], fill, first, step)
    runs = []
    for axis in stage:
        if axis.runs is None:
            x = materialize(_pad(x, axis, axis.low, axis.high, fill, axis.base - 1))
            runs.append([(0, axis.out, [(t, t * axis.dilation) for t in range(axis.window)])])
        else:
            runs.append([(o, count, [(t, axis.start(o, t)) for t in taps]) for o, count, taps in axis.runs])
    strides, parts = [axis.stride for axis in stage], []
    for run in itertools.product(*runs):
        firsts, counts, starts = zip(*run)
        region, carry = _Region(firsts, counts), None
        for element in itertools.product(*starts):
            values = _slice(x, stage, [at for _, at in element], counts, strides)
            index = _flat_index(stage, [t for t, _ in element])
            carry = first(values, region) if carry is None else step(carry, index, values, region)
        if carry is None:  # windows of padding only
            shape = list(x.shape)
            for axis, count in zip(stage, counts):
                shape[axis.index] = count
            carry = first(jnp.full(shape, fill, x.dtype), region)
        parts.append(carry)
    return _join_regions(parts, stage, [len(r) for r in runs])


def _fold_in_loop(x: Array, axis: Axis, fill: Any, first: Callable, step: Callable) -> Any:
    """Compute `_fold_windows` along one axis by a loop over a padded copy."""
    x, region = _pad(x, axis, axis.low, axis.high, fill, axis.base - 1), _Region([0], [axis.out])

    def read(t: Any) -> Array:
        return _slice_in_loop(x, axis, t * axis.dilation, axis.out, axis.stride)

    start = first(jnp.full_like(read(0), fill), region)
    return lax.fori_loop(0, axis.window, lambda t, carry: step(carry, t, read(t), region), start)


def _reduce(x: Array, axis: Axis, combine: Callable, fill: Any) -> Array:
    """Reduce the windows along one axis; `fill` is the identity of `combine`."""
    if axis.size == 1:  # a global pool's gradient: a window has the value of the one element if it contains it
        contains = np.expand_dims(axis.on_input.any(axis=1), _other_axes(x, (axis,)))
        return jnp.where(contains, x, jnp.asarray(fill, x.dtype))
    if axis.runs is not None and axis.effective_size > axis.stride and axis.window > MAX_RUNS:
        x = materialize(x)
    return _fold_windows(x, (axis,), fill, lambda v, _: v, lambda carry, _, v, __: combine(carry, v))


# --- transposes: from the outputs to the input --------------------------------------------------------------------


def _sum_contributions(values: Sequence[Array], stage: Stage, contribution: Callable[..., Array]) -> Array:
    """Sum, for each position of the unpadded input, the contributions of the outputs whose windows contain it.

    `values` are arrays of the outputs' shape. `contribution(*values, elements)` returns what outputs contribute to
    their blocks of the input, with an axis of the phases of the strides behind each of the stage's axes. `elements` is
    the flat index of the window's element through which an output reads each phase, -1 for none.
    """
    behind = [axis.index + 1 + nth for nth, axis in enumerate(stage)]
    if len(stage) == 1 and len(stage[0].readers) > MAX_UNROLLED:
        whole = _interleave_phases(_sum_in_loop(values, stage[0], contribution), stage, [stage[0].blocks])
    else:
        whole = _sum_unrolled(list(values), stage, behind, contribution)
    for axis in stage:
        if axis.base > 1 or axis.dilated < whole.shape[axis.index]:
            whole = lax.slice_in_dim(whole, 0, axis.dilated, axis.base, axis.index)
    return whole


def _sum_unrolled(values: list[Array], stage: Stage, behind: list[int], contribution: Callable[..., Array]) -> Array:
    """Compute `_sum_contributions` run by run of blocks with the same readers; `behind` are the phases' axes."""
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
        counts, readers = zip(*region)
        total: Any = None
        for combination in itertools.product(*readers):
            starts, elements = zip(*combination)
            index = np.asarray(_flat_index(stage, np.ix_(*elements)))
            index = np.where(functools.reduce(np.minimum, np.ix_(*elements)) < 0, -1, index)
            read = [jnp.expand_dims(_slice(v, stage, starts, counts, ones), behind) for v in values]
            term = contribution(*read, np.expand_dims(index, [d for d in range(read[0].ndim) if d not in behind]))
            total = term if total is None else lax.add(total, term)
        shape = list(values[0].shape)
        for axis, count in zip(stage, counts):
            shape[axis.index] = count
        for at, stride in zip(behind, strides):
            shape.insert(at, stride)
        total = jnp.zeros((), values[0].dtype) if total is None else total
        parts.append(_interleave_phases(jnp.broadcast_to(total, shape), stage, counts))
    return _join_regions(parts, stage, [len(r) for r in runs])


def _sum_in_loop(values: Sequence[Array], axis: Axis, contribution: Callable[..., Array]) -> Array:
    """Compute `_sum_contributions` along one axis by a loop over padded outputs."""
    shift, high = axis.reader_pads
    padded = [_pad(v, axis, shift, high, 0) for v in values]
    backs, elements = (jnp.asarray(np.asarray(part)) for part in zip(*axis.readers))
    others = [d for d in range(values[0].ndim + 1) if d != axis.index + 1]

    def term(nth: Any) -> Array:
        read = [_slice_in_loop(v, axis, backs[nth] + shift, axis.blocks, 1) for v in padded]
        return contribution(*(jnp.expand_dims(v, axis.index + 1) for v in read), jnp.expand_dims(elements[nth], others))

    like = jax.eval_shape(term, 0)
    return lax.fori_loop(0, len(axis.readers), lambda nth, sum: sum + term(nth), jnp.zeros(like.shape, like.dtype))


def _interleave_phases(x: Array, stage: Stage, counts: Sequence[int]) -> Array:
    """Merge each axis of the stage with the axis of its phases behind it."""
    for axis, count in zip(stage, counts):
        x = x.reshape(*x.shape[: axis.index], count * axis.stride, *x.shape[axis.index + 2 :])
    return x


# --- sums and maxima ----------------------------------------------------------------------------------------------


def _squeeze_unused_axes(reduction: Callable[..., Array]) -> Callable[..., Array]:
    """Squeeze the arrays' axes of length 1 that have no window, for they make XLA's loops up to ten times slower."""

    @functools.wraps(reduction)
    def reduced(*operands: Any, **options: Any) -> Array:
        *arrays, axes = operands
        used = {axis.index for axis in axes}
        ones = [i for i, n in enumerate(arrays[0].shape[:-1]) if n == 1 and i not in used]
        moved = [dataclasses.replace(axis, index=axis.index - sum(i < axis.index for i in ones)) for axis in axes]
        return jnp.expand_dims(reduction(*(lax.squeeze(a, ones) for a in arrays), moved, **options), ones)

    return reduced


@_squeeze_unused_axes
def window_sum(x: Array, axes: Sequence[Axis]) -> Array:
    """Compute the sum of each window."""
    y = _as_float32(x)
    for axis in axes:
        if axis.base > 1 and axis.stride == 1 and axis.size > 1:
            contribution = lambda y, elements: y if np.all(elements >= 0) else jnp.where(elements >= 0, y, 0)
            y = _sum_contributions([y], (axis.transposed,), contribution)
        else:
            y = _reduce(y, axis, lax.add, 0)
    return y.astype(x.dtype)


def identity(dtype: Any, reducer: Reducer) -> Any:
    """Return the identity of a reducer, with which a max or min is padded."""
    if dtype == jnp.bool_:
        return reducer == "min"
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf if reducer == "max" else np.inf
    return jnp.iinfo(dtype).min if reducer == "max" else jnp.iinfo(dtype).max


@_squeeze_unused_axes
def window_max(x: Array, axes: Sequence[Axis], *, reducer: Reducer) -> Array:
    """Compute the maximum, or minimum, of each window."""
    for axis in axes:
        x = _reduce(x, axis, lax.max if reducer == "max" else lax.min, identity(x.dtype, reducer))
    return x


def _beats(x: Array, best: Array, reducer: Reducer) -> Array:
    """Return where `x`, later in the window, replaces `best`: if it is better, or a NaN, for as in PyTorch the last NaN
    wins."""
    better = lax.gt(x, best) if reducer == "max" else lax.lt(x, best)
    return lax.bitwise_or(better, lax.ne(x, x)) if jnp.issubdtype(x.dtype, jnp.floating) else better


def _stages(x: Array, axes: Sequence[Axis]) -> list[Stage]:
    """Return the stages: all axes at once if the windows tile the input, otherwise one after another, last first.

    Either way the first of several equal maxima wins, in the order of the window's elements. With fewer channels than a
    vector has elements, XLA's loops over all axes at once are slower.
    """
    few = math.prod(axis.window for axis in axes) <= MAX_UNROLLED
    at_once = axes and few and all(axis.tiles for axis in axes) and x.shape[-1] >= VECTOR
    return [tuple(axes)] if at_once else [(axis,) for axis in reversed(axes)]


def _argmax(x: Array, stage: Stage, reducer: Reducer) -> tuple[Array, Array]:
    """Return the maximum of every window along the stage's axes, and its flat index in the window."""
    small = jnp.int8 if math.prod(axis.window for axis in stage) <= 127 else jnp.int32

    def first(values: Array, region: _Region) -> tuple[Array, Array]:
        firsts = [axis.first_on_input[at : at + n] for axis, at, n in zip(stage, region.firsts, region.counts)]
        index = np.asarray(_flat_index(stage, np.ix_(*firsts))).astype(small)
        return values, lax.broadcast_in_dim(index, values.shape, [axis.index for axis in stage])

    def step(carry: tuple[Array, Array], index: Any, values: Array, region: _Region) -> tuple[Array, Array]:
        best, argmax = carry
        take = _beats(values, best, reducer)
        return lax.select(take, values, best), select(take, lax.full_like(argmax, index), argmax)

    best, argmax = _fold_windows(x, stage, identity(x.dtype, reducer), first, step)
    return materialize(best), materialize(argmax)


def _take_argmax(argmax: Array, values: Array, stage: Stage) -> Array:
    """Return the values at the argmax of each window; 0 if the window is all padding."""

    def step(carry: Array, index: Any, element: Array, region: _Region) -> Array:
        chosen = _slice(argmax, stage, region.firsts, region.counts, [1] * len(stage))
        return lax.select(lax.eq(chosen, lax.full_like(chosen, index)), element, carry)

    return _fold_windows(values, stage, 0, lambda element, _: element, step)


@_squeeze_unused_axes
def window_argmax(x: Array, axes: Sequence[Axis], *, reducer: Reducer) -> Array:
    """Return the index of the maximum, or minimum, among its window's elements, the last axis fastest; int32."""
    x, index, scale = _as_float32(x), jnp.zeros(x.shape, jnp.int32), 1
    for stage in _stages(x, axes):
        x, argmax = _argmax(x, stage, reducer)
        index = _take_argmax(argmax, index, stage) + scale * argmax.astype(jnp.int32)
        scale *= math.prod(axis.window for axis in stage)
    return index


@_squeeze_unused_axes
def max_tangent(x: Array, dx: Array, axes: Sequence[Axis], *, reducer: Reducer) -> Array:
    """Compute the tangent of `window_max`: `dx` at the argmax of each window."""
    x = _as_float32(x)
    for stage in _stages(x, axes):
        x, argmax = _argmax(x, stage, reducer)
        dx = materialize(_take_argmax(argmax, dx, stage))
    return dx


@_squeeze_unused_axes
def max_cotangent(x: Array, dy: Array, axes: Sequence[Axis], *, reducer: Reducer) -> Array:
    """Compute the transpose of `max_tangent`: add `dy` to the argmax of each window."""

    def contribution(dy: Array, argmax: Array, elements: Any) -> Array:
        return select(equal(argmax, elements.astype(argmax.dtype)), dy, 0)

    x, stages = _as_float32(x), []
    for stage in _stages(x, axes):
        x, argmax = _argmax(x, stage, reducer)
        stages.append((stage, argmax))
    dx = _as_float32(dy)
    for nth, (stage, argmax) in reversed(list(enumerate(stages))):
        dx = materialize(_sum_contributions([dx, argmax], stage, contribution).astype(dx.dtype if nth else dy.dtype))
    return dx.astype(dy.dtype)  # without a stage nothing was summed
