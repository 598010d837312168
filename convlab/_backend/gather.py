"""Gather single elements of an image at positions of their own, for interpolation."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from .buffers import materialize

Array = jax.Array

MAX_ELEMENTS = 2**21  # that a group of images reads


def take_elements(x: Array, positions: Sequence[Array]) -> Array:
    """Gather `(n, count, c)` from `x: (n, *spatial, c)`; outside of the image it is 0.

    `positions`: the indices along each spatial axis, `(n, count)`.
    """
    if x.shape[0] == 0:
        return jnp.zeros((*positions[0].shape, x.shape[-1]), x.dtype)
    rows, (at,) = bordered_rows(x, [positions])
    return rows.at[at].get(mode="promise_in_bounds").reshape(*positions[0].shape, x.shape[-1])


def bordered_rows(x: Array, several: Sequence[Sequence[Array]]) -> tuple[Array, list[Array]]:
    """Return the rows of `x` with a border of zeros, and the index of the row at each of several `positions`."""
    spatial = x.shape[1:-1]
    table = jnp.pad(x, [(0, 0), *[(1, 1)] * len(spatial), (0, 0)])
    image = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]

    def flat(positions: Sequence[Array]) -> Array:
        at = image
        for index, n in zip(positions, spatial):
            at = at * (n + 2) + index.clip(-1, n).astype(jnp.int32) + 1
        return at.ravel()

    return table.reshape(x.shape[0] * math.prod(table.shape[1:-1]), x.shape[-1]), [
        flat(positions) for positions in several
    ]


def by_groups(function: Callable, operands: Sequence[Any], elements: int) -> Array:
    """Compute `function(*operands)`, and its derivatives for groups of images, along axis 0 of all, at a time.

    Derivatives compute what they need again instead of storing it, so that a CPU reuses the memory of one group:
    pages that are new to a process take more time than the sums. `elements` are those that an image reads.
    """
    leaves, tree = jax.tree.flatten(tuple(operands))
    n = leaves[0].shape[0]
    are_known = isinstance(n, int) and isinstance(elements, int)
    if not are_known or n * elements <= MAX_ELEMENTS or any(jax.typeof(leaves[0]).sharding.spec):
        return function(*operands)
    size = next(k for k in range(min(n, max(1, MAX_ELEMENTS // elements)), 0, -1) if n % k == 0)

    @jax.custom_jvp
    def computed(*leaves: Array) -> Array:
        return function(*jax.tree.unflatten(tree, leaves))

    def grouped(*leaves: Array) -> Array:
        groups = [a.reshape(n // size, size, *a.shape[1:]) for a in leaves]
        y = lax.map(jax.checkpoint(lambda group: function(*jax.tree.unflatten(tree, group)), prevent_cse=False), groups)
        return y.reshape(n, *y.shape[2:])

    @functools.partial(computed.defjvp, symbolic_zeros=True)
    def _(leaves: tuple, tangents: tuple) -> tuple[Array, Array]:
        moving = [i for i, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]

        def of_moving(*moved: Array) -> Array:
            return grouped(*(dict(zip(moving, moved)).get(i, a) for i, a in enumerate(leaves)))

        return jax.jvp(of_moving, tuple(leaves[i] for i in moving), tuple(tangents[i] for i in moving))

    return computed(*leaves)


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


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def weighted_rows(rows: Array, indices: Sequence[Array], within: Sequence[Array], weigh: Callable) -> Array:
    """Sum `rows: (count, c)` at several lists of `indices`, `(n,)` each, by their weights; XLA fuses gathers and sum.

    `weigh` maps `within`, a tuple of `(n,)`, to the weights of all lists, `(n,)` each.
    """
    return weighted([_take(rows, at) for at in indices], [w[:, None] for w in weigh(within)])


@functools.partial(weighted_rows.defjvp, symbolic_zeros=True)
def _weighted_rows_jvp(weigh: Callable, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (rows, indices, within), (rows_tangent, _, within_tangents) = primals, tangents
    y, terms = weighted_rows(rows, indices, within, weigh), []
    if not isinstance(rows_tangent, SymbolicZero):
        # for its transpose: one scatter of products, where one for each list would fill an array of zeros each time
        factors = jnp.stack(weigh(within))
        moved = _take(rows_tangent, jnp.concatenate(indices)).reshape(*factors.shape, rows.shape[-1])
        terms.append((factors[..., None].astype(y.dtype) * moved.astype(y.dtype)).sum(0))
    if not all(isinstance(along, SymbolicZero) for along in within_tangents):
        along = [jnp.zeros_like(a) if isinstance(t, SymbolicZero) else t for a, t in zip(within, within_tangents)]
        weights, changes = jax.jvp(lambda *a: weigh(a), within, tuple(along))
        values = [_without_unweighted_infs(_take(rows, at), w[:, None]) for at, w in zip(indices, weights)]
        terms += [change[:, None].astype(y.dtype) * v.astype(y.dtype) for change, v in zip(changes, stored(values))]
    return y, functools.reduce(operator.add, terms or [jnp.zeros_like(y)])


def stored(arrays: Sequence[Array]) -> tuple[Array, ...]:
    """Store arrays on a CPU, which would recompute them for every channel that reads them, and which gathers and sums
    faster in separate loops."""
    return lax.platform_dependent(tuple(arrays), cpu=_materialized, default=tuple)


@jax.custom_jvp
def stored_apart(x: Array) -> Array:
    """Store one array as `stored` does; its derivative is the identity, which stores nothing."""
    return stored((x,))[0]


@stored_apart.defjvp
def _stored_apart_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return stored_apart(*primals), tangents[0]


def _materialized(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(map(materialize, arrays))


def _take(rows: Array, at: Array) -> Array:
    return rows.at[at].get(mode="promise_in_bounds")
