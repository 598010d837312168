"""Values at their indices: the scatters of unpooling, and on a TPU what serves in their place."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

MAX_COMPARISONS = 256  # a program has a few operations for each


def unpool(x: Array, indices: Array, shape: tuple[int, ...], adding: bool) -> Array:
    """`(n, *spatial, c)` values put, or added, to their indices among `(n, *shape, c)` zeros."""
    scatter = functools.partial(_scattered, shape=shape, adding=adding)
    offsets = [_offsets(size, pooled) for size, pooled in zip(shape, x.shape[1:-1])]
    if any(size < len(near) for size, near in zip(shape, offsets)) or math.prod(map(len, offsets)) > MAX_COMPARISONS:
        return scatter(x, indices)
    near = functools.partial(_placed_near, shape=shape, adding=adding)

    def on_tpu(x, indices):
        wide = indices.astype(jnp.int64 if indices.dtype.itemsize == 8 else jnp.int32)
        return lax.cond(_are_near(wide, shape), near, scatter, x, wide)

    return lax.platform_dependent(x, indices, tpu=on_tpu, default=scatter) if shape else scatter(x, indices)


def _scattered(x: Array, indices: Array, shape: tuple[int, ...], adding: bool) -> Array:
    n, channels = x.shape[0], x.shape[-1]
    flat = n, math.prod(x.shape[1:-1]), channels
    example, channel = jnp.arange(n)[:, None, None], jnp.arange(channels)[None, None]
    home = jnp.zeros((n, math.prod(shape), channels), x.dtype).at[example, indices.reshape(flat), channel]
    put = home.add if adding else home.set
    return put(x.reshape(flat), mode="drop", wrap_negative_indices=False).reshape(n, *shape, channels)


# --- without a scatter --------------------------------------------------------------------------------------------
# A TPU scatters and gathers one entry after another. But what comes from a pool stands near the place where its window
# began, so that few comparisons find it; whether it does is seen when the program runs.


def _step(size: int, pooled: int) -> int:
    """The stride that the pool probably had along an axis."""
    return max(1, round(size / pooled))


def _offsets(size: int, pooled: int) -> range:
    """How far from the stride's multiple a value may stand: in windows of up to twice the stride, half of one
    padded."""
    step = _step(size, pooled)
    beyond = 2 if step == 1 else step // 2
    return range(-beyond, step + beyond)


def _are_near(indices: Array, shape: tuple[int, ...]) -> Array:
    near, rest = (indices >= 0) & (indices < math.prod(shape)), indices
    for axis in reversed(range(len(shape))):
        size, pooled = shape[axis], indices.shape[axis + 1]
        offset = rest % size - lax.broadcasted_iota(rest.dtype, indices.shape, axis + 1) * _step(size, pooled)
        reach = _offsets(size, pooled)
        near &= (offset >= reach[0]) & (offset <= reach[-1])
        rest = rest // size
    return near.all()


def _relative(indices: Array, shape: tuple[int, ...]) -> Array:
    """How far, flat over the image, each index is from its strides' multiple."""
    for axis, (size, pooled) in enumerate(zip(shape, indices.shape[1:-1])):
        start = lax.broadcasted_iota(indices.dtype, indices.shape, axis + 1) * _step(size, pooled)
        indices = indices - start * math.prod(shape[axis + 1 :])
    return indices


def _flat(offsets: Sequence[int], shape: tuple[int, ...]) -> int:
    return functools.reduce(lambda flat, pair: flat * pair[0] + pair[1], zip(shape, offsets), 0)


def _placed_near(x: Array, indices: Array, shape: tuple[int, ...], adding: bool) -> Array:
    """Each place takes the value, or the sum of those, around it whose index is its own: those of one phase of the
    strides together, then the phases in turn."""
    pooled, relative = x.shape[1:-1], _relative(indices, shape)
    steps = [_step(size, m) for size, m in zip(shape, pooled)]
    never = jnp.iinfo(indices.dtype).min

    def shifted(x, blocks, fill):
        pads = [(shift, -(-n // step) - m - shift, 0) for shift, n, step, m in zip(blocks, shape, steps, pooled)]
        return lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])

    def of_phase(phase):
        near = [[d for d in _offsets(n, m) if d % s == at] for n, m, s, at in zip(shape, pooled, steps, phase)]
        total = None
        for offsets in itertools.product(*near):
            blocks = [d // s for d, s in zip(offsets, steps)]
            value = shifted(x, blocks, 0)
            here = shifted(relative, blocks, never) == _flat(offsets, shape)
            if total is None or adding:
                value = jnp.where(here, value, 0)
            total = value if total is None else total + value if adding else jnp.where(here, value, total)
        return total

    parts: list[Any] = [of_phase(phase) for phase in itertools.product(*map(range, steps))]
    for axis in reversed(range(len(shape))):
        parts = [_interleaved(parts[i : i + steps[axis]], axis + 1) for i in range(0, len(parts), steps[axis])]
    return parts[0][(slice(None), *map(slice, shape))]


def _interleaved(parts: Sequence[Array], axis: int) -> Array:
    whole = jnp.stack(parts, axis + 1)
    return whole.reshape(*whole.shape[:axis], whole.shape[axis] * len(parts), *whole.shape[axis + 2 :])
