"""Pads and patches: arrays around an image and arrays cut out of it, exact for every dtype."""

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

# Up to so many taps a program has a slice for each, which XLA fuses; beyond, one gather or loop for all of them.
MAX_UNROLLED_TAPS = 25


def as_array(argument: str, x: Any, kind: str = "an array") -> Array:
    """`x` as a JAX array; lists and other objects are refused, as in `jax.numpy`."""
    if not isinstance(x, (jax.Array, np.ndarray, np.generic)):
        raise argument_error(argument, f"be {kind}", x, kind=TypeError)
    return jnp.asarray(x)


def check_number(x: Array, argument: str = "x") -> None:
    if x.dtype == bool:
        raise argument_error(argument, "have a number dtype", x.dtype.name, kind=TypeError)


def check_scalar(argument: str, value: Any, x: Array) -> None:
    """That `value` is one number that an array of the dtype of `x` can hold without losing an imaginary part."""
    if not isinstance(value, (bool, int, float, complex, np.generic)) and getattr(value, "shape", None) != ():
        raise argument_error(argument, "be a number", value, kind=TypeError)
    if jnp.iscomplexobj(value) and not jnp.iscomplexobj(x):
        raise argument_error(argument, "be a real number", value, f"`x` of dtype {x.dtype.name}", kind=TypeError)


def check_kept(argument: str, value: Array, dtype: Any, owner: str) -> None:
    """That numbers of `dtype` hold what stands in `value`: no imaginary part, no fraction is dropped without a word."""
    if jnp.iscomplexobj(value) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise argument_error(argument, "be real", value.dtype.name, f"{owner} of dtype {dtype.name}", kind=TypeError)
    if jnp.issubdtype(value.dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.inexact):
        raise argument_error(
            argument, "be integers", value.dtype.name, f"{owner} of dtype {dtype.name}", kind=TypeError
        )


def index_dtype(sizes: Sequence[int], argument: str = "x") -> Any:
    """The dtype of flat indices over axes of these sizes."""
    if math.prod(sizes) <= MAX_AXIS:
        return jnp.dtype(jnp.int32)
    if jax.dtypes.canonicalize_dtype(jnp.int64) != jnp.int64:
        hint = "Set jax_enable_x64 for indices of 64 bits."
        raise argument_error(argument, "have fewer than 2**31 positions", tuple(sizes), "indices of 32 bits", hint)
    return jnp.dtype(jnp.int64)


def image_rank(x: Array, argument: str) -> int:
    """The number of spatial axes that a is_scalar int stands for: all but one batch axis and the channels."""
    if x.ndim < 3:
        raise argument_error("x", "have one batch axis, spatial axes and channels", x.shape, f"an int `{argument}`")
    return x.ndim - 2


def check_image(x: Array, rank: int) -> None:
    if x.ndim < rank + 1:
        raise argument_error("x", f"have at least {rank + 1} axes (*batch, *spatial, channels)", x.shape, axes(rank))


# --- padding ------------------------------------------------------------------------------------------------------


def source(n: int, pair: Pair, mode: str) -> np.ndarray:
    """For each place along a padded axis the place of the unpadded one that it repeats."""
    lo, hi = pair
    places = np.arange(-lo, n + hi)
    if mode == "replicate":
        return places.clip(0, n - 1)
    if mode == "reflect":
        return (n - 1) - abs((n - 1) - abs(places))
    first, last = max(0, -lo), n - max(0, -hi)
    return first + (places - first) % (last - first)


def check_mode(n: int, pair: Pair, mode: str, padding: Any) -> None:
    if n + sum(pair) < 0:
        raise argument_error("padding", "crop no more than there is", padding, f"an axis of size {n}")
    check_axis_sizes("padding", (n + sum(pair),), padding, f"an axis of size {n}")
    if n + sum(pair) == 0 < n and mode in ("reflect", "replicate"):
        raise argument_error("padding", "leave something", padding, f"an axis of size {n} in padding mode {mode!r}")
    kept = n + sum(min(p, 0) for p in pair)
    named = isinstance(padding, str)  # Flax's "CIRCULAR" wraps as often as it takes
    if mode == "circular" and max(pair) > (0 if kept < 1 else sum(map(abs, pair)) if named else kept):
        raise argument_error(
            "padding", f"be at most {max(kept, 0)}", padding, f"a circular axis of size {kept}", "It wraps once."
        )
    if mode == "reflect" and max(pair) >= max(n, 1):
        raise argument_error("padding", f"be smaller than {n}", padding, f"a reflected axis of size {n}")
    if mode == "replicate" and n == 0 and max(pair) > 0:
        raise argument_error("x", "have no empty axis", n, "padding mode 'replicate'")


def _runs(places: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(first, last, count) of stretches that go up, down or stay."""
    start = 0
    while start < len(places):
        stop = start + 1
        step = int(places[stop] - places[start]) if stop < len(places) else 1
        while abs(step) <= 1 and stop < len(places) and places[stop] - places[stop - 1] == step:
            stop += 1
        if step in (0, -1) and stop < len(places) and places[stop] - places[stop - 1] == 1:
            stop -= 1  # where it turns upwards: the axis itself is one piece
        yield int(places[start]), int(places[stop - 1]), stop - start
        start = stop


def take_runs(x: Array, axis: int, places: np.ndarray) -> Array:
    """`jnp.take` by slices: of the few runs that a pad makes, and with derivatives that need no scatter."""
    pieces, runs = [lax.slice_in_dim(x, 0, 0, axis=axis)] if len(places) == 0 else [], list(_runs(places))
    if len(runs) > MAX_UNROLLED_TAPS:
        return jnp.take(x, jnp.asarray(places, jnp.int32), axis, mode="clip")
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
    """`x` padded on the axes before its last; `shown` is the padding that a message shows."""
    first = x.ndim - 1 - len(pairs)
    for axis, (pair, mode) in enumerate(zip(pairs, modes), first):
        check_mode(x.shape[axis], pair, mode, pairs if shown is None else shown)
        x = pad_axis(x, axis, pair, mode, value)
    return x


def pad(x: Array, padding: Padding, mode: PaddingModes = "zeros", value: Any = 0) -> Array:
    """Pads or crops the spatial axes.

    Args:
        x: `(*batch, *spatial, c)` of any dtype.
        padding: an int for both sides of every spatial axis (one batch axis then), or one int or (before, after) pair per
            spatial axis. Negative numbers crop.
        mode: "zeros", "constant", "reflect" (without repeating the border), "replicate" or "circular", or one per axis.
        value: what "constant" pads with; a scalar, cast to the dtype of `x`.

    Returns:
        `(*batch, *padded, c)` of the dtype of `x`. A circular axis is cropped first and what is left is wrapped; the others
        pad the original and are then cropped.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an unknown mode, a wrong count of numbers, a circular pad wider than the axis, a reflected one as wide as it,
            a crop of more than there is.

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
    """What each tap of the window sees, last axis of the window fastest: arrays `(*batch, *out, c)`."""
    first = x.ndim - 1 - window.rank
    spatial = x.shape[first:-1]
    out = window.out(spatial)
    for axis, pair in enumerate(window.pads(spatial), first):
        x = pad_axis(x, axis, pair, "constant", fill)
    batch, ones, seen, phases = x.shape[:first], (1,) * first, [], {}
    for tap in itertools.product(*map(range, window.size)):
        places = [t * d for t, d in zip(tap, window.dilation)]
        phase = tuple(place % s for place, s in zip(places, window.strides))
        if (
            phase not in phases
        ):  # first every s-th place, then a run of them: so the adjoint adds runs, and spreads few sums
            phases[phase] = lax.slice(x, (*(0,) * first, *phase, 0), x.shape, (*ones, *window.strides, 1))
        starts = [place // s for place, s in zip(places, window.strides)]
        limits = [start + o for start, o in zip(starts, out)]
        seen.append(lax.slice(phases[phase], (*(0,) * first, *starts, 0), (*batch, *limits, x.shape[-1])))
    return seen


def unfold_axis(x: Array, axis: int, size: int, stride: int, dilation: int) -> Array:
    """The windows along one axis, `(..., out, size, ...)`, by one operation however many there are."""
    out = (x.shape[axis] - (size - 1) * dilation - 1) // stride + 1
    shape = (*x.shape[:axis], out, size, *x.shape[axis + 1 :])
    if stride == size and dilation == 1:
        return lax.slice_in_dim(x, 0, out * size, axis=axis).reshape(shape)
    place = (
        lax.broadcasted_iota(jnp.int32, (out, size), 0) * stride
        + lax.broadcasted_iota(jnp.int32, (out, size), 1) * dilation
    )
    return jnp.take(x, place, axis, mode="clip")


def unfold_axes(x: Array, window: Window, first: int) -> Array:
    """The windows along the axes from `first` on, `(..., *out, *size, ...)`; padding is none."""
    rank = window.rank
    for axis, geometry in enumerate(zip(window.size, window.strides, window.dilation)):
        x = unfold_axis(x, first + 2 * axis, *geometry)
    before, after = range(first), range(first + 2 * rank, x.ndim)
    return x.transpose(*before, *range(first, first + 2 * rank, 2), *range(first + 1, first + 2 * rank, 2), *after)


def has_many_taps(window: Window) -> bool:
    return math.prod(window.size) > MAX_UNROLLED_TAPS


def padded(x: Array, window: Window, fill: Any) -> tuple[Array, Window]:
    """The image with what the window pads, and the window without padding."""
    first = x.ndim - 1 - window.rank
    for axis, pair in enumerate(window.pads(x.shape[first:-1]), first):
        x = pad_axis(x, axis, pair, "constant", fill)
    return x, Window(window.size, window.strides, "VALID", window.dilation)


def stacked_patches(x: Array, window: Window, fill: Any = 0) -> Array:
    """What the windows see, `(*batch, *out, *size, c)`."""
    if has_many_taps(window):
        return unfold_axes(*padded(x, window, fill), x.ndim - 1 - window.rank)
    seen = jnp.stack(patches(x, window, fill), -2)
    return seen.reshape(*seen.shape[:-2], *window.size, x.shape[-1])


def tap_groups(x: Array, window: Window, fill: Any = 0) -> list[Array]:
    """What the taps see, in their order: arrays `(taps, *batch, *out, c)`, one for each tap or, of many, one for all."""
    if not has_many_taps(window):
        return [tap[None] for tap in patches(x, window, fill)]
    first = x.ndim - 1 - window.rank
    seen = unfold_axes(*padded(x, window, fill), first)
    taps = range(first + window.rank, seen.ndim - 1)
    seen = jnp.moveaxis(seen, taps, range(window.rank))
    return [seen.reshape(math.prod(window.size), *seen.shape[window.rank :])]


def are_many(groups: Sequence[Array]) -> bool:
    return len(groups) == 1 and len(groups[0]) > 1


def sum_taps(part: Callable[..., Any], *groups: Sequence[Array]) -> Any:
    """The sum over all taps of the arrays that `part` makes of each group, as groups of one tap."""
    if not are_many(groups[0]):
        return functools.reduce(functools.partial(jax.tree.map, lax.add), map(part, *groups))
    taps = [group[0] for group in groups]  # each element of `groups` is one array of all taps
    shapes = jax.eval_shape(part, *(tap[:1] for tap in taps))
    zeros = jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), shapes)

    def step(total: Any, tap: tuple[Array, ...]) -> tuple[Any, None]:
        return jax.tree.map(lax.add, total, part(*(one[None] for one in tap))), None

    return lax.scan(step, zeros, tuple(taps))[0]


def max_taps(groups: Sequence[Array]) -> Array:
    """The largest of all taps, as a group of one, without derivatives."""
    groups = [lax.stop_gradient(group) for group in groups]
    if not are_many(groups):
        return functools.reduce(lax.max, groups)
    return lax.scan(lambda best, tap: (lax.max(best, tap[None]), None), groups[0][:1], groups[0][1:])[0]


def scan_taps(step: Callable[[Any, Array], Any], carry: Any, groups: Sequence[Array]) -> Any:
    """`step(carry, tap)` for every tap in turn."""
    if not are_many(groups):
        return functools.reduce(step, [group[0] for group in groups], carry)
    return lax.scan(lambda carry, tap: (step(carry, tap), None), carry, groups[0])[0]
