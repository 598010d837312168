"""Single places of an image, each element its own: what interpolation gathers."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

Array = jax.Array


def take_places(x: Array, places: Sequence[Array]) -> Array:
    """`x: (n, *spatial, c)` at `places`, one index for each spatial axis, `(n, count)`; beyond the ends it is 0. `(n,
    count, c)`."""
    if len(x) == 0:
        return jnp.zeros((*places[0].shape, x.shape[-1]), x.dtype)
    rows, (at,) = bordered_rows(x, [places])
    return rows.at[at].get(mode="promise_in_bounds").reshape(*places[0].shape, x.shape[-1])


def bordered_rows(x: Array, several: Sequence[Sequence[Array]]) -> tuple[Array, list[Array]]:
    """The rows of `x` and of a border of zeros, and the number of the row at each of several `places`."""
    spatial = x.shape[1:-1]
    table = jnp.pad(x, [(0, 0), *[(1, 1)] * len(spatial), (0, 0)])
    image = jnp.arange(len(x), dtype=jnp.int32)[:, None]

    def flat(places: Sequence[Array]) -> Array:
        at = image
        for place, n in zip(places, spatial):
            at = at * (n + 2) + place.clip(-1, n).astype(jnp.int32) + 1
        return at.ravel()

    return table.reshape(len(x) * math.prod(table.shape[1:-1]), x.shape[-1]), [flat(places) for places in several]


def weighted(values: Sequence[Array], weights: Sequence[Array]) -> Array:
    """The sum of values with their weights. What has no weight adds no 0 * inf; its values stay where they are finite,
    for the derivative by the weight."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.promote_types(values[0].dtype, weights[0].dtype)
    parts = [w.astype(dtype) * _kept(v, w).astype(dtype) for v, w in zip(values, weights)]
    return functools.reduce(operator.add, parts)


def _kept(values: Array, weight: Array) -> Array:
    return jnp.where((weight == 0) & ~jnp.isfinite(values), jnp.zeros((), values.dtype), values)


@jax.custom_jvp
def weighted_rows(rows: Array, indices: list[Array], weights: list[Array]) -> Array:
    """The sum of `rows: (count, c)` at several lists of `indices`, with their `weights`, `(n, 1)` each.

    Gathers fuse with the sum, each its own. The tangent of the rows is made for its transpose: one scatter of products,
    where a scatter for each list begins with zeros of its own.
    """
    return weighted([_take(rows, at) for at in indices], weights)


@functools.partial(weighted_rows.defjvp, symbolic_zeros=True)
def _weighted_rows_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (rows, indices, weights), (rows_tangent, _, weights_tangent) = primals, tangents
    y, terms = weighted_rows(rows, indices, weights), []
    if not isinstance(rows_tangent, SymbolicZero):
        factors = jnp.stack(weights)
        moved = _take(rows_tangent, jnp.concatenate(indices)).reshape(*factors.shape[:2], rows.shape[-1])
        terms.append((factors.astype(y.dtype) * moved.astype(y.dtype)).sum(0))
    for at, weight, along in zip(indices, weights, weights_tangent):
        if not isinstance(along, SymbolicZero):
            terms.append(along.astype(y.dtype) * _kept(_take(rows, at), weight).astype(y.dtype))
    return y, functools.reduce(operator.add, terms or [jnp.zeros_like(y)])


def _take(rows: Array, at: Array) -> Array:
    return rows.at[at].get(mode="promise_in_bounds")
