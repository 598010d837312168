"""Few channels: a row of the image, all its columns and channels, times a banded Toeplitz matrix gives a row of the
output.

One matrix product of useful width where a patch would hold a handful of numbers; the matrix multiplies the zeros
outside its band too (Golub and Van Loan, Matrix Computations, section 1.3, on band and Toeplitz matrices).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..problem import Problem
from .base import Array, Formulation, Solve, kernel_indices, padded, shifted


def forward_unsupported(p: Problem) -> str | None:
    if p.rank == 0 or p.groups > 1 or p.dilates_input:
        return "toeplitz takes an undilated image, ungrouped"
    if not jnp.issubdtype(p.dtype, jnp.inexact):
        return "toeplitz takes floats"
    if p.spatial[-1] * p.channels * p.out[-1] * p.features > 1 << 20:
        return "toeplitz would need a matrix of more than a million entries for each row of the window"
    return None


def _rows(p: Problem) -> Problem:
    """The problem without its last axis: rows of the image for pixels."""
    axes = ("spatial", "window", "strides", "pads", "input_dilation", "kernel_dilation")
    return dataclasses.replace(p, **{name: getattr(p, name)[:-1] for name in axes})


def _band(p: Problem) -> np.ndarray:
    """(tap, input column, output column): 1 where that tap carries the one to the other."""
    seen = (
        np.arange(p.out[-1]) * p.strides[-1] - p.pads[-1][0] + np.arange(p.window[-1])[:, None] * p.kernel_dilation[-1]
    )
    return seen[:, None] == np.arange(p.spatial[-1])[:, None]


def _seen(x, p: Problem):
    """(n, *out[:-1], window[:-1] * columns * c): the rows that each row of the output sees, side by side."""
    rows = _rows(p)
    image = padded(x.reshape(p.batch, *rows.spatial, -1), rows)
    return jnp.concatenate([shifted(image, tap, rows) for tap in kernel_indices(rows)], -1)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    rows, acc = _rows(p), p.accumulator
    taps = kernel.reshape(-1, p.window[-1], p.channels, p.features)
    product = functools.partial(lax.dot_general, precision=p.precision, preferred_element_type=acc)
    # (window[:-1], columns in, c, columns out, features)
    band = jnp.einsum("jab,ljcf->lacbf", _band(p).astype(kernel.dtype), taps, precision="highest")
    if p.spatial[-1] * p.channels <= p.out[-1] * p.features:
        band = band.reshape(-1, p.out[-1] * p.features)
        y = product(_seen(x, p), band, (((rows.rank + 1,), (0,)), ((), ())))
    else:  # gather the outputs of each row of the window rather than its inputs
        image = padded(x.reshape(p.batch, *rows.spatial, -1), rows)
        band = band.reshape(len(taps), -1, p.out[-1] * p.features)
        parts = product(image, band, (((rows.rank + 1,), (1,)), ((), ())))
        y = functools.reduce(
            operator.add, (shifted(parts[..., i, :], tap, rows) for i, tap in enumerate(kernel_indices(rows)))
        )
    return y.reshape(p.batch, *p.out, p.features)


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    shape = (*p.window, p.channels, p.features)
    acc, count = p.accumulator, math.prod(p.window[:-1])
    seen = _seen(x, p).reshape(-1, count * p.spatial[-1] * p.channels)
    cotangent = dy.reshape(-1, p.out[-1] * p.features)
    gram = lax.dot_general(seen, cotangent, (((0,), (0,)), ((), ())), precision=p.precision, preferred_element_type=acc)
    gram = gram.reshape(count, p.spatial[-1], p.channels, p.out[-1], p.features)
    return jnp.einsum("jab,lacbf->ljcf", _band(p).astype(acc), gram, precision="highest").reshape(shape)


# A pixel meets the zeros of the band, where an inf becomes a NaN in windows that do not hold it.
TOEPLITZ = Formulation(
    "toeplitz", forward, kernel_gradient, forward_unsupported, forward_unsupported, sums_directly=False
)
