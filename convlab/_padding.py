"""Padding of arrays, exact for every dtype, in every padding mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._arguments import (
    argument_error,
    as_array,
    check_axis_sizes,
    check_image,
    check_not_empty,
    check_scalar,
    image_rank,
    is_int,
    is_sequence,
    read_modes,
    read_padding,
)
from ._window import Pair, Window, smaller
from .typing import Padding, PaddingModes

Array = jax.Array

# Up to this many slices XLA fuses a concatenation; beyond, one gather is faster.
MAX_RUNS = 25


def source_positions(n: int, pair: Pair, mode: str) -> Any:
    """Return, for each position of a padded axis, the position of the unpadded axis that it repeats: a NumPy array, or
    a JAX array where the size is symbolic."""
    lo, hi = pair
    positions: Any = np.arange(-lo, n + hi) if is_int(n) else jnp.arange(n + lo + hi) - lo
    if mode == "replicate":
        return positions.clip(0, n - 1)
    if mode == "reflect":
        return (n - 1) - abs((n - 1) - abs(positions))
    first, last = max(0, -lo), n - max(0, -hi)
    return first + (positions - first) % (last - first)


def check_pads(n: int, pair: Pair, mode: str, padding: Any) -> None:
    if n + sum(pair) < 0:
        raise argument_error("padding", "crop no more than there is", padding, f"an axis of size {n}")
    check_axis_sizes("padding", (n + sum(pair),), padding, f"an axis of size {n}")
    if n + sum(pair) == 0 < n and mode in ("reflect", "replicate"):
        raise argument_error("padding", "leave something", padding, f"an axis of size {n} in padding mode {mode!r}")
    kept = n + sum(smaller(p, 0) for p in pair)
    named = isinstance(padding, str)  # Flax's "CIRCULAR" wraps any number of times
    if mode == "circular" and max(pair) > (0 if kept < 1 else sum(map(abs, pair)) if named else kept):
        raise argument_error(
            "padding", f"be at most {max(kept, 0)}", padding, f"a circular axis of size {kept}", "It wraps once."
        )
    if mode == "reflect" and max(pair) >= max(n, 1):
        raise argument_error("padding", f"be smaller than {n}", padding, f"a reflected axis of size {n}")
    if mode == "replicate" and n == 0 and max(pair) > 0:
        raise argument_error("x", "have no empty axis", n, "padding mode 'replicate'")


def check_zero_padding(window: Window, modes: tuple[str, ...], padding: Any, padding_mode: Any, fact: str) -> None:
    """Check that the image is padded with zeros only."""
    if set(modes) - {"zeros"}:
        named = window.padding in ("CIRCULAR", "REFLECT")
        argument, value = ("padding", padding) if named else ("padding_mode", padding_mode)
        raise argument_error(argument, "pad with zeros", value, fact)


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
    """Compute `jnp.take` by slices: padding repeats few runs of positions, and slices have derivatives without
    scatter."""
    pieces, runs = [lax.slice_in_dim(x, 0, 0, axis=axis)] if len(positions) == 0 else [], list(_runs(positions))
    if len(runs) > MAX_RUNS:
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
    positions = source_positions(x.shape[axis], pair, mode)
    if isinstance(positions, Array):
        return jnp.take(x, positions, axis, mode="clip")
    return take_runs(x, axis, positions)


def pad_spatial(x: Array, pairs: Sequence[Pair], modes: Sequence[str], value: Any = 0, shown: Any = None) -> Array:
    """Pad the axes before the last; error messages show `shown` as the padding."""
    first = x.ndim - 1 - len(pairs)
    for axis, (pair, mode) in enumerate(zip(pairs, modes), first):
        check_pads(x.shape[axis], pair, mode, pairs if shown is None else shown)
        x = pad_axis(x, axis, pair, mode, value)
    return x


def pad(x: Array, padding: Padding, mode: PaddingModes = "zeros", value: Any = 0) -> Array:
    """Pad or crop the spatial axes.

    Args:
        x: `(*batch, *spatial, c)` of any dtype.
        padding: an int for both sides of every spatial axis (one batch axis then), or one int or (before, after) pair
            per spatial axis. Negative numbers crop.
        mode: "zeros", "constant", "reflect" (without repeating the border), "replicate" or "circular", or one per axis.
        value: the value that "constant" pads with; a scalar, cast to the dtype of `x`.

    Returns:
        `(*batch, *padded, c)` of the dtype of `x`. "circular" crops first and wraps the rest; the other modes pad
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
    pairs, modes = read_padding(padding, rank, ()), read_modes(mode, rank, argument="mode")
    check_image(x, rank)
    check_scalar("value", value, x)
    if "constant" not in modes and isinstance(value, (int, float, complex)) and value != 0:
        raise argument_error("value", "be 0", value, f"mode {mode!r}", 'Pass mode="constant".')
    return pad_spatial(x, pairs, modes, value, padding)
