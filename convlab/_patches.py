"""Extraction of patches, and reductions over the taps of windows, exact for every dtype."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ._padding import pad_axis
from ._window import Window

Array = jax.Array

# Up to this many taps XLA fuses one slice per tap; beyond, one gather or loop reads all taps.
MAX_UNROLLED_TAPS = 25


# --- patches ------------------------------------------------------------------------------------------------------


def patches(x: Array, window: Window, fill: Any = 0) -> list[Array]:
    """Return the values that each tap reads, last axis of the window fastest: arrays `(*batch, *out, c)`."""
    first = x.ndim - 1 - window.rank
    spatial = x.shape[first:-1]
    out = window.out(spatial)
    for axis, pair in enumerate(window.pads(spatial), first):
        x = pad_axis(x, axis, pair, "constant", fill)
    batch, ones, windows, phases = x.shape[:first], (1,) * first, [], {}
    for tap in itertools.product(*map(range, window.size)):
        positions = [t * d for t, d in zip(tap, window.dilation)]
        phase = tuple(position % s for position, s in zip(positions, window.strides))
        # A strided slice first, then a contiguous one: the adjoint sums contiguous blocks and scatters few of them.
        if phase not in phases:
            phases[phase] = lax.slice(x, (*(0,) * first, *phase, 0), x.shape, (*ones, *window.strides, 1))
        starts = [position // s for position, s in zip(positions, window.strides)]
        limits = [start + o for start, o in zip(starts, out)]
        windows.append(lax.slice(phases[phase], (*(0,) * first, *starts, 0), (*batch, *limits, x.shape[-1])))
    return windows


def unfold_axis(x: Array, axis: int, size: int, stride: int, dilation: int) -> Array:
    """Return the windows along one axis, `(..., out, size, ...)`, by one operation for any number of taps."""
    out = (x.shape[axis] - (size - 1) * dilation - 1) // stride + 1
    shape = (*x.shape[:axis], out, size, *x.shape[axis + 1 :])
    if stride == size and dilation == 1:
        return lax.slice_in_dim(x, 0, out * size, axis=axis).reshape(shape)
    position = (
        lax.broadcasted_iota(jnp.int32, (out, size), 0) * stride
        + lax.broadcasted_iota(jnp.int32, (out, size), 1) * dilation
    )
    return jnp.take(x, position, axis, mode="clip")


def unfold_axes(x: Array, window: Window, first: int) -> Array:
    """Return the windows along the axes from `first` on, `(..., *out, *size, ...)`; the padding must be zero."""
    rank = window.rank
    for axis, geometry in enumerate(zip(window.size, window.strides, window.dilation)):
        x = unfold_axis(x, first + 2 * axis, *geometry)
    before, after = range(first), range(first + 2 * rank, x.ndim)
    return x.transpose(*before, *range(first, first + 2 * rank, 2), *range(first + 1, first + 2 * rank, 2), *after)


def has_many_taps(window: Window) -> bool:
    return math.prod(window.size) > MAX_UNROLLED_TAPS


def apply_padding(x: Array, window: Window, fill: Any) -> tuple[Array, Window]:
    """Return the padded image, and the window without padding."""
    first = x.ndim - 1 - window.rank
    for axis, pair in enumerate(window.pads(x.shape[first:-1]), first):
        x = pad_axis(x, axis, pair, "constant", fill)
    return x, Window(window.size, window.strides, "VALID", window.dilation)


def stacked_patches(x: Array, window: Window, fill: Any = 0) -> Array:
    """Return the patches, `(*batch, *out, *size, c)`."""
    if has_many_taps(window):
        return unfold_axes(*apply_padding(x, window, fill), x.ndim - 1 - window.rank)
    windows = jnp.stack(patches(x, window, fill), -2)
    return windows.reshape(*windows.shape[:-2], *window.size, x.shape[-1])


def tap_groups(x: Array, window: Window, fill: Any = 0) -> list[Array]:
    """Return the values that the taps read, in order: arrays `(taps, *batch, *out, c)`, one per tap or a single one for
    all taps."""
    if not has_many_taps(window):
        return [tap[None] for tap in patches(x, window, fill)]
    first = x.ndim - 1 - window.rank
    windows = unfold_axes(*apply_padding(x, window, fill), first)
    taps = range(first + window.rank, windows.ndim - 1)
    windows = jnp.moveaxis(windows, taps, range(window.rank))
    return [windows.reshape(math.prod(window.size), *windows.shape[window.rank :])]


def are_stacked(groups: Sequence[Array]) -> bool:
    return len(groups) == 1 and len(groups[0]) > 1


def sum_taps(part: Callable[..., Any], *groups: Sequence[Array]) -> Any:
    """Sum `part` over all taps; it maps each group as a group of one tap."""
    if not are_stacked(groups[0]):
        return functools.reduce(functools.partial(jax.tree.map, lax.add), map(part, *groups))
    taps = [group[0] for group in groups]  # each element of `groups` is one array of all taps
    shapes = jax.eval_shape(part, *(tap[:1] for tap in taps))
    zeros = jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), shapes)

    def step(total: Any, tap: tuple[Array, ...]) -> tuple[Any, None]:
        return jax.tree.map(lax.add, total, part(*(one[None] for one in tap))), None

    return lax.scan(step, zeros, tuple(taps))[0]


def max_taps(groups: Sequence[Array]) -> Array:
    """Return the maximum over all taps, as a group of one, without derivatives."""
    groups = [lax.stop_gradient(group) for group in groups]
    if not are_stacked(groups):
        return functools.reduce(lax.max, groups)
    return lax.scan(lambda best, tap: (lax.max(best, tap[None]), None), groups[0][:1], groups[0][1:])[0]


def scan_taps(step: Callable[[Any, Array], Any], carry: Any, groups: Sequence[Array]) -> Any:
    """Fold `step(carry, tap)` over the taps."""
    if not are_stacked(groups):
        return functools.reduce(step, [group[0] for group in groups], carry)
    return lax.scan(lambda carry, tap: (step(carry, tap), None), carry, groups[0])[0]
