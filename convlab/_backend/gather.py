"""Single places of an image, each element its own: what interpolation other than linear gathers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array


def take_places(x: Array, places: Sequence[Array]) -> Array:
    """`x: (n, *spatial, c)` at `places`, one index for each spatial axis, `(n, count)`; beyond the ends it is 0. `(n,
    count, c)`."""
    spatial = x.shape[1:-1]
    rows = jnp.pad(x, [(0, 0), *[(1, 1)] * len(spatial), (0, 0)])
    at = jnp.arange(len(x), dtype=jnp.int32)[:, None]
    for place, n in zip(places, spatial):
        at = at * (n + 2) + place.clip(-1, n).astype(jnp.int32) + 1
    flat = rows.reshape(len(x) * math.prod(rows.shape[1:-1]), x.shape[-1])
    if len(x) == 0:
        return jnp.zeros((*at.shape, x.shape[-1]), x.dtype)
    return flat.at[at.ravel()].get(mode="promise_in_bounds").reshape(*at.shape, x.shape[-1])
