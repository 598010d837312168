"""An image between its elements, where each place has a cell of its own: the gathers of deformable convolutions."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from .._window import MAX_AXIS
from .gather import weighted, weighted_rows

Array = jax.Array

# Cells that touch no element have corners at -2 and -1 or beyond the end, where the border of zeros is.
FIRST = -2
BORDER = -FIRST + 3  # rows of zeros on both sides of an axis, at most


def sample(x: Array, cell: Sequence[Array], within: Sequence[Array]) -> Array:
    """Linear interpolation in cells.

    `x: (n, *spatial, parts, c)`; for each spatial axis `cell`, the lower corner, `FIRST` to the axis's size, and
        `within`, how far from it to the upper one; both `(taps, parts, n, places)`. The result is `(n, places, parts,
        taps, c)`.
    """
    return lax.platform_dependent(x, tuple(cell), tuple(within), tpu=by_cell, default=by_corner)


def by_corner(x: Array, cell: Sequence[Array], within: Sequence[Array]) -> Array:
    """A gather for each corner, which fuses with the sum: nothing but the sum is stored."""
    table, steps = _bordered(x, after=2)
    at = _flat(cell, steps, table.shape).transpose(1, 2, 3, 0)
    rows = table.reshape(-1, table.shape[-1])
    indices = [(at + sum(s for s, upper in zip(steps, corner) if upper)).ravel() for corner in _corners(cell)]
    weights = [w.transpose(1, 2, 3, 0).reshape(-1, 1) for w in _weights(within)]
    return weighted_rows(rows, indices, weights).reshape(*at.shape, x.shape[-1]).transpose(1, 2, 0, 3, 4)


def by_cell(x: Array, cell: Sequence[Array], within: Sequence[Array]) -> Array:
    """One gather of cells, their corners side by side in the channels, taps outermost: a TPU pays by the row, and lays
    the two last axes out in tiles of 8 x 128."""
    table, _ = _bordered(x, after=3)
    sizes = [n - 1 for n in table.shape[2:-1]]
    views = [table[:, :, *map(slice, corner, (n + k for n, k in zip(sizes, corner)))] for corner in _corners(cell)]
    cells = jnp.concatenate(views, -1)
    at = _flat(cell, [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))], cells.shape)
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
    """`(parts, n, *bordered, c)`, and how many rows it is to the next place along each axis."""
    x = jnp.moveaxis(x, -2, 0)
    x = jnp.pad(x, [(0, 0), (0, 0), *[(-FIRST, after)] * (x.ndim - 3), (0, 0)])
    return x, [math.prod(x.shape[axis:-1]) for axis in range(3, x.ndim)]


def _flat(cell: Sequence[Array], steps: Sequence[int], shape: Sequence[int]) -> Array:
    """The row of each cell in a table of `shape`, `(parts, n, *places, c)`."""
    dtype = jnp.int32 if math.prod(shape[:-1]) <= MAX_AXIS else jnp.int64
    images = jnp.arange(shape[0] * shape[1], dtype=dtype).reshape(1, shape[0], shape[1], 1) * math.prod(shape[2:-1])
    return sum(((at - FIRST).astype(dtype) * step for at, step in zip(cell, steps)), images)
