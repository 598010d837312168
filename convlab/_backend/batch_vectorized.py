"""Sixteen images side by side, one in each place of a vector, where the channels are too few to fill it.

The arrays are `(n / 16, *space, c, 16)` meanwhile. XLA's loops then run over whole vectors whatever the channels are, and the way
there and back cancels between neighbours that both take it, as LeNet's first convolution and pool do. (The layout of oneDNN's
blocked formats, with the batch in the place of the channels.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from . import taps
from .axis import Axis, axes
from .problem import Problem
from .windows import materialize, no_inline

LANES = 16


def sums_directly(p: Problem) -> bool:
    return True


def unsupported_forward(p: Problem) -> str | None:
    if p.groups > 1 or any(d > 1 for d in p.lhs_dilation):
        return "batch_vectorized serves convolutions without groups of an undilated input"
    return None if fill(p.batch) else f"batch_vectorized takes {LANES} images at a time"


unsupported_kernel_gradient = unsupported_forward


def fill(batch: int) -> bool:
    return isinstance(batch, int) and batch > 0 and batch % LANES == 0


def into(x: jax.Array) -> jax.Array:
    """(n, ...) -> (n / 16, ..., 16)."""
    return jnp.moveaxis(x.reshape(-1, LANES, *x.shape[1:]), 1, -1)


def out_of(x: jax.Array) -> jax.Array:
    """The inverse of `into`."""
    return jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:-1])


def forward(x, kernel, p: Problem):
    if taps.empty(p):
        return jnp.zeros((p.batch, *p.out, p.features), p.out_dtype)
    acc, one = taps.accumulator(p), (1,) * p.rank

    def convolved(image, kernel):
        def term(tap):
            seen = taps.window_at(image, [t * d for t, d in zip(tap, p.rhs_dilation)], p.out, p.strides).astype(acc)
            weights = taps.window_at(kernel[None], tap, one, one).astype(acc)[..., None]  # (1, *ones, c, f, 1)
            return sum(seen[..., i, None, :] * weights[..., i, :, :] for i in range(p.channels))

        return taps.summed(term, p.window, max(1, 64 // p.channels)).astype(p.out_dtype)

    return out_of(no_inline(convolved, materialize(taps.padded(into(x), p)), kernel))


def kernel_gradient(x, dy, p: Problem):
    if taps.empty(p):
        return jnp.zeros((*p.window, p.channels, p.features), p.out_dtype)
    acc, one = taps.accumulator(p), (1,) * p.rank
    image, cotangents = materialize(taps.padded(into(x), p)), materialize(into(dy))

    def term(place):
        seen = taps.window_at(image, [o * s for o, s in zip(place, p.strides)], p.window, p.rhs_dilation).astype(acc)
        return seen[..., None, :] * taps.window_at(cotangents, place, one, one).astype(acc)[..., None, :, :]

    entries = taps.summed(term, p.out, taps.UNROLLED)  # (n / 16, *window, c, f, 16)
    return entries.sum((0, -1)).astype(p.out_dtype)


def pooled(reduction: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A reduction of `windows`, by lanes where they pay: an image's plane in tiles, of a few channels."""

    @functools.wraps(reduction)
    def reduced(*arrays, **options):
        shape, window = arrays[0].shape, {name: value for name, value in options.items() if name != "reducer"}
        if not (1 < shape[-1] < LANES and fill(shape[0]) and _plane_in_tiles(axes(arrays[0], **window), len(shape))):
            return reduction(*arrays, **options)
        idle = {name: (0, 0) if name == "padding" else 1 for name in window}
        options |= {name: (*value, idle[name]) for name, value in window.items()}
        return out_of(reduction(*(into(a) for a in arrays), **options))

    return reduced


def _plane_in_tiles(found: list[Axis], rank: int) -> bool:
    return len(found) == 2 and all(axis.tiles and 0 < axis.index < rank - 1 for axis in found)
