"""Sixteen images side by side, one in each element of a vector register, where the channels are too few to fill it.

The arrays are `(n / 16, *space, c, 16)` meanwhile. XLA's loops then run over whole vectors whatever the channels are,
and the way there and back cancels between neighbours that both take it, as LeNet's first convolution and pool do. (The
layout of oneDNN's blocked formats, with the batch in the place of the channels.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..buffers import materialize, no_inline
from ..problem import Problem
from .base import UNROLLED, VECTOR, Array, Formulation, Solve, padded, slice_at, sum_over


def forward_unsupported(p: Problem) -> str | None:
    if p.groups > 1 or p.dilates_input:
        return "batch_vectorized serves convolutions without groups of an undilated input"
    return None if fill(p.batch) else f"batch_vectorized takes {VECTOR} images at a time"


def fill(batch: int) -> bool:
    return isinstance(batch, int) and batch > 0 and batch % VECTOR == 0


def into(x: jax.Array) -> jax.Array:
    """(n, ...) -> (n / 16, ..., 16)."""
    return jnp.moveaxis(x.reshape(-1, VECTOR, *x.shape[1:]), 1, -1)


def out_of(x: jax.Array) -> jax.Array:
    """The inverse of `into`."""
    return jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:-1])


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    acc, one = p.accumulator, (1,) * p.rank

    def convolved(image, kernel):
        def term(tap, image, kernel):
            seen = slice_at(image, [t * d for t, d in zip(tap, p.kernel_dilation)], p.out, p.strides).astype(acc)
            weights = slice_at(kernel[None], tap, one, one).astype(acc)[..., None]  # (1, *ones, c, f, 1)
            return sum(seen[..., i, None, :] * weights[..., i, :, :] for i in range(p.channels))

        return sum_over(term, p.window, max(1, 64 // p.channels), image, kernel).astype(p.out_dtype)

    return out_of(no_inline(convolved, materialize(padded(into(x), p)), kernel))


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    acc, one = p.accumulator, (1,) * p.rank
    image, cotangents = materialize(padded(into(x), p)), materialize(into(dy))

    def term(place, image, cotangents):
        seen = slice_at(image, [o * s for o, s in zip(place, p.strides)], p.window, p.kernel_dilation).astype(acc)
        return seen[..., None, :] * slice_at(cotangents, place, one, one).astype(acc)[..., None, :, :]

    entries = sum_over(term, p.out, UNROLLED, image, cotangents)  # (n / 16, *window, c, f, 16)
    return entries.sum((0, -1))


BATCH_VECTORIZED = Formulation(
    "batch_vectorized",
    forward,
    kernel_gradient,
    forward_unsupported,
    forward_unsupported,
    splits_batch=True,
)
