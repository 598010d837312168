"""Pools between maximum and average: weighted and stochastic pools, and the anti-aliasing blur."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _backend
from ._arguments import argument_error, read_int, read_modes, spatial_shape
from ._dtypes import accumulation_dtype, average_dtype
from ._masks import only_valid
from ._padding import pad_spatial
from ._patches import apply_padding, are_stacked, max_taps, scan_taps, sum_taps, tap_groups
from ._pool_power import power_sums, read_parameter, read_real_pool
from ._pool_windows import (
    along_axis,
    count_taps,
    read_pool,
    read_valid_mask,
    reduce_windows,
    resolve_padding,
    window_max,
)
from ._top_k import sum_of_largest
from ._window import Window
from ._window_halves import overlap_much, reduce_by_halves
from .typing import Ints, Padding, PaddingModes

Array = jax.Array


# --- weighted means -----------------------------------------------------------------------------------------------


def softmax_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    temperature: Any = 1.0,
    valid: Array | None = None,
) -> Array:
    """Average each window with the softmax of `x / temperature` as weights. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape, strides, padding, valid: as in `max_pool`; padding has no weight.
        temperature: a number > 0, or a learned array of shape `()` or `(c,)`; small values approach the
            maximum, large values the average.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers; computed in float32 for 16-bit and integer input.
        A window of padding only gives 0.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result.

    Example:
        >>> softmax_pool(jnp.array([1.0, 9.0]).reshape(1, 2, 1), 2, temperature=1e-3).ravel().tolist()
        [9.0]

    Source: Stergiou, Poppe and Kalliatakis, "Refining activation downsampling with SoftPool", arXiv 2101.00440.
    """
    x, window = read_real_pool(x, window_shape, strides, padding)
    temperature = read_parameter("temperature", temperature, x)
    wide = only_valid(x.astype(accumulation_dtype(x)), read_valid_mask(valid, x, window, padding), -jnp.inf)
    padded, window = resolve_padding(wide, window)
    sums = _softmax_sums_by_halves if overlap_much(window) else _softmax_sums
    largest, total, weighted = sums(padded, window, temperature)
    # the mean is inf where an inf is; elsewhere an infinity is -inf or padding, and has no weight
    y = jnp.where(largest == jnp.inf, largest, weighted / jnp.where(total == 0, 1, total))
    return y.astype(average_dtype(x))


def _softmax_sums(x: Array, window: Window, temperature: Any) -> tuple[Array, Array, Array]:
    """Return the maximum of each window, the sum of the weights `exp((tap - maximum) / temperature)`, and that of the
    weighted taps."""
    groups = tap_groups(x, window, -jnp.inf)
    largest = max_taps(groups)
    infinite = largest == jnp.inf
    temperature = temperature[None] if isinstance(temperature, jax.Array) and temperature.ndim else temperature

    def weigh(tap: Array) -> tuple[Array, Array]:
        none = jnp.isinf(tap)
        weight = jnp.where(none, 0, jnp.exp(jnp.where(none | infinite, 0, tap - largest) / temperature))
        return weight, weight * jnp.where(none, 0, tap)

    total, weighted = sum_taps(weigh, groups)
    return largest[0], total[0], weighted[0]


def _softmax_sums_by_halves(x: Array, window: Window, temperature: Any) -> tuple[Array, Array, Array]:
    """Compute the same from the sums of half windows, which are scaled if their maxima differ."""
    x, window = apply_padding(x, window, -jnp.inf)

    def factor(own: Array, largest: Array) -> Array:
        none = jnp.isinf(own) | jnp.isinf(largest)
        return jnp.where(none, 0, jnp.exp(jnp.where(none, 0, own - largest) / temperature))

    def both(one: tuple[Array, ...], other: tuple[Array, ...]) -> tuple[Array, ...]:
        largest = lax.max(one[0], other[0])
        factors = [factor(half[0], largest) for half in (one, other)]
        return largest, *(factors[0] * a + factors[1] * b for a, b in zip(one[1:], other[1:]))

    largest, finite = lax.stop_gradient(x), ~jnp.isinf(x)
    taps = jnp.where(finite, x, 0)
    weight = jnp.where(finite, jnp.exp((taps - lax.stop_gradient(taps)) / temperature), 0)
    return reduce_by_halves((largest, weight, weight * taps), x.ndim - 1 - window.rank, window, both)


def top_k_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    k: int = 2,
    valid: Array | None = None,
) -> Array:
    """Average the `k` largest values of each window. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape, strides, padding, valid: as in `max_pool`; padding is never selected.
        k: between 1, which gives `max_pool`, and the number of taps, which gives `avg_pool`. A window with fewer taps
            inside the image averages those; without any it gives 0.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer input. Of
        equal values the first are selected, NaN before all; the selected values share the gradient.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result.

    Example:
        >>> top_k_pool(jnp.array([1.0, 5.0, 3.0]).reshape(1, 3, 1), 3, k=2).ravel().tolist()
        [4.0]

    Source: Kalchbrenner, Grefenstette and Blunsom, "A convolutional neural network for modelling sentences", arXiv
    1404.2188, whose k-max pooling keeps the k values where this takes their mean.
    """
    x, window = read_real_pool(x, window_shape, strides, padding)
    count = math.prod(window.size)
    if read_int("k", k) > count:
        raise argument_error("k", f"be an int from 1 to {count}", k, f"window_shape {window.size}")
    valid = read_valid_mask(valid, x, window, padding)
    padded, window = resolve_padding(x.astype(accumulation_dtype(x)), window)
    total = sum_of_largest(padded, valid, window, k)
    inside = jnp.asarray(count_taps(padded, window, include_pad=False, valid=valid), total.dtype)
    return (total / jnp.minimum(inside, k)).astype(average_dtype(x))


def mixed_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    alpha: Any = 0.5,
    valid: Array | None = None,
) -> Array:
    """Compute `alpha * max + (1 - alpha) * average` of each window. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape, strides, padding: as in `max_pool`; padding is never the maximum and counts as 0 in the average.
        alpha: a number between 0 and 1, or a learned array of shape `()` or `(c,)`.
        valid: for padded batches, booleans `(*batch, *spatial)`: only valid positions count, and no padding.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer input.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result.

    Example:
        >>> mixed_pool(jnp.array([1.0, 3.0]).reshape(1, 2, 1), 2).ravel().tolist()
        [2.5]

    Source: Lee, Gallagher and Tu, "Generalizing pooling functions in convolutional neural networks", arXiv 1509.08985.
    """
    x, window = read_real_pool(x, window_shape, strides, padding)
    alpha, wide = read_parameter("alpha", alpha, x, 0, 1, closed=True), x.astype(accumulation_dtype(x))
    valid = read_valid_mask(valid, x, window, padding)
    largest = reduce_windows(window_max, only_valid(wide, valid, -math.inf), window)
    count = math.prod(window.size) if valid is None else count_taps(wide, window, False, valid)
    average = reduce_windows(_backend.window_sum, only_valid(wide, valid), window) / count
    return (alpha * largest + (1 - alpha) * average).astype(average_dtype(x))


def stochastic_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    key: Array | None = None,
    valid: Array | None = None,
) -> Array:
    """Draw an element of each window in proportion to its value. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype; elements that are not positive are never drawn.
        window_shape, strides, padding, valid: as in `max_pool`; padding is never drawn.
        key: a JAX random key for training; None gives the expectation, for evaluation.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers; a window without a positive element gives 0. The
        gradient goes to the element drawn.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result.

    Example:
        >>> stochastic_pool(jnp.array([1.0, 3.0]).reshape(1, 2, 1), 2).ravel().tolist()
        [2.5]

    Source: Zeiler and Fergus, "Stochastic pooling for regularization of deep convolutional neural networks", arXiv
    1301.3557.
    """
    x, window = read_real_pool(x, window_shape, strides, padding)
    wide = only_valid(jax.nn.relu(x.astype(accumulation_dtype(x))), read_valid_mask(valid, x, window, padding))
    y = _expectation(wide, window) if key is None else _sample(wide, window, key)
    return y.astype(average_dtype(x))


def _expectation(x: Array, window: Window) -> Array:
    (size, sums), (_, squares) = power_sums(x, window, 1.0), power_sums(x, window, 2.0)
    infinite = sums == jnp.inf
    return jnp.where(infinite, jnp.inf, size * (squares / jnp.where(infinite | (sums == 0), 1, sums)))


def _sample(x: Array, window: Window, key: Any) -> Array:
    """Select the first element whose running sum exceeds a uniform fraction of the total; NaN if the window has one."""
    groups = tap_groups(*resolve_padding(x, window))
    largest = max_taps(groups)
    unit, infinite = jnp.where((largest == 0) | (largest == jnp.inf), 1, largest), largest == jnp.inf

    def weight(tap: Array) -> Array:
        tap = lax.stop_gradient(tap)
        return jnp.where(infinite, (tap == jnp.inf).astype(x.dtype), tap / unit)

    total = sum_taps(weight, groups)[0]
    drawn = jax.random.uniform(key, total.shape, x.dtype) * total

    def step(carry: tuple[Array, Array, Array], tap: Array) -> tuple[Array, Array, Array]:
        y, running, found = carry
        more = weight(tap[None])[0]
        running = running + more
        return jnp.where(~found & (more > 0), tap, y), running, found | (running > drawn)

    nothing = jnp.zeros(total.shape, x.dtype)
    y, *_ = scan_taps(step, (nothing, nothing, jnp.zeros(total.shape, bool)), groups)
    return jnp.where(total != total, total, y)


# --- blur ---------------------------------------------------------------------------------------------------------


def blur_pool(
    x: Array,
    window_shape: Ints = 3,
    strides: Ints = 2,
    padding: Padding = "SAME",
    *,
    padding_mode: PaddingModes = "reflect",
) -> Array:
    """Blur each channel by binomial weights, then subsample: downsampling without aliasing.

    Args:
        x: `(*batch, *spatial, c)` of any number dtype.
        window_shape: taps of the filter along each axis: 2 is (1, 1) / 2, 3 is (1, 2, 1) / 4, 5 is (1, 4, 6, 4, 1) /
            16; an int means every axis of an `x` with one batch axis.
        strides: steps of the window, one or one per axis.
        padding: as in `conv`.
        padding_mode: the values of the padding, as in `conv`.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer input.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an unknown mode, a pad too wide for its mode, an empty result.

    Example:
        >>> blur_pool(jnp.array([0.0, 4.0, 0.0, 4.0, 0.0]).reshape(1, 5, 1)).ravel().tolist()
        [2.0, 2.0, 2.0]

    It has no `valid`: its padding repeats positions of the image, and weights of a part of the window blur otherwise.
    Source: Zhang, "Making convolutional networks shift-invariant again", arXiv 1904.11486.
    """
    x, window = read_pool(x, window_shape, strides, padding)
    rank, spatial = window.rank, spatial_shape(x, window.rank)
    modes = read_modes(padding_mode, rank, window.padding)
    y = pad_spatial(x.astype(accumulation_dtype(x)), window.pads(spatial), modes, shown=padding)
    for axis, (k, stride) in enumerate(zip(window.size, window.strides)):
        size, strides, weights = (
            [1] * rank,
            [1] * rank,
            np.array([math.comb(k - 1, t) / 2 ** (k - 1) for t in range(k)]),
        )
        size[axis], strides[axis] = k, stride
        groups = tap_groups(y, Window(tuple(size), tuple(strides)))
        factors = along_axis(weights, y.ndim + 1, 0, y.dtype)
        parts = [factors] if are_stacked(groups) else jnp.split(factors, k)
        y = sum_taps(lambda tap, factor: tap * factor, groups, parts)[0]
    return y.astype(average_dtype(x))
