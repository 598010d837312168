"""The largest values of long windows that overlap, by merging those of windows half as long."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ._arguments import index_dtype
from ._patches import apply_padding
from ._window import Window
from ._window_halves import reduce_by_halves

Array = jax.Array
Exchange = Callable[[Any, Any], tuple[Any, Any]]  # two entries, the one that is selected first before the other

MAX_MERGED = 8  # larger lists take too many comparisons


def top_k_by_halves(keys: Array, window: Window, k: int, least: int) -> list[Array]:
    """Return the `k` largest keys of each window in descending order; padding has the key `least`."""
    padded, window = apply_padding(keys, window, least)
    return _merged([padded], window, k, lambda a, b: (lax.max(a, b), lax.min(a, b)), lambda a: jnp.full_like(a, least))


def sum_at_largest(values: Array, keys: Array, window: Window, k: int, least: int) -> Array:
    """Sum `values` where the keys of each window are the `k` largest, of equal ones the first."""
    (padded, inner), (values, _) = apply_padding(keys, window, least), apply_padding(values, window, 0)
    first, spatial = padded.ndim - 1 - window.rank, padded.shape[-1 - window.rank : -1]
    dtype = index_dtype(spatial)
    place = jnp.zeros(padded.shape, dtype)
    for axis, n in enumerate(spatial, first):
        place = place * n + lax.broadcasted_iota(dtype, padded.shape, axis)

    def exchange(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        is_first = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
        pairs = list(zip(a, b))
        return tuple(lax.select(is_first, *p) for p in pairs), tuple(lax.select(is_first, *p[::-1]) for p in pairs)

    largest = _merged([(padded, place)], inner, k, exchange, lambda a: (jnp.full_like(a[0], least), a[1]))
    flat = values.reshape(*values.shape[:first], math.prod(spatial), *(1,) * (inner.rank - 1), values.shape[-1])

    def at(key: Array, place: Array) -> Array:
        taken = jnp.take_along_axis(flat, place, first, mode="promise_in_bounds")
        return jnp.where(key == least, jnp.zeros((), values.dtype), taken)

    return functools.reduce(operator.add, [at(*entry) for entry in largest])


def _merged(entry: list[Any], window: Window, k: int, exchange: Exchange, empty: Callable[[Any], Any]) -> list[Any]:
    most = 1 << (k - 1).bit_length()

    def merge(one: list[Any], other: list[Any]) -> list[Any]:
        """Merge two descending lists, whose lengths are powers of 2, to at most `most` entries."""
        length = max(len(one), len(other))
        a, b = (entries + [empty(entries[0])] * (length - len(entries)) for entries in (one, other))
        if length == most:
            mixed = [exchange(x, y)[0] for x, y in zip(a, b[::-1])]
        else:
            mixed = a + b[::-1]
        step = len(mixed) // 2
        while step:  # a bitonic list is sorted by exchanges at halved distances
            for i in (i for i in range(len(mixed)) if not i & step):
                mixed[i], mixed[i + step] = exchange(mixed[i], mixed[i + step])
            step //= 2
        return mixed

    leaf = jax.tree.leaves(entry)[0]
    return reduce_by_halves(entry, leaf.ndim - 1 - window.rank, window, merge)[:k]
