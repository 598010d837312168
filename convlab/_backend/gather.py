"""Gather single elements of an image, for interpolation other than linear (`grid_sample`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array


def take_elements(x: Array, positions: Sequence[Array]) -> Array:
    """Gather `(n, count, c)` from `x: (n, *spatial, c)`; outside of the image it is 0.

    `positions`: the indices along each spatial axis, `(n, count)`.
    """
    spatial = x.shape[1:-1]
    rows = jnp.pad(x, [(0, 0), *[(1, 1)] * len(spatial), (0, 0)])
    at = jnp.arange(len(x), dtype=jnp.int32)[:, None]
    for index, n in zip(positions, spatial):
        at = at * (n + 2) + index.clip(-1, n).astype(jnp.int32) + 1
    flat = rows.reshape(len(x) * math.prod(rows.shape[1:-1]), x.shape[-1])
    if len(x) == 0:
        return jnp.zeros((*at.shape, x.shape[-1]), x.dtype)
    return flat.at[at.ravel()].get(mode="promise_in_bounds").reshape(*at.shape, x.shape[-1])
