"""The formulation `toeplitz`: multiply a row of the image, with all its channels, by a banded Toeplitz matrix.

The product is a row of the output. For few channels it is one matrix product of useful width, where a patch has only a
few numbers; the zeros outside the band are multiplied too. (Golub and Van Loan, Matrix Computations, section 1.3, on
band and Toeplitz matrices.)
"""

from __future__ import annotations

import functools
import math
import operator

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..problem import Problem
from .base import Array, Formulation, Solve, kernel_indices, pad_image, slice_for_tap


def forward_unsupported(p: Problem) -> str | None:
    if p.rank == 0 or p.groups > 1 or p.dilates_input:
        return "toeplitz takes an undilated image, ungrouped"
    if not jnp.issubdtype(p.dtype, jnp.inexact):
        return "toeplitz takes floats"
    if p.spatial[-1] * p.channels * p.out[-1] * p.features > 1 << 20:
        return "toeplitz would need a matrix of more than a million entries for each row of the window"
    return None


def _row_problem(p: Problem) -> Problem:
    """Return the problem without its last axis: each row of the image becomes a pixel."""
    return p.without_axis(-1)


def _band(p: Problem) -> np.ndarray:
    """Return a mask (tap, input column, output column): whether the output reads the input through the tap."""
    starts, taps = np.arange(p.out[-1]) * p.strides[-1], np.arange(p.window[-1])[:, None] * p.kernel_dilation[-1]
    return (starts - p.pads[-1][0] + taps)[:, None] == np.arange(p.spatial[-1])[:, None]


def _read_rows(x, p: Problem):
    """Concatenate the rows that each row of the output reads: (n, *out[:-1], window[:-1] * columns * c)."""
    rows = _row_problem(p)
    image = pad_image(x.reshape(p.batch, *rows.spatial, -1), rows)
    return jnp.concatenate([slice_for_tap(image, tap, rows) for tap in kernel_indices(rows)], -1)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    rows, acc = _row_problem(p), p.accumulator
    taps = kernel.reshape(-1, p.window[-1], p.channels, p.features)
    product = functools.partial(lax.dot_general, precision=p.precision, preferred_element_type=acc)
    # (window[:-1], columns in, c, columns out, features)
    band = jnp.einsum("jab,ljcf->lacbf", _band(p).astype(kernel.dtype), taps, precision="highest")
    if p.spatial[-1] * p.channels <= p.out[-1] * p.features:
        band = band.reshape(-1, p.out[-1] * p.features)
        y = product(_read_rows(x, p), band, (((rows.rank + 1,), (0,)), ((), ())))
    else:  # shift the products of each row of the window rather than its inputs
        image = pad_image(x.reshape(p.batch, *rows.spatial, -1), rows)
        band = band.reshape(len(taps), -1, p.out[-1] * p.features)
        parts = product(image, band, (((rows.rank + 1,), (1,)), ((), ())))
        y = functools.reduce(
            operator.add, (slice_for_tap(parts[..., i, :], tap, rows) for i, tap in enumerate(kernel_indices(rows)))
        )
    return y.reshape(p.batch, *p.out, p.features)


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    shape = (*p.window, p.channels, p.features)
    acc, count = p.accumulator, math.prod(p.window[:-1])
    inputs = _read_rows(x, p).reshape(-1, count * p.spatial[-1] * p.channels)
    cotangent = dy.reshape(-1, p.out[-1] * p.features)
    gram = lax.dot_general(
        inputs, cotangent, (((0,), (0,)), ((), ())), precision=p.precision, preferred_element_type=acc
    )
    gram = gram.reshape(count, p.spatial[-1], p.channels, p.out[-1], p.features)
    return jnp.einsum("jab,lacbf->ljcf", _band(p).astype(acc), gram, precision="highest").reshape(shape)


# A pixel is multiplied by the zeros outside the band, where an inf becomes a NaN in windows that do not contain it.
TOEPLITZ = Formulation(
    "toeplitz", forward, kernel_gradient, forward_unsupported, forward_unsupported, sums_directly=False
)
