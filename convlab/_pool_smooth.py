"""Pools between the largest value and the average: power means, weighted and drawn ones, and the anti-aliasing blur."""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _backend
from ._patches import pad_spatial, patches
from ._pool import accumulator, averaged, check_ordered, counts, read, reduce, settled, spatial_of, window_max, window_min
from ._window import Window, argument_error, integer, read_modes

Array = jax.Array


def _read_real(x: Any, *geometry: Any) -> tuple[Array, Window]:
    """As `read`, for real numbers, in the dtype in which they are summed."""
    x, window = read(x, *geometry)
    check_ordered(x)
    return x, window


def _weight(argument: str, value: Any, x: Array, low: float = 0, high: float = math.inf, closed: bool = False) -> Any:
    """A real parameter: a number in the range, or an array (a learned one), one for all channels or one for each."""
    bound = f"between {low} and {high}" if closed else f"> {low}"
    rule = f"be a number {bound}, or an array of shape () or ({x.shape[-1]},)"
    if isinstance(value, (jax.Array, np.ndarray)):
        if value.shape not in ((), x.shape[-1:]):
            raise argument_error(argument, rule, value.shape, f"{x.shape[-1]} channels")
        return value.astype(accumulator(x))
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise argument_error(argument, rule, value, kind=TypeError)
    if not (low <= value <= high if closed else low < value <= high):
        raise argument_error(argument, rule, value)
    return value


# --- power means --------------------------------------------------------------------------------------------------


def _power(x: Array, p: Any) -> Array:
    """`|x| ** p`, with finite derivatives of every order: at 0 a polynomial's for an integer `p`, otherwise 0."""
    if isinstance(p, (int, float)) and p == int(p) < 64:
        even = lax.integer_pow(x, 2 * (int(p) // 2))
        return even if p % 2 == 0 else jnp.abs(x) * even
    nonzero = x != 0
    return jnp.where(nonzero, jnp.abs(jnp.where(nonzero, x, 1)) ** p, 0)


def lp_pool(
    x: Array,
    window_shape: Any,
    strides: Any = None,
    padding: Any = "VALID",
    *,
    norm_type: float = 2.0,
    window_dilation: Any = 1,
    ceil_mode: bool = False,
) -> Array:
    """The p-norm of each window: `sum(|x| ** p) ** (1 / p)`. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape, strides, padding, window_dilation: as in `max_pool`; padding adds 0.
        norm_type: p, any number but 0; inf makes the largest of `|x|`, -inf the smallest.
        ceil_mode: let a last window hang over the end; its sum is scaled by window / taps inside, as PyTorch does.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer input.
        The gradient is finite everywhere, 0 where a window holds only zeros, for a negative p where it holds one.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result.

    Example:
        >>> lp_pool(jnp.array([3.0, -4.0, 0.0]).reshape(1, 3, 1), 2).ravel().tolist()
        [5.0, 4.0]

    Equals `torch.nn.functional.lp_pool2d`, of `|x|` for every p.
    """
    x, window = _read_real(x, window_shape, strides, padding, window_dilation, ceil_mode)
    rule = "be a number other than 0"
    if isinstance(norm_type, bool) or not isinstance(norm_type, (int, float, np.number)):
        raise argument_error("norm_type", rule, norm_type, kind=TypeError)
    wide, p = x.astype(accumulator(x)), float(norm_type)
    if p == 0 or p != p:
        raise argument_error("norm_type", rule, norm_type)
    if abs(p) == math.inf:
        largest = reduce(window_max, jnp.abs(wide), window)
        y = largest if p > 0 else reduce(window_min, jnp.abs(wide), window)
        return jnp.where(largest < 0, 0, y).astype(averaged(x))
    none = (wide == 0) & (p < 0)  # makes the sum infinite, and so the norm 0
    scale = math.prod(window.size) / counts(x, window, include_pad=True)
    total = reduce(_backend.window_sum, _power(jnp.where(none, 1, wide), p), window)
    y = _power(total * jnp.asarray(scale, total.dtype), 1 / p)
    if p < 0:
        y = jnp.where(reduce(window_max, none.astype(wide.dtype), window) > 0, 0, y)
    return y.astype(averaged(x))


def gem_pool(x: Array, window_shape: Any, strides: Any = None, padding: Any = "VALID", *, p: Any = 3.0) -> Array:
    """The generalised mean of each window: `mean(|x| ** p) ** (1 / p)`. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape, strides, padding: as in `max_pool`; padding counts as 0.
        p: a number > 0, or a learned array of shape `()` or `(c,)`; 1 is the average, large ones approach the largest.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer input.
        Differentiable with respect to `x` and `p`; finite everywhere, 0 where a window holds only zeros.

    Raises:
        TypeError, ValueError: as `lp_pool`.

    Example:
        >>> gem_pool(jnp.array([1.0, 7.0]).reshape(1, 2, 1), 2, p=2.0).ravel().tolist()
        [5.0]

    Source: Radenovic, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", arXiv 1711.02512.
    """
    x, window = _read_real(x, window_shape, strides, padding)
    p = _weight("p", p, x)
    total = reduce(_backend.window_sum, _power(x.astype(accumulator(x)), p), window)
    return _power(total / math.prod(window.size), 1 / p).astype(averaged(x))


# --- weighted means -----------------------------------------------------------------------------------------------


def softmax_pool(x: Array, window_shape: Any, strides: Any = None, padding: Any = "VALID", *, temperature: Any = 1.0) -> Array:
    """The mean of each window, weighted by the softmax of `x / temperature`. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape, strides, padding: as in `max_pool`; padding has no weight.
        temperature: a number > 0, or a learned array of shape `()` or `(c,)`; small ones approach the largest, large
            ones the average.

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
    x, window = _read_real(x, window_shape, strides, padding)
    temperature = _weight("temperature", temperature, x)
    laid, window = settled(x.astype(accumulator(x)), window)
    seen = patches(laid, window, -jnp.inf)
    largest = lax.stop_gradient(functools.reduce(lax.max, seen))
    largest = jnp.where(largest == -jnp.inf, 0, largest)
    weights = [jnp.exp((tap - largest) / temperature) for tap in seen]
    total = functools.reduce(operator.add, weights)
    weighted = [w * jnp.where(tap == -jnp.inf, 0, tap) for w, tap in zip(weights, seen)]
    return (functools.reduce(operator.add, weighted) / jnp.where(total == 0, 1, total)).astype(averaged(x))


def top_k_pool(x: Array, window_shape: Any, strides: Any = None, padding: Any = "VALID", *, k: int = 2) -> Array:
    """The mean of the `k` largest values of each window. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape, strides, padding: as in `max_pool`; what is padded is never among them.
        k: from 1, which makes `max_pool`, to the number of taps, which makes `avg_pool`. A window with fewer taps
            inside the image averages those; one with none gives 0.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer input. Of
        equals the first count, NaN before all, and those that count share the gradient.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result.

    Example:
        >>> top_k_pool(jnp.array([1.0, 5.0, 3.0]).reshape(1, 3, 1), 3, k=2).ravel().tolist()
        [4.0]

    Source: Kalchbrenner, Grefenstette and Blunsom, "A convolutional neural network for modelling sentences", arXiv
    1404.2188, whose k-max pooling keeps the k values where this takes their mean.
    """
    x, window = _read_real(x, window_shape, strides, padding)
    count = math.prod(window.size)
    if integer("k", k) > count:
        raise argument_error("k", f"be an int from 1 to {count}", k, f"window_shape {window.size}")
    laid, window = settled(x.astype(accumulator(x)), window)
    total = _sum_of_largest(laid, window, k)
    return (total / jnp.asarray(np.minimum(counts(laid, window, include_pad=False), k), total.dtype)).astype(averaged(x))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _sum_of_largest(x: Array, window: Window, k: int) -> Array:
    return functools.reduce(operator.add, [_value(order, x.dtype) for order in _largest(_orders(x, window), k)])


@_sum_of_largest.defjvp
def _sum_of_largest_jvp(window: Window, k: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    orders = _orders(lax.stop_gradient(x), window)
    least = _backend.materialize(_largest(orders, k)[-1])
    left = k - functools.reduce(operator.add, [(order > least).astype(jnp.int32) for order in orders])
    last = jnp.zeros(left.shape, jnp.int32)  # the number of the last tap that is chosen of those that equal the least
    for number, order in enumerate(orders):
        last = jnp.where((order == least) & (left > 0), number, last)
        left -= (order == least).astype(jnp.int32)
    last = _backend.materialize(last)
    chosen = [(order > least) | (order == least) & (number <= last) for number, order in enumerate(orders)]
    parts = [jnp.where(some, tap, 0) for some, tap in zip(chosen, patches(dx, window))]
    return _sum_of_largest(x, window, k), functools.reduce(operator.add, parts)


def _orders(x: Array, window: Window) -> list[Array]:
    """For each tap an integer that is ordered as the numbers are, NaN above all and padding, -2 ** 31 (or 63), below."""
    bits = _folded(jnp.where(x == 0, 0, x), jnp.int64 if x.dtype.itemsize == 8 else jnp.int32)
    most = jnp.iinfo(bits.dtype)
    return patches(jnp.where(x != x, most.max, bits), window, most.min)


def _folded(x: Array, dtype: Any) -> Array:
    """Between a float's bits and an integer of the same order: those of negative numbers are counted backwards."""
    bits = x if jnp.issubdtype(x.dtype, jnp.integer) else lax.bitcast_convert_type(x, dtype)
    bits = jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)
    return bits if bits.dtype == dtype else lax.bitcast_convert_type(bits, dtype)


def _value(order: Array, dtype: Any) -> Array:
    return jnp.where(order == jnp.iinfo(order.dtype).min, 0, _folded(order, dtype))


def _largest(orders: list[Array], k: int) -> list[Array]:
    """The `k` largest of each window in descending order, by insertion."""
    found: list[Array] = []
    for order in orders:
        for place, other in enumerate(found):
            found[place], order = lax.max(other, order), lax.min(other, order)
        if len(found) < k:
            found.append(order)
    return found


def mixed_pool(x: Array, window_shape: Any, strides: Any = None, padding: Any = "VALID", *, alpha: Any = 0.5) -> Array:
    """`alpha * max + (1 - alpha) * average` of each window. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape, strides, padding: as in `max_pool`; padding never is the largest and counts as 0 in the average.
        alpha: a number between 0 and 1, or a learned array of shape `()` or `(c,)`.

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
    x, window = _read_real(x, window_shape, strides, padding)
    alpha, wide = _weight("alpha", alpha, x, 0, 1, closed=True), x.astype(accumulator(x))
    largest = reduce(window_max, wide, window)
    average = reduce(_backend.window_sum, wide, window) / math.prod(window.size)
    return (alpha * largest + (1 - alpha) * average).astype(averaged(x))


def stochastic_pool(x: Array, window_shape: Any, strides: Any = None, padding: Any = "VALID", *, key: Any = None) -> Array:
    """An element of each window, drawn in proportion to itself, or the expectation. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype; what is not positive is never drawn.
        window_shape, strides, padding: as in `max_pool`; padding is never drawn.
        key: a JAX random key to draw with, as in training; None gives the expectation, as in evaluation.

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
    x, window = _read_real(x, window_shape, strides, padding)
    wide = jax.nn.relu(x.astype(accumulator(x)))
    y = _expected(wide, window) if key is None else _drawn(wide, window, key)
    return y.astype(averaged(x))


def _expected(x: Array, window: Window) -> Array:
    total = reduce(_backend.window_sum, x, window)
    return reduce(_backend.window_sum, x * x, window) / jnp.where(total == 0, 1, total)


def _drawn(x: Array, window: Window, key: Any) -> Array:
    """The first element with which the running sum exceeds a uniform part of the whole."""
    seen = patches(*settled(x, window))
    sums = [lax.stop_gradient(seen[0])]
    for tap in seen[1:]:
        sums.append(sums[-1] + lax.stop_gradient(tap))
    drawn = jax.random.uniform(key, sums[-1].shape, x.dtype) * sums[-1]
    y = seen[-1]
    for tap, total in zip(seen[-2::-1], sums[-2::-1]):
        y = jnp.where(total > drawn, tap, y)
    return y


# --- blur ---------------------------------------------------------------------------------------------------------


def blur_pool(
    x: Array, window_shape: Any = 3, strides: Any = 2, padding: Any = "SAME", *, padding_mode: Any = "reflect"
) -> Array:
    """Blurs each channel by binomial weights before every second place is taken: downsampling without aliases.

    Args:
        x: `(*batch, *spatial, c)` of any number dtype.
        window_shape: taps of the filter along each axis: 2 is (1, 1) / 2, 3 is (1, 2, 1) / 4, 5 is (1, 4, 6, 4, 1) /
            16; an int means every axis of an `x` with one batch axis.
        strides: steps of the window, one or one per axis.
        padding: as in `conv`.
        padding_mode: as in `conv`: what to pad with.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer input.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an unknown mode, a pad too wide for its mode, an empty result.

    Example:
        >>> blur_pool(jnp.array([0.0, 4.0, 0.0, 4.0, 0.0]).reshape(1, 5, 1)).ravel().tolist()
        [2.0, 2.0, 2.0]

    Source: Zhang, "Making convolutional networks shift-invariant again", arXiv 1904.11486.
    """
    x, window = read(x, window_shape, strides, padding)
    rank, spatial = window.rank, spatial_of(x, window.rank)
    modes = read_modes(padding_mode, rank, window.padding)
    y = pad_spatial(x.astype(accumulator(x)), window.pads(spatial), modes, shown=padding)
    for axis, (k, stride) in enumerate(zip(window.size, window.strides)):
        size, strides = [1] * rank, [1] * rank
        size[axis], strides[axis] = k, stride
        taps = patches(y, Window(tuple(size), tuple(strides)))
        y = functools.reduce(operator.add, [tap * (math.comb(k - 1, t) / 2 ** (k - 1)) for t, tap in enumerate(taps)])
    return y.astype(averaged(x))
