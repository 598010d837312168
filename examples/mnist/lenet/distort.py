"""Distorts images on the device: random affine and elastic maps, as pure functions of random numbers.

Source: Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual document
analysis", 2003. The elastic field interpolates linearly between a grid of random knots, so that it and the affine map
together are one matrix product.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .data import SIZE

KNOTS = 5  # along each axis
DRAWS = 2 * KNOTS**2 + 5


class Distortion(NamedTuple):
    """Standard deviations, except for `flip`; with all 0 the images do not change."""

    shift: float = 0.0  # pixels, along each axis
    rotate: float = 0.0  # degrees
    scale: float = 0.0  # logarithm of the size
    elastic: float = 0.0  # pixels, for each knot and axis
    flip: float = 0.0  # probability of a mirror image, left to right


def draw(key: jax.Array, count: int) -> jax.Array:
    """Return the random numbers for `count` images: `(count, DRAWS)` of the standard normal distribution."""
    return jax.random.normal(key, (count, DRAWS))


def distort(images: jax.Array, draws: jax.Array, by: Distortion) -> jax.Array:
    """Distort each of the bytes `(n, 28, 28)` by its row of `draws`; return float32 from 0 to 255, black outside."""
    return sample(images, source_positions(draws, by)) if any(by) else images.astype(jnp.float32)


def source_positions(draws: jax.Array, by: Distortion) -> jax.Array:
    """Return the row and the column from which each pixel is read, `(2, n, 28, 28)`."""
    middle = (SIZE - 1) / 2
    angle, size = draws[:, 0] * np.deg2rad(by.rotate), jnp.exp(draws[:, 1] * by.scale)
    sine, cosine = size * jnp.sin(angle), size * jnp.cos(angle)
    mirror = jnp.where(draws[:, 4] < jax.scipy.special.ndtri(jnp.float32(by.flip)), -1, 1)
    shift, knots = draws[:, 2:4] * by.shift + middle, jnp.split(draws[:, 5:] * by.elastic, 2, axis=1)
    rows = jnp.concatenate([knots[0], jnp.stack([cosine, -sine * mirror, shift[:, 0]], 1)], 1)
    columns = jnp.concatenate([knots[1], jnp.stack([sine, cosine * mirror, shift[:, 1]], 1)], 1)
    product = jnp.dot(jnp.concatenate([rows, columns]), _basis(), precision="highest")
    return product.reshape(2, -1, SIZE, SIZE)


def _basis() -> np.ndarray:
    """Return `(KNOTS**2 + 3, 784)`: the hat function of each knot, the pixel's row and column from the middle, and
    1."""
    hats = np.maximum(0, 1 - abs(np.linspace(0, KNOTS - 1, SIZE)[:, None] - np.arange(KNOTS)))
    row, column = np.indices((SIZE, SIZE)).reshape(2, -1) - (SIZE - 1) / 2
    elastic = np.einsum("ik,jl->klij", hats, hats).reshape(KNOTS**2, -1)
    return np.concatenate([elastic, [row, column, np.ones_like(row)]]).astype(np.float32)


def sample(images: jax.Array, where: jax.Array) -> jax.Array:
    """Interpolate bytes `(n, 28, 28)` linearly at `where`, `(2, n, *out)` in pixels; black outside.

    The four neighbours of a position are packed into one number, because XLA's gather takes the same time for any
    width. The barriers keep XLA from recomputing each part for every pixel that reads it.
    """
    # A black border of two pixels before the image and three after, outside of which nothing is read.
    where = jax.lax.optimization_barrier(jnp.clip(where, -1, SIZE) + 2)
    width = SIZE + 4
    padded = jnp.pad(images, ((0, 0), (2, 3), (2, 3)))
    corners = [padded[:, i : width + i, j : width + j] for i in (0, 1) for j in (0, 1)]
    packed = jax.lax.bitcast_convert_type(jnp.stack(corners, -1), jnp.uint32).reshape(len(images), -1)
    # The weights come from the same corner as the gather: computed twice, a position next to a pixel could round both
    # ways.
    corner = jax.lax.optimization_barrier(where.astype(jnp.int32))
    index = (corner[0] * width + corner[1]).reshape(len(images), -1)
    packed, index = jax.lax.optimization_barrier((packed, index))
    found = jax.lax.optimization_barrier(jnp.take_along_axis(packed, index, 1, mode="promise_in_bounds"))
    found = found.reshape(where.shape[1:])
    a, b = where - corner
    shade = [((found >> bits) & 255).astype(jnp.float32) for bits in (0, 8, 16, 24)]
    return (1 - a) * ((1 - b) * shade[0] + b * shade[1]) + a * ((1 - b) * shade[2] + b * shade[3])
