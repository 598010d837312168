"""The formulation `winograd`: F(4x4, 3x3) computes a tile of 4 x 4 outputs by 36 products instead of 144.

Small constant matrices transform tiles and window before, and outputs after, 36 matrix products over the channels; rows
first, then columns. (Lavin and Gray 2016, arXiv:1509.09308.)
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..problem import Problem
from .base import Array, Formulation, Solve

# The transforms of interpolation at 0, 1, -1, 2, -2 and infinity.
_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float64,
)
_WINDOW = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], np.float64) / 24
_OUTPUT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float64)


def forward_unsupported(p: Problem) -> str | None:
    ones = all(n == 1 for n in (*p.strides, *p.input_dilation, *p.kernel_dilation))
    if p.window != (3, 3) or p.groups > 1 or not ones:
        return "winograd takes 3 x 3 windows, undilated, ungrouped, of stride 1"
    if not jnp.issubdtype(p.dtype, jnp.inexact) or jnp.finfo(p.dtype).bits < 32:
        return "winograd loses too many digits of this dtype"
    return None


def _transform(matrix, parts):
    """Multiply a list of arrays by a matrix, without products by its zeros and ones."""

    def row(weights):
        terms = [part if w == 1 else part * jnp.asarray(w, part.dtype) for w, part in zip(weights, parts) if w]
        return sum(terms[1:], terms[0])

    return [row(weights) for weights in matrix]


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    acc, (rows, columns) = p.accumulator, (-(-o // 4) for o in p.out)
    sizes = 4 * rows + 2, 4 * columns + 2
    config = [(lo, size - s - lo, 0) for (lo, _), size, s in zip(p.pads, sizes, p.spatial)]
    image = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)]).astype(acc)
    tiles = _transform(_INPUT, [image[:, a : a + 4 * rows - 3 : 4] for a in range(6)])
    tiles = [_transform(_INPUT, [t[:, :, a : a + 4 * columns - 3 : 4] for a in range(6)]) for t in tiles]
    weights = [
        _transform(_WINDOW, list(w))
        for w in zip(*(_transform(_WINDOW, list(kernel[:, b].astype(acc))) for b in range(3)))
    ]

    def product(tile, weight):
        return lax.dot_general(tile, weight, (((3,), (0,)), ((), ())), precision=p.precision)

    products = [[product(t, w) for t, w in zip(ts, ws)] for ts, ws in zip(tiles, weights)]
    mixed = zip(*(_transform(_OUTPUT, row) for row in products))  # columns of the outputs, for each row of the products
    outputs = jnp.stack([jnp.stack(_transform(_OUTPUT, list(column)), 2) for column in mixed], 4)
    y = outputs.reshape(p.batch, 4 * rows, 4 * columns, p.features)[:, : p.out[0], : p.out[1]]
    return y


# The outputs of a tile share their sums.
WINOGRAD = Formulation("winograd", forward, None, forward_unsupported, sums_directly=False)
