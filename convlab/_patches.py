"""Pads and patches: arrays around an image and arrays cut out of it, exact for every dtype."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._window import Pair, Window, argument_error, axes, is_int, is_sequence, read_modes, read_padding

Array = jax.Array


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
    pieces = [lax.slice_in_dim(x, 0, 0, axis=axis)] if len(places) == 0 else []
    for first, last, count in _runs(places):
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


def pad(x: Array, padding: Any, mode: Any = "zeros", value: Any = 0) -> Array:
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
        if phase not in phases:  # first every s-th place, then a run of them: so the adjoint adds runs, and spreads few sums
            phases[phase] = lax.slice(x, (*(0,) * first, *phase, 0), x.shape, (*ones, *window.strides, 1))
        starts = [place // s for place, s in zip(places, window.strides)]
        limits = [start + o for start, o in zip(starts, out)]
        seen.append(lax.slice(phases[phase], (*(0,) * first, *starts, 0), (*batch, *limits, x.shape[-1])))
    return seen


def stacked_patches(x: Array, window: Window, fill: Any = 0) -> Array:
    """What the windows see, `(*batch, *out, *size, c)`."""
    seen = jnp.stack(patches(x, window, fill), -2)
    return seen.reshape(*seen.shape[:-2], *window.size, x.shape[-1])
