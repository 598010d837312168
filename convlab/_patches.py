"""Padding and patch extraction, exact for every dtype."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._window import (
    MAX_AXIS,
    Pair,
    Window,
    argument_error,
    axes,
    check_axis_sizes,
    check_not_empty,
    is_int,
    is_sequence,
    read_modes,
    read_padding,
)
from .typing import Padding, PaddingModes

Array = jax.Array

# Up to this many taps XLA fuses one slice per tap; beyond, one gather or loop serves all taps.
MAX_UNROLLED_TAPS = 25


def as_array(argument: str, x: Any, kind: str = "an array") -> Array:
    """Convert `x` to a JAX array; lists and other objects raise, as in `jax.numpy`."""
    if not isinstance(x, (jax.Array, np.ndarray, np.generic)):
        raise argument_error(argument, f"be {kind}", x, kind=TypeError)
    return jnp.asarray(x)


def check_number(x: Array, argument: str = "x") -> None:
    if x.dtype == bool:
        raise argument_error(argument, "have a number dtype", x.dtype.name, kind=TypeError)


def check_scalar(argument: str, value: Any, x: Array) -> None:
    """Check that `value` is a scalar, and real if `x` is."""
    if not isinstance(value, (bool, int, float, complex, np.generic)) and getattr(value, "shape", None) != ():
        raise argument_error(argument, "be a number", value, kind=TypeError)
    if jnp.iscomplexobj(value) and not jnp.iscomplexobj(x):
        raise argument_error(argument, "be a real number", value, f"`x` of dtype {x.dtype.name}", kind=TypeError)


def check_kept(argument: str, value: Array, dtype: Any, owner: str) -> None:
    """Check that `dtype` can hold `value` without dropping an imaginary part or a fraction."""
    if jnp.iscomplexobj(value) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise argument_error(argument, "be real", value.dtype.name, f"{owner} of dtype {dtype.name}", kind=TypeError)
    if jnp.issubdtype(value.dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.inexact):
        raise argument_error(
            argument, "be integers", value.dtype.name, f"{owner} of dtype {dtype.name}", kind=TypeError
        )


def index_dtype(sizes: Sequence[int], argument: str = "x") -> Any:
    """Return the dtype of flat indices over axes of these sizes."""
    if math.prod(sizes) <= MAX_AXIS:
        return jnp.dtype(jnp.int32)
    if jax.dtypes.canonicalize_dtype(jnp.int64) != jnp.int64:
        hint = "Set jax_enable_x64 for indices of 64 bits."
        raise argument_error(argument, "have fewer than 2**31 positions", tuple(sizes), "indices of 32 bits", hint)
    return jnp.dtype(jnp.int64)


def image_rank(x: Array, argument: str) -> int:
    """Return the number of spatial axes that an int stands for: all axes but one batch axis and the channels."""
    if x.ndim < 3:
        raise argument_error("x", "have one batch axis, spatial axes and channels", x.shape, f"an int `{argument}`")
    return x.ndim - 2


def check_image(x: Array, rank: int) -> None:
    if x.ndim < rank + 1:
        raise argument_error("x", f"have at least {rank + 1} axes (*batch, *spatial, channels)", x.shape, axes(rank))


# --- padding ------------------------------------------------------------------------------------------------------


def source(n: int, pair: Pair, mode: str) -> np.ndarray:
    """Return, for each position of a padded axis, the position of the unpadded axis that it repeats."""
    lo, hi = pair
    positions = np.arange(-lo, n + hi)
    if mode == "replicate":
        return positions.clip(0, n - 1)
    if mode == "reflect":
        return (n - 1) - abs((n - 1) - abs(positions))
    first, last = max(0, -lo), n - max(0, -hi)
    return first + (positions - first) % (last - first)


def check_mode(n: int, pair: Pair, mode: str, padding: Any) -> None:
    if n + sum(pair) < 0:
        raise argument_error("padding", "crop no more than there is", padding, f"an axis of size {n}")
    check_axis_sizes("padding", (n + sum(pair),), padding, f"an axis of size {n}")
    if n + sum(pair) == 0 < n and mode in ("reflect", "replicate"):
        raise argument_error("padding", "leave something", padding, f"an axis of size {n} in padding mode {mode!r}")
    kept = n + sum(min(p, 0) for p in pair)
    named = isinstance(padding, str)  # Flax's "CIRCULAR" wraps any number of times
    if mode == "circular" and max(pair) > (0 if kept < 1 else sum(map(abs, pair)) if named else kept):
        raise argument_error(
            "padding", f"be at most {max(kept, 0)}", padding, f"a circular axis of size {kept}", "It wraps once."
        )
    if mode == "reflect" and max(pair) >= max(n, 1):
        raise argument_error("padding", f"be smaller than {n}", padding, f"a reflected axis of size {n}")
    if mode == "replicate" and n == 0 and max(pair) > 0:
        raise argument_error("x", "have no empty axis", n, "padding mode 'replicate'")


def _runs(positions: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (first, last, count) of each run of ascending, descending or equal positions."""
    start = 0
    while start < len(positions):
        stop = start + 1
        step = int(positions[stop] - positions[start]) if stop < len(positions) else 1
        while abs(step) <= 1 and stop < len(positions) and positions[stop] - positions[stop - 1] == step:
            stop += 1
        if step in (0, -1) and stop < len(positions) and positions[stop] - positions[stop - 1] == 1:
            stop -= 1  # at a turn upwards, so that the original axis stays one run
        yield int(positions[start]), int(positions[stop - 1]), stop - start
        start = stop


def take_runs(x: Array, axis: int, positions: np.ndarray) -> Array:
    """Compute `jnp.take` by slices: a pad has few runs, and slices have derivatives without scatter."""
    pieces, runs = [lax.slice_in_dim(x, 0, 0, axis=axis)] if len(positions) == 0 else [], list(_runs(positions))
    if len(runs) > MAX_UNROLLED_TAPS:
        return jnp.take(x, jnp.asarray(positions, jnp.int32), axis, mode="clip")
    for first, last, count in runs:
        piece = lax.slice_in_dim(x, min(first, last), max(first, last) + 1, axis=axis)
        piece = lax.rev(piece, (axis,)) if last < first else piece
        pieces.append(jnp.broadcast_to(piece, (*x.shape[:axis], count, *x.shape[axis + 1 :])))
    return jnp.concatenate(pieces, axis) if len(pieces) > 1 else pieces[0]


def pad_axis(x: Array, axis: int, pair: Pair, mode: str, value: Any = 0) -> Array:
    if pair == (0, 0):
        return x
    if mode in ("zeros", "constant"):
        config = [(0, 0, 0)] * x.ndim
        config[axis] = (*pair, 0)
        return lax.pad(x, jnp.asarray(value if mode == "constant" else 0).astype(x.dtype), config)
    return take_runs(x, axis, source(x.shape[axis], pair, mode))


def pad_spatial(x: Array, pairs: Sequence[Pair], modes: Sequence[str], value: Any = 0, shown: Any = None) -> Array:
    """Pad the axes before the last; error messages show `shown` as the padding."""
    first = x.ndim - 1 - len(pairs)
    for axis, (pair, mode) in enumerate(zip(pairs, modes), first):
        check_mode(x.shape[axis], pair, mode, pairs if shown is None else shown)
        x = pad_axis(x, axis, pair, mode, value)
    return x


def pad(x: Array, padding: Padding, mode: PaddingModes = "zeros", value: Any = 0) -> Array:
    """Pad or crop the spatial axes.

    Args:
        x: `(*batch, *spatial, c)` of any dtype.
        padding: an int for both sides of every spatial axis (one batch axis then), or one int or (before, after) pair
            per spatial axis. Negative numbers crop.
        mode: "zeros", "constant", "reflect" (without repeating the border), "replicate" or "circular", or one per axis.
        value: what "constant" pads with; a scalar, cast to the dtype of `x`.

    Returns:
        `(*batch, *padded, c)` of the dtype of `x`. "circular" crops first and wraps what is left; the other modes pad
        the original and crop afterwards.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an unknown mode, a wrong count of numbers, a circular pad wider than the axis, a reflected one as
            wide as it, a crop larger than the axis.

    Example:
        >>> x = jnp.arange(1, 4).reshape(1, 3, 1)
        >>> pad(x, [(2, 1)], "reflect")[0, :, 0].tolist()
        [3, 2, 1, 2, 3, 2]
        >>> pad(x, [(-1, 1)], "circular")[0, :, 0].tolist()
        [2, 3, 2]

    Equals `torch.nn.functional.pad` on the spatial axes, with a mode for each.
    """
    x = as_array("x", x)
    check_not_empty("padding", padding)
    rank = len(padding) if is_sequence(padding) else image_rank(x, "padding") if is_int(padding) else 1
    pairs, modes = read_padding(padding, rank, named=()), read_modes(mode, rank, argument="mode")
    check_image(x, rank)
    check_scalar("value", value, x)
    if "constant" not in modes and isinstance(value, (int, float, complex)) and value != 0:
        raise argument_error("value", "be 0", value, f"mode {mode!r}", 'Pass mode="constant".')
    return pad_spatial(x, pairs, modes, value, padding)


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
        if (
            phase not in phases
        ):  # strided slice first, then a contiguous one: the adjoint sums contiguous blocks and scatters few of them
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


def padded(x: Array, window: Window, fill: Any) -> tuple[Array, Window]:
    """Return the padded image, and the window without padding."""
    first = x.ndim - 1 - window.rank
    for axis, pair in enumerate(window.pads(x.shape[first:-1]), first):
        x = pad_axis(x, axis, pair, "constant", fill)
    return x, Window(window.size, window.strides, "VALID", window.dilation)


def stacked_patches(x: Array, window: Window, fill: Any = 0) -> Array:
    """Return the patches, `(*batch, *out, *size, c)`."""
    if has_many_taps(window):
        return unfold_axes(*padded(x, window, fill), x.ndim - 1 - window.rank)
    windows = jnp.stack(patches(x, window, fill), -2)
    return windows.reshape(*windows.shape[:-2], *window.size, x.shape[-1])


def tap_groups(x: Array, window: Window, fill: Any = 0) -> list[Array]:
    """Return the values that the taps read, in order: arrays `(taps, *batch, *out, c)`, one per tap or one for all
    taps."""
    if not has_many_taps(window):
        return [tap[None] for tap in patches(x, window, fill)]
    first = x.ndim - 1 - window.rank
    windows = unfold_axes(*padded(x, window, fill), first)
    taps = range(first + window.rank, windows.ndim - 1)
    windows = jnp.moveaxis(windows, taps, range(window.rank))
    return [windows.reshape(math.prod(window.size), *windows.shape[window.rank :])]


def are_many(groups: Sequence[Array]) -> bool:
    return len(groups) == 1 and len(groups[0]) > 1


def sum_taps(part: Callable[..., Any], *groups: Sequence[Array]) -> Any:
    """Sum `part` over all taps; it maps each group as a group of one tap."""
    if not are_many(groups[0]):
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
    if not are_many(groups):
        return functools.reduce(lax.max, groups)
    return lax.scan(lambda best, tap: (lax.max(best, tap[None]), None), groups[0][:1], groups[0][1:])[0]


def scan_taps(step: Callable[[Any, Array], Any], carry: Any, groups: Sequence[Array]) -> Any:
    """Fold `step(carry, tap)` over the taps."""
    if not are_many(groups):
        return functools.reduce(step, [group[0] for group in groups], carry)
    return lax.scan(lambda carry, tap: (step(carry, tap), None), carry, groups[0])[0]
