"""The formulation `winograd`: F(2x2, 3x3) computes a tile of 2 x 2 outputs by 16 products instead of 36.

Small constant matrices transform tiles of 4 x 4 pixels and the window before, and outputs after, 16 matrix products
over the channels. The kernel gradient is the adjoint: 16 products that sum over the tiles. (Lavin and Gray 2016,
arXiv:1509.09308.) Larger tiles need fewer products and lose digits: F(4x4, 3x3) errs by 1e-5 of the largest result.

The outputs of a tile share their sums, so an inf or a NaN would reach outputs whose windows do not contain it. Both
maps therefore look for one, and compute the result directly if there is one.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..problem import Kind, Problem
from .base import Array, Formulation, Part, Solve

# The transforms of interpolation at 0, 1, -1 and infinity.
_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]], np.float64)
_WINDOW = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.float64) / 2
_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, 1]], np.float64)
_WINDOW_2D = np.kron(_WINDOW, _WINDOW)  # (16, 9)


def unsupported(p: Problem) -> str | None:
    ones = all(n == 1 for n in (*p.strides, *p.input_dilation, *p.kernel_dilation))
    if p.window != (3, 3) or p.groups > 1 or not ones:
        return "winograd takes 3 x 3 windows, undilated, ungrouped, of stride 1"
    if not jnp.issubdtype(p.dtype, jnp.inexact) or jnp.finfo(p.dtype).bits < 32:
        return "winograd loses too many digits of this dtype"
    return None


def parts(kind: Kind, p: Problem) -> list[Part]:
    return [(kind, p)]


def _transform(matrix, parts):
    """Multiply a list of arrays by a matrix of zeros, ones and minus ones."""

    def row(weights):
        first, *rest = sorted(((w, part) for w, part in zip(weights, parts) if w), key=lambda term: -term[0])
        total = first[1]
        for w, part in rest:
            total = total + part if w > 0 else total - part
        return total

    return [row(weights) for weights in matrix]


def _transform_2d(matrix, part):
    """Transform the rows, then the columns, of a grid of arrays `part(row, column)`."""
    size = range(matrix.shape[1])
    rows = zip(*(_transform(matrix, [part(a, b) for a in size]) for b in size))
    return [entry for row in rows for entry in _transform(matrix, list(row))]


def _tiles(p: Problem) -> tuple[int, ...]:
    return tuple(-(-out // 2) for out in p.out)


def _transformed_tiles(x, p: Problem):
    """Return the 16 entries of the transformed tiles, each `(n, *tiles, c)`."""
    rows, columns = _tiles(p)
    config = [(lo, 2 * m + 2 - s - lo, 0) for (lo, _), m, s in zip(p.pads, (rows, columns), p.spatial)]
    image = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)]).astype(p.accumulator)
    return _transform_2d(_INPUT, lambda a, b: image[:, a : a + 2 * rows - 1 : 2, b : b + 2 * columns - 1 : 2])


def _is_moderate(*arrays: Array) -> Array:
    """Return whether all elements are finite, and so small that no transform overflows."""
    sums = [jnp.sum(a * a, tuple(range(1, a.ndim - 1))) for a in arrays]
    return jnp.isfinite(jnp.stack([jnp.sum(s) for s in sums])).all()


def _outputs(x, kernel, p: Problem):
    acc, (rows, columns) = p.accumulator, _tiles(p)
    weights = jnp.dot(jnp.asarray(_WINDOW_2D, acc), kernel.astype(acc).reshape(9, -1), precision=p.precision)
    weights = weights.reshape(16, p.channels, p.features)
    products = [
        lax.dot_general(tile, weight, (((3,), (0,)), ((), ())), precision=p.precision)
        for tile, weight in zip(_transformed_tiles(x, p), weights)
    ]
    outputs = _transform_2d(_OUTPUT, lambda a, b: products[4 * a + b])
    y = jnp.stack([jnp.stack(outputs[:2], 3), jnp.stack(outputs[2:], 3)], 2)
    y = y.reshape(p.batch, 2 * rows, 2 * columns, p.features)
    return y[:, : p.out[0], : p.out[1]].astype(p.out_dtype)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    return lax.cond(
        _is_moderate(x, kernel[None]),
        lambda x, kernel: _outputs(x, kernel, p),
        lambda x, kernel: solve("forward", x, kernel, p),
        x,
        kernel,
    )


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    config = [(0, 0, 0), *((0, 2 * m - out, 0) for m, out in zip(_tiles(p), p.out)), (0, 0, 0)]
    cotangents = lax.pad(dy, jnp.zeros((), dy.dtype), config).astype(p.accumulator)
    entries = _transform_2d(_OUTPUT.T, lambda a, b: cotangents[:, a::2, b::2])

    def product(tile, entry):  # XLA transposes operands whose contracted axes are many
        tile, entry = tile.reshape(-1, p.channels), entry.reshape(-1, p.features)
        return lax.dot_general(tile, entry, (((0,), (0,)), ((), ())), precision=p.precision)

    products = jnp.stack([product(t, e) for t, e in zip(_transformed_tiles(x, p), entries)])
    dkernel = jnp.dot(jnp.asarray(_WINDOW_2D.T, p.accumulator), products.reshape(16, -1), precision=p.precision)
    dkernel = dkernel.reshape(p.result_shape("kernel_gradient")).astype(p.out_dtype)
    return lax.cond(
        jnp.isfinite(dkernel).all(),
        lambda x, dy, dkernel: dkernel,
        lambda x, dy, dkernel: solve("kernel_gradient", x, dy, p),
        x,
        dy,
        dkernel,
    )


WINOGRAD = Formulation(
    "winograd", forward, kernel_gradient, unsupported, unsupported, parts, sums_directly=False, splits_batch=True
)
