"""Power means of windows: the p-norm and the generalized mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._arguments import argument_error, check_ordered_dtype, spatial_shape
from ._dtypes import accumulation_dtype, average_dtype
from ._masks import only_valid
from ._padding import pad_axis
from ._patches import max_taps, sum_taps, tap_groups
from ._pool_windows import (
    count_taps,
    read_pool,
    read_valid_mask,
    reduce_windows,
    resolve_padding,
    window_max,
    window_min,
)
from ._window import Window
from ._window_halves import reduce_axis
from .typing import Ints, Padding

Array = jax.Array


def read_real_pool(x: Any, *geometry: Any) -> tuple[Array, Window]:
    """Read the arguments of a pool and check that the image is real."""
    x, window = read_pool(x, *geometry)
    check_ordered_dtype(x)
    return x, window


def read_parameter(
    argument: str, value: Any, x: Array, low: float = 0, high: float = math.inf, closed: bool = False
) -> Any:
    """Return a real parameter: a number in the range, or a (learned) array with one entry or one per channel."""
    bound = f"between {low} and {high}" if closed else f"> {low}"
    rule = f"be a number {bound}, or an array of shape () or ({x.shape[-1]},)"
    if isinstance(value, (jax.Array, np.ndarray)):
        if value.shape not in ((), x.shape[-1:]):
            raise argument_error(argument, rule, value.shape, f"{x.shape[-1]} channels")
        if jnp.iscomplexobj(value):
            raise argument_error(argument, rule, value.dtype.name, kind=TypeError)
        value = jnp.asarray(value).astype(accumulation_dtype(x))
        return jnp.expand_dims(value, range(x.ndim - value.ndim)) if value.ndim else value
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.number))
        or isinstance(value, np.complexfloating)
    ):
        raise argument_error(argument, rule, value, kind=TypeError)
    if not (low <= value <= high if closed else low < value <= high):
        raise argument_error(argument, rule, value)
    return float(value)


# --- power means --------------------------------------------------------------------------------------------------


def _power(x: Array, p: Any) -> Array:
    """Compute `|x| ** p` with finite derivatives of every order: at 0 a polynomial's for an integer `p`, otherwise
    0."""
    if isinstance(p, (int, float)) and p == int(p) < 64:
        even = lax.integer_pow(x, 2 * (int(p) // 2))
        return even if p % 2 == 0 else jnp.abs(x) * even
    nonzero = x != 0
    return jnp.where(nonzero, jnp.abs(jnp.where(nonzero, x, 1)) ** p, 0)


def power_sums(x: Array, window: Window, p: Any) -> tuple[Array, Array]:
    """Return the maximum of `|x|` in each window (of nonzero values the minimum, if `p < 0`) and the sum of `(|x| /
    maximum) ** p`.

    The scaling keeps powers inside the range of the dtype. Both are 0 for a window of zeros.
    """
    x, window = resolve_padding(x, window)
    sign = -1 if isinstance(p, float) and p < 0 else 1
    size = jnp.minimum(lax.stop_gradient(jnp.abs(x)), jnp.finfo(x.dtype).max)
    nonzero = size != 0
    total = _power((x if sign > 0 else jnp.where(nonzero, x, 1)) / jnp.where(nonzero, size, 1), p)
    if sign < 0:
        size = jnp.where(nonzero, jnp.minimum(1 / jnp.where(nonzero, size, 1), jnp.finfo(x.dtype).max), 0)
        total = jnp.where(nonzero, total, 0)
    first = x.ndim - 1 - window.rank
    for axis, pair in enumerate(window.pads(spatial_shape(x, window.rank))):
        at, geometry = first + axis, (window.size[axis], window.strides[axis], window.dilation[axis])
        size, total = (pad_axis(a, at, pair, "zeros") for a in (size, total))
        size, total = _sums_along(size, total, at, *geometry, p if sign > 0 else -p)
    return (jnp.where(size == 0, 0, 1 / jnp.where(size == 0, 1, size)) if sign < 0 else size), total


def _sums_along(
    size: Array, total: Array, axis: int, taps: int, stride: int, dilation: int, p: Any
) -> tuple[Array, Array]:
    """Return the windows along an axis: sums of taps if windows hardly overlap, otherwise sums of half-size windows."""
    if taps <= max(4, 2 * stride):
        ones = (1,) * (size.ndim - axis - 2)
        window = Window((taps, *ones), (stride, *ones), "VALID", (dilation, *ones))
        return _add_scaled(tap_groups(size, window), tap_groups(total, window), p)

    def both(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        sizes, totals = ([a[None], b[None]] for a, b in zip(one, other))
        return _add_scaled(sizes, totals, p)

    return reduce_axis((size, total), axis, taps, stride, dilation, both)


def _add_scaled(sizes: Sequence[Array], totals: Sequence[Array], p: Any) -> tuple[Array, Array]:
    """Sum groups of taps by sums of the largest size."""
    largest = max_taps(sizes)
    unit = jnp.where(largest == 0, 1, largest)
    p = p[None] if isinstance(p, jax.Array) and p.ndim else p
    return largest[0], sum_taps(lambda size, total: total * _power(size / unit, p), sizes, totals)[0]


def lp_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    norm_type: float = 2.0,
    window_dilation: Ints = 1,
    ceil_mode: bool = False,
    valid: Array | None = None,
) -> Array:
    """Compute the p-norm of each window: `sum(|x| ** p) ** (1 / p)`. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape, strides, padding, window_dilation, valid: as in `max_pool`; padding adds 0.
        norm_type: p, any number but 0; inf takes the maximum of `|x|`, -inf the minimum.
        ceil_mode: let the last window extend beyond the end; its sum is scaled by window / taps inside, as PyTorch
            does. With `valid` every window is scaled so, by its valid taps.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer input.
        The gradient is finite everywhere, and 0 for a window of zeros or, if p is negative, with a zero.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result.

    Example:
        >>> lp_pool(jnp.array([3.0, -4.0, 0.0]).reshape(1, 3, 1), 2).ravel().tolist()
        [5.0, 4.0]

    Equals `torch.nn.functional.lp_pool2d`, applied to `|x|` for every p.
    """
    x, window = read_real_pool(x, window_shape, strides, padding, window_dilation, ceil_mode)
    rule = "be a number other than 0"
    if isinstance(norm_type, bool) or not isinstance(norm_type, (int, float, np.number)):
        raise argument_error("norm_type", rule, norm_type, kind=TypeError)
    wide, p = x.astype(accumulation_dtype(x)), float(norm_type)
    if p == 0 or p != p:
        raise argument_error("norm_type", rule, norm_type)
    valid = read_valid_mask(valid, x, window, padding)
    wide = only_valid(wide, valid)
    if abs(p) == math.inf:
        sizes = [only_valid(jnp.abs(wide), valid, nothing) for nothing in (-1, math.inf)]
        largest = reduce_windows(window_max, sizes[0], window)
        y = largest if p > 0 else reduce_windows(window_min, sizes[1], window)
        return jnp.where(largest < 0, 0, y).astype(average_dtype(x))
    scale = math.prod(window.size) / count_taps(wide, window, include_pad=True, valid=valid if ceil_mode else None)
    size, total = power_sums(wide, window, p)
    y = size * _power(total * scale, 1 / p)
    if p < 0:  # a zero makes the sum infinite, and so the norm 0
        zeros = wide == 0 if valid is None else (wide == 0) & valid
        y = jnp.where(reduce_windows(window_max, zeros.astype(wide.dtype), window) > 0, 0, y)
    return y.astype(average_dtype(x))


def gem_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    p: Any = 3.0,
    valid: Array | None = None,
) -> Array:
    """Compute the generalized mean of each window: `mean(|x| ** p) ** (1 / p)`. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape, strides, padding: as in `max_pool`; padding counts as 0.
        p: a number > 0, or a learned array of shape `()` or `(c,)`; 1 gives the average, large values approach the
            maximum.
        valid: for padded batches, booleans `(*batch, *spatial)`: only valid positions count, and no padding.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers; sums are float32 for 16-bit and integer input.
        Differentiable with respect to `x` and `p`; the derivatives are finite everywhere, and 0 for a window of zeros.

    Raises:
        TypeError, ValueError: as `lp_pool`.

    Example:
        >>> gem_pool(jnp.array([1.0, 7.0]).reshape(1, 2, 1), 2, p=2.0).ravel().tolist()
        [5.0]

    Source: Radenovic, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", arXiv 1711.02512.
    """
    x, window = read_real_pool(x, window_shape, strides, padding)
    p = read_parameter("p", p, x)
    valid = read_valid_mask(valid, x, window, padding)
    size, total = power_sums(only_valid(x, valid).astype(accumulation_dtype(x)), window, p)
    count = math.prod(window.size) if valid is None else count_taps(x, window, False, valid)
    return (size * _power(total / count, 1 / p)).astype(average_dtype(x))
