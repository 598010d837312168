"""The scatter of `max_unpool`, and the comparisons that replace it on a TPU."""

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
    """Write, or add, the values `x: (n, *spatial, c)` at their indices into zeros of shape `(n, *shape, c)`."""
    scatter = functools.partial(_scatter, shape=shape, adding=adding)
    if not all(isinstance(size, int) for size in (*shape, *x.shape[1:-1])):  # symbolic sizes of `jax.export`
        return scatter(x, indices)
    offsets = [_offsets(size, pooled) for size, pooled in zip(shape, x.shape[1:-1])]
    if any(size < len(near) for size, near in zip(shape, offsets)) or math.prod(map(len, offsets)) > MAX_COMPARISONS:
        return scatter(x, indices)
    near = functools.partial(_select_near, shape=shape, adding=adding)

    def on_tpu(x, indices):
        wide = indices.astype(jnp.int64 if indices.dtype.itemsize == 8 else jnp.int32)
        return lax.cond(_are_near(wide, shape), near, scatter, x, wide)

    return lax.platform_dependent(x, indices, tpu=on_tpu, default=scatter) if shape else scatter(x, indices)


def _scatter(x: Array, indices: Array, shape: tuple[int, ...], adding: bool) -> Array:
    n, channels = x.shape[0], x.shape[-1]
    flat = n, math.prod(x.shape[1:-1]), channels
    example, channel = jnp.arange(n)[:, None, None], jnp.arange(channels)[None, None]
    target = jnp.zeros((n, math.prod(shape), channels), x.dtype).at[example, indices.reshape(flat), channel]
    write = target.add if adding else target.set
    return write(x.reshape(flat), mode="drop", wrap_negative_indices=False).reshape(n, *shape, channels)


# --- without a scatter --------------------------------------------------------------------------------------------
# A TPU scatters one entry after another. But the indices of a pool are near the start of their windows, so each output
# can compare its position with the few indices near it. Whether the indices are near is known when the program runs.


def _step(size: int, pooled: int) -> int:
    """Return the stride that the pool probably had along an axis."""
    return max(1, round(size / pooled))


def _offsets(size: int, pooled: int) -> range:
    """Return the offsets of an index from the start of its window that count as near.

    They cover windows of up to twice the stride, with pads of up to half a window.
    """
    step = _step(size, pooled)
    beyond = 2 if step == 1 else step // 2
    return range(-beyond, step + beyond)


def _are_near(indices: Array, shape: tuple[int, ...]) -> Array:
    """Return whether all indices are near the start of their windows."""
    near, rest = (indices >= 0) & (indices < math.prod(shape)), indices
    for axis in reversed(range(len(shape))):
        size, pooled = shape[axis], indices.shape[axis + 1]
        offset = rest % size - lax.broadcasted_iota(rest.dtype, indices.shape, axis + 1) * _step(size, pooled)
        allowed = _offsets(size, pooled)
        near &= (offset >= allowed[0]) & (offset <= allowed[-1])
        rest = rest // size
    return near.all()


def _relative_indices(indices: Array, shape: tuple[int, ...]) -> Array:
    """Return the flat offset of each index from the start of its window."""
    for axis, (size, pooled) in enumerate(zip(shape, indices.shape[1:-1])):
        start = lax.broadcasted_iota(indices.dtype, indices.shape, axis + 1) * _step(size, pooled)
        indices = indices - start * math.prod(shape[axis + 1 :])
    return indices


def _flat_offset(offsets: Sequence[int], shape: tuple[int, ...]) -> int:
    return functools.reduce(lambda flat, pair: flat * pair[0] + pair[1], zip(shape, offsets), 0)


def _select_near(x: Array, indices: Array, shape: tuple[int, ...], adding: bool) -> Array:
    """Compute `_scatter` for indices that are near: each output takes the near value whose index is its position, or
    the sum of these. One array of outputs is computed for each phase of the strides; then they are interleaved."""
    pooled, relative = x.shape[1:-1], _relative_indices(indices, shape)
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
            here = shifted(relative, blocks, never) == _flat_offset(offsets, shape)
            if total is None or adding:
                value = jnp.where(here, value, 0)
            total = value if total is None else total + value if adding else jnp.where(here, value, total)
        return total

    parts: list[Any] = [of_phase(phase) for phase in itertools.product(*map(range, steps))]
    for axis in reversed(range(len(shape))):
        parts = [_interleave(parts[i : i + steps[axis]], axis + 1) for i in range(0, len(parts), steps[axis])]
    return parts[0][(slice(None), *map(slice, shape))]


def _interleave(parts: Sequence[Array], axis: int) -> Array:
    """Interleave arrays along an axis."""
    whole = jnp.stack(parts, axis + 1)
    return whole.reshape(*whole.shape[:axis], whole.shape[axis] * len(parts), *whole.shape[axis + 2 :])
