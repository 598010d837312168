"""Interpolate an image linearly at arbitrary positions: the gathers of `deform_conv` and `grid_sample`.

These functions are called directly; no primitive of the lowering rules is involved.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from .._arguments import index_dtype
from .gather import by_groups, stored, stored_apart, weighted, weighted_rows

Array = jax.Array

# A cell outside of the image has its corners at -2 and -1, or beyond the end, in a border of zeros.
FIRST = -2
BORDER = -FIRST + 3  # the most rows of zeros on both sides of an axis together


def sample(x: Array, cell: Sequence[Array], within: Sequence[Array]) -> Array:
    """Interpolate `x` linearly in cells, whose corners are neighbouring elements.

    Args:
        x: `(n, *spatial, parts, c)`.
        cell: for each spatial axis, the index of the cell's lower corner, from `FIRST` to the axis's size:
            `(taps, parts, n, positions)`.
        within: for each spatial axis, the distance from the lower corner, 0 to 1, of the same shape.

    Returns:
        `(n, positions, parts, taps, c)`.
    """
    return lax.platform_dependent(
        x, tuple(cell), tuple(within), cpu=gather_groups, tpu=gather_cells, default=gather_corners
    )


def gather_groups(x: Array, cell: Sequence[Array], within: Sequence[Array]) -> Array:
    """Gather the corners for a group of images at a time."""

    def gathered(x: Array, cell: list[Array], within: list[Array]) -> Array:
        return gather_corners(x, *([jnp.moveaxis(a, 0, 2) for a in several] for several in (cell, within)))

    leading = ([jnp.moveaxis(a, 2, 0) for a in several] for several in (cell, within))
    elements = x.shape[-1] * 2 ** len(cell) * math.prod(cell[0].shape[:2]) * cell[0].shape[3]
    return by_groups(gathered, (x, *leading), elements)


def gather_corners(x: Array, cell: Sequence[Array], within: Sequence[Array]) -> Array:
    """Gather each corner separately; XLA fuses the gathers with the sum, so only the sum is stored."""
    table, steps = _bordered(x, after=2)
    (at,) = stored([_flat_rows(cell, steps, table.shape).transpose(1, 2, 3, 0)])
    rows = table.reshape(-1, table.shape[-1])
    indices = [(at + sum(s for s, upper in zip(steps, corner) if upper)).ravel() for corner in _corners(cell)]
    distances = tuple(stored_apart(part.transpose(1, 2, 3, 0)).ravel() for part in within)
    return weighted_rows(rows, indices, distances, _weights).reshape(*at.shape, x.shape[-1]).transpose(1, 2, 0, 3, 4)


def gather_cells(x: Array, cell: Sequence[Array], within: Sequence[Array]) -> Array:
    """Gather whole cells, with their corners concatenated along the channels and the taps outermost.

    On a TPU a gather's time is proportional to its rows, and the two last axes are laid out in tiles of 8 x 128.
    """
    table, _ = _bordered(x, after=3)
    sizes = [n - 1 for n in table.shape[2:-1]]
    views = [table[:, :, *map(slice, corner, (n + k for n, k in zip(sizes, corner)))] for corner in _corners(cell)]
    cells = jnp.concatenate(views, -1)
    at = _flat_rows(cell, [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))], cells.shape)
    rows = cells.reshape(-1, cells.shape[-1]).at[at].get(mode="promise_in_bounds")
    weights = [w[..., None] for w in _weights(within)]
    return weighted(jnp.split(rows, len(weights), -1), weights).transpose(2, 3, 1, 0, 4)


def _corners(cell: Sequence[Array]) -> list[tuple[int, ...]]:
    return list(itertools.product((0, 1), repeat=len(cell)))


def _weights(within: Sequence[Array]) -> list[Array]:
    return [
        functools.reduce(operator.mul, corner) for corner in itertools.product(*((1 - part, part) for part in within))
    ]


def _bordered(x: Array, after: int) -> tuple[Array, list[int]]:
    """Return `x` with a border of zeros, `(parts, n, *bordered, c)`, and the distance in rows along each axis."""
    x = jnp.moveaxis(x, -2, 0)
    x = jnp.pad(x, [(0, 0), (0, 0), *[(-FIRST, after)] * (x.ndim - 3), (0, 0)])
    return x, [math.prod(x.shape[axis:-1]) for axis in range(3, x.ndim)]


def _flat_rows(cell: Sequence[Array], steps: Sequence[int], shape: Sequence[int]) -> Array:
    """Return the row of each cell in a table of `shape`, `(parts, n, *positions, c)`."""
    dtype = index_dtype(shape[:-1])
    images = jnp.arange(shape[0] * shape[1], dtype=dtype).reshape(1, shape[0], shape[1], 1) * math.prod(shape[2:-1])
    return sum(((at - FIRST).astype(dtype) * step for at, step in zip(cell, steps)), images)
