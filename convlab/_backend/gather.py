"""Gather single elements of an image at positions of their own, for interpolation."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

Array = jax.Array


def take_elements(x: Array, positions: Sequence[Array]) -> Array:
    """Gather `(n, count, c)` from `x: (n, *spatial, c)`; outside of the image it is 0.

    `positions`: the indices along each spatial axis, `(n, count)`.
    """
    if len(x) == 0:
        return jnp.zeros((*positions[0].shape, x.shape[-1]), x.dtype)
    rows, (at,) = bordered_rows(x, [positions])
    return rows.at[at].get(mode="promise_in_bounds").reshape(*positions[0].shape, x.shape[-1])


def bordered_rows(x: Array, several: Sequence[Sequence[Array]]) -> tuple[Array, list[Array]]:
    """Return the rows of `x` with a border of zeros, and the index of the row at each of several `positions`."""
    spatial = x.shape[1:-1]
    table = jnp.pad(x, [(0, 0), *[(1, 1)] * len(spatial), (0, 0)])
    image = jnp.arange(len(x), dtype=jnp.int32)[:, None]

    def flat(positions: Sequence[Array]) -> Array:
        at = image
        for index, n in zip(positions, spatial):
            at = at * (n + 2) + index.clip(-1, n).astype(jnp.int32) + 1
        return at.ravel()

    return table.reshape(len(x) * math.prod(table.shape[1:-1]), x.shape[-1]), [flat(positions) for positions in several]


def weighted(values: Sequence[Array], weights: Sequence[Array]) -> Array:
    """Sum values by their weights, without NaN from 0 * inf.

    Finite values with weight 0 stay in the sum, for the derivative by the weight.
    """
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.promote_types(values[0].dtype, weights[0].dtype)
    parts = [w.astype(dtype) * _without_unweighted_infs(v, w).astype(dtype) for v, w in zip(values, weights)]
    return functools.reduce(operator.add, parts)


def _without_unweighted_infs(values: Array, weight: Array) -> Array:
    return jnp.where((weight == 0) & ~jnp.isfinite(values), jnp.zeros((), values.dtype), values)


@jax.custom_jvp
def weighted_rows(rows: Array, indices: list[Array], weights: list[Array]) -> Array:
    """Sum `rows: (count, c)` at several lists of `indices` by their `weights`, `(n, 1)` each.

    XLA fuses the gathers with the sum. The tangent of the rows is written for its transpose: one scatter of products,
    where one scatter for each list would fill an array of zeros each time.
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
            terms.append(along.astype(y.dtype) * _without_unweighted_infs(_take(rows, at), weight).astype(y.dtype))
    return y, functools.reduce(operator.add, terms or [jnp.zeros_like(y)])


def _take(rows: Array, at: Array) -> Array:
    return rows.at[at].get(mode="promise_in_bounds")
