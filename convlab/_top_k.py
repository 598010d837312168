"""Sums of the largest values of windows: by insertion, by sorting, and of long windows that overlap by merging."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import _backend
from ._arguments import index_dtype
from ._masks import only_valid
from ._patches import MAX_UNROLLED_TAPS, apply_padding, sum_taps, tap_groups
from ._window import Window
from ._window_halves import overlap_much, reduce_by_halves

Array = jax.Array
Exchange = Callable[[Any, Any], tuple[Any, Any]]  # two entries, the one that is selected first before the other

MAX_MERGED = 8  # larger lists take too many comparisons


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def sum_of_largest(x: Array, valid: Array | None, window: Window, k: int) -> Array:
    """Sum the `k` largest values of each window, of equal ones the first."""
    keys, least = _order_keys(x, valid)
    if _use_halves(window, k):
        largest = _top_k_by_halves(keys, window, k, least)
        return functools.reduce(operator.add, [_value_of_key(key, x.dtype) for key in largest])
    groups = tap_groups(keys, window, least)
    if _use_sort(window, k):
        return _value_of_key(_top_k_by_sort(groups, k)[0], x.dtype).sum(-1)
    values = [_value_of_key(key, x.dtype) for key in _top_k_by_insertion(groups, k)]
    return functools.reduce(operator.add, values)[0]


@sum_of_largest.defjvp
def sum_of_largest_jvp(window: Window, k: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x, valid), (dx, _) = primals, tangents
    y, (keys, none), moved = (
        sum_of_largest(x, valid, window, k),
        _order_keys(lax.stop_gradient(x), valid),
        only_valid(dx, valid),
    )
    if _use_halves(window, k):
        return y, _sum_at_largest(moved, keys, window, k, none)
    groups = tap_groups(keys, window, none)
    least, last = _last_chosen(groups, k, _use_sort(window, k))
    numbers = [sum(map(len, groups[:i])) for i in range(len(groups))]
    chosen = []
    for number, order in zip(numbers, groups):
        tap = number + lax.broadcasted_iota(jnp.int32, order.shape, 0)
        chosen.append((order > least) | (order == least) & (tap <= last))
    return y, sum_taps(lambda some, tap: jnp.where(some, tap, 0), chosen, tap_groups(moved, window))[0]


def _use_halves(window: Window, k: int) -> bool:
    return k <= MAX_MERGED and overlap_much(window)


def _use_sort(window: Window, k: int) -> bool:
    return math.prod(window.size) * k > 4 * MAX_UNROLLED_TAPS


def _top_k_by_sort(groups: list[Array], k: int) -> tuple[Array, Array]:
    """Return the `k` largest values of each window in descending order, `(*batch, *out, c, k)`, and their taps."""
    largest, taps = lax.top_k(jnp.moveaxis(jnp.concatenate(groups), 0, -1), k)
    return largest, taps


def _last_chosen(groups: list[Array], k: int, by_sort: bool) -> tuple[Array, Array]:
    """Return the k-th largest value of each window, and the last selected tap among those equal to it."""
    if by_sort:
        largest, taps = _top_k_by_sort(groups, k)
        return largest[None, ..., -1], taps[None, ..., -1].astype(jnp.int32)
    least = _backend.materialize(_top_k_by_insertion(groups, k)[-1])
    left = k - functools.reduce(operator.add, [(order > least).astype(jnp.int32) for order in groups])
    last = jnp.zeros(left.shape, jnp.int32)
    for number, order in enumerate(groups):
        last = jnp.where((order == least) & (left > 0), number, last)
        left -= (order == least).astype(jnp.int32)
    return least, _backend.materialize(last)


def _order_keys(x: Array, valid: Array | None) -> tuple[Array, int]:
    """Map each value to an integer of the same order, with NaN above all; also return -2 ** 31 (or 63), the key of
    padding."""
    bits = _convert_bits(jnp.where(x == 0, 0, x), jnp.int64 if x.dtype.itemsize == 8 else jnp.int32)
    most = jnp.iinfo(bits.dtype)
    return only_valid(jnp.where(x != x, most.max, bits), valid, most.min), most.min


def _convert_bits(x: Array, dtype: Any) -> Array:
    """Convert between a float's bits and an integer of the same order; negative numbers have theirs reversed."""
    bits = x if jnp.issubdtype(x.dtype, jnp.integer) else lax.bitcast_convert_type(x, dtype)
    bits = jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)
    return bits if bits.dtype == dtype else lax.bitcast_convert_type(bits, dtype)


def _value_of_key(order: Array, dtype: Any) -> Array:
    return jnp.where(order == jnp.iinfo(order.dtype).min, 0, _convert_bits(order, dtype))


def _top_k_by_insertion(orders: list[Array], k: int) -> list[Array]:
    """Return the `k` largest values of each window in descending order, by insertion."""
    found: list[Array] = []
    for order in orders:
        for place, other in enumerate(found):
            found[place], order = lax.max(other, order), lax.min(other, order)
        if len(found) < k:
            found.append(order)
    return found


# --- long windows ---------------------------------------------------------------------------------------------------


def _top_k_by_halves(keys: Array, window: Window, k: int, least: int) -> list[Array]:
    """Return the `k` largest keys of each window in descending order; padding has the key `least`."""
    padded, window = apply_padding(keys, window, least)
    return _merged([padded], window, k, lambda a, b: (lax.max(a, b), lax.min(a, b)), lambda a: jnp.full_like(a, least))


def _sum_at_largest(values: Array, keys: Array, window: Window, k: int, least: int) -> Array:
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
