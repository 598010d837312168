"""The formulation `batch_vectorized`: sixteen images fill a vector register, for channels that are too few to fill it.

The arrays are transposed to `(n / 16, *space, c, 16)`, so that XLA's loops run over whole vectors for any number of
channels. Between two neighbouring operations that both use the layout, as LeNet's first convolution and pool do, the
transpositions cancel. (oneDNN's blocked formats, with the batch in the role of the channels.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..buffers import materialize, no_inline
from ..problem import Problem
from .base import UNROLLED, VECTOR, Array, Formulation, Solve, pad_image, slice_at, sum_over


def forward_unsupported(p: Problem) -> str | None:
    if p.groups > 1 or p.dilates_input:
        return "batch_vectorized supports convolutions without groups of an undilated input"
    return None if fills_vectors(p.batch) else f"batch_vectorized takes {VECTOR} images at a time"


def fills_vectors(batch: int) -> bool:
    """Return whether the batch consists of whole vectors of images."""
    return isinstance(batch, int) and batch > 0 and batch % VECTOR == 0


def batch_to_vectors(x: jax.Array) -> jax.Array:
    """Transpose (n, ...) to (n / 16, ..., 16)."""
    return jnp.moveaxis(x.reshape(-1, VECTOR, *x.shape[1:]), 1, -1)


def vectors_to_batch(x: jax.Array) -> jax.Array:
    """Undo `batch_to_vectors`."""
    return jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:-1])


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    acc, one = p.accumulator, (1,) * p.rank

    def convolved(image, kernel):
        def term(tap, image, kernel):
            inputs = slice_at(image, [t * d for t, d in zip(tap, p.kernel_dilation)], p.out, p.strides).astype(acc)
            weights = slice_at(kernel[None], tap, one, one).astype(acc)[..., None]  # (1, *ones, c, f, 1)
            return sum(inputs[..., i, None, :] * weights[..., i, :, :] for i in range(p.channels))

        return sum_over(term, p.window, max(1, 64 // p.channels), image, kernel).astype(p.out_dtype)

    return vectors_to_batch(no_inline(convolved, materialize(pad_image(batch_to_vectors(x), p)), kernel))


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    acc, one = p.accumulator, (1,) * p.rank
    image, cotangents = materialize(pad_image(batch_to_vectors(x), p)), materialize(batch_to_vectors(dy))

    def term(position, image, cotangents):
        inputs = slice_at(image, [o * s for o, s in zip(position, p.strides)], p.window, p.kernel_dilation).astype(acc)
        return inputs[..., None, :] * slice_at(cotangents, position, one, one).astype(acc)[..., None, :, :]

    entries = sum_over(term, p.out, UNROLLED, image, cotangents)  # (n / 16, *window, c, f, 16)
    return entries.sum((0, -1))


BATCH_VECTORIZED = Formulation(
    "batch_vectorized", forward, kernel_gradient, forward_unsupported, forward_unsupported, splits_batch=True
)
