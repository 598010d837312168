"""Pools over windows of `(*batch, *spatial, c)`: maximum, minimum, sum, average and any other reduction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _backend
from ._argmax import reduction_identity
from ._arguments import argument_error, check_number_dtype, check_ordered_dtype, check_scalar, read_int
from ._dtypes import accumulation_dtype, average_dtype
from ._masks import only_valid
from ._patches import scan_taps, tap_groups
from ._pool_windows import (
    argmax,
    count_taps,
    read_pool,
    read_valid_mask,
    reduce_windows,
    resolve_padding,
    sum_windows,
    window_max,
    window_min,
)
from ._window import Window
from .typing import Ints, Padding

Array = jax.Array


# --- maxima and minima --------------------------------------------------------------------------------------------


@overload
def max_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[False] = ..., valid: Array | None = ...,
) -> Array: ...  # fmt: skip
@overload
def max_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[True], valid: Array | None = ...,
) -> tuple[Array, Array]: ...  # fmt: skip
@overload
def max_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: bool, valid: Array | None = ...,
) -> Array | tuple[Array, Array]: ...  # fmt: skip
def max_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    valid: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Take the maximum of each window. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape: taps along each spatial axis; an int means every axis of an `x` with one batch axis.
        strides: steps of the window, one or one per axis; None is 1.
        padding: as in `conv`; padded positions are never the maximum.
        window_dilation: distance between neighbouring taps.
        ceil_mode: let the last window extend beyond the end, as PyTorch does.
        return_indices: also return the positions of the maxima.
        valid: for padded batches, booleans `(*batch, *spatial)`: invalid positions count as padding.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`; with `return_indices` also indices of that shape, flat over the
        unpadded spatial axes: int32, or int64 for 2**31 positions or more if `jax_enable_x64` is set. Of equal maxima
        the first counts, a NaN wins (the last, as in PyTorch), and the gradient goes to the selected element. A window
        of padding only gives -inf (the dtype's least value) without a gradient, and the index -1, which `max_unpool`
        ignores.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result, more positions than indices can count.

    Example:
        >>> x = jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1)
        >>> max_pool(x, 2, strides=2).ravel().tolist()
        [3.0, 2.0]

    Equals `flax.nnx.max_pool` and `torch.nn.functional.max_pool2d` with their options.
    """
    x, window = read_pool(x, window_shape, strides, padding, window_dilation, ceil_mode)
    check_ordered_dtype(x)
    return _extrema("max", x, window, read_valid_mask(valid, x, window, padding), return_indices)


@overload
def min_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[False] = ..., valid: Array | None = ...,
) -> Array: ...  # fmt: skip
@overload
def min_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[True], valid: Array | None = ...,
) -> tuple[Array, Array]: ...  # fmt: skip
@overload
def min_pool(
    x: Array, window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
    window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: bool, valid: Array | None = ...,
) -> Array | tuple[Array, Array]: ...  # fmt: skip
def min_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    valid: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Take the minimum of each window. Strides default to 1, as in Flax.

    Args:
        x, window_shape, strides, padding, window_dilation, ceil_mode, return_indices, valid: as in `max_pool`.

    Returns:
        As `max_pool`; a window of padding only gives +inf (the dtype's largest value).

    Raises:
        TypeError, ValueError: as `max_pool`.

    Example:
        >>> x = jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1)
        >>> min_pool(x, 2, strides=2).ravel().tolist()
        [1.0, 0.0]

    Equals `flax.nnx.min_pool`.
    """
    x, window = read_pool(x, window_shape, strides, padding, window_dilation, ceil_mode)
    check_ordered_dtype(x)
    return _extrema("min", x, window, read_valid_mask(valid, x, window, padding), return_indices)


def _extrema(reducer: str, x: Any, window: Window, valid: Array | None, return_indices: bool) -> Any:
    """Return the extremum of each window and, with `return_indices`, its position."""
    y = reduce_windows(
        window_max if reducer == "max" else window_min,
        only_valid(x, valid, reduction_identity(x.dtype, reducer)),
        window,
    )
    return (y, argmax(x, window, reducer, valid)) if return_indices else y


# --- sums and averages --------------------------------------------------------------------------------------------


def sum_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: Ints = 1,
    ceil_mode: bool = False,
    valid: Array | None = None,
) -> Array:
    """Sum each window. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of any number dtype.
        window_shape, strides, padding, window_dilation, ceil_mode, valid: as in `max_pool`; padding adds 0.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`; 16-bit floats are summed in float32.

    Raises:
        TypeError, ValueError: as `max_pool`.

    Example:
        >>> sum_pool(jnp.arange(4.0).reshape(1, 4, 1), 2).ravel().tolist()
        [1.0, 3.0, 5.0]

    Equals `torch.nn.functional.avg_pool2d` with `divisor_override=1`.
    """
    x, window = read_pool(x, window_shape, strides, padding, window_dilation, ceil_mode)
    check_number_dtype(x)
    return sum_windows(only_valid(x, read_valid_mask(valid, x, window, padding)), window).astype(x.dtype)


def avg_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
    *,
    window_dilation: Ints = 1,
    ceil_mode: bool = False,
    divisor_override: int | None = None,
    valid: Array | None = None,
) -> Array:
    """Average each window. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)` of any number dtype.
        window_shape, strides, padding, window_dilation, ceil_mode: as in `max_pool`; padding adds 0.
        count_include_pad: divide by the number of taps inside the padded image; otherwise inside the image. The
            overhang of `ceil_mode` never counts.
        divisor_override: divide by this instead; any int but 0.
        valid: for padded batches, booleans `(*batch, *spatial)`: only valid positions count, whatever
            `count_include_pad` says.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, float32 for integers. Sums are float32 for 16-bit and integer input. A
        window without a counted tap gives 0.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: numbers out of range, an empty result, a divisor of 0.

    Example:
        >>> avg_pool(jnp.ones((1, 64, 64, 1), jnp.bfloat16), 64).ravel().tolist()
        [1.0]
        >>> avg_pool(jnp.full((1, 2, 2, 1), 200, jnp.uint8), 2).ravel().tolist()
        [200.0]

    Equals `flax.nnx.avg_pool` (which sums in the dtype of `x`) and `torch.nn.functional.avg_pool2d` with their options.
    """
    x, window = read_pool(x, window_shape, strides, padding, window_dilation, ceil_mode)
    if divisor_override is not None and read_int("divisor_override", divisor_override, None) == 0:
        raise argument_error("divisor_override", "be an int other than 0", divisor_override)
    valid = read_valid_mask(valid, x, window, padding)
    total = reduce_windows(_backend.window_sum, only_valid(x, valid).astype(accumulation_dtype(x)), window)
    divisor = divisor_override or count_taps(x, window, count_include_pad, valid)
    return (total / jnp.asarray(divisor, total.dtype)).astype(average_dtype(x))


# --- any reducer --------------------------------------------------------------------------------------------------


def pool(
    x: Array,
    init: Any,
    reduce_fn: Callable,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    valid: Array | None = None,
) -> Array:
    """Reduce each window by any function. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)`.
        init: the start value of the reduction, and the value of padding.
        reduce_fn: an associative function of two arrays, such as `lax.add`, `jnp.logaddexp` or a lambda.
        window_shape, strides, padding, valid: as in `max_pool`.

    Returns:
        `(*batch, *out, c)`: `init` and the taps of each window reduced in order. Differentiable as often as
        `reduce_fn`.

    Raises:
        TypeError, ValueError: as `max_pool`; TypeError if `reduce_fn` cannot be called.

    Example:
        >>> pool(jnp.arange(1.0, 5.0).reshape(1, 4, 1), 1.0, jnp.multiply, 2).ravel().tolist()
        [2.0, 6.0, 12.0]

    Equals `flax.nnx.pool`, which is differentiable for three reducers only.
    """
    x, window = read_pool(x, window_shape, strides, padding)
    if not callable(reduce_fn):
        raise argument_error("reduce_fn", "be a function of two arrays", reduce_fn, kind=TypeError)
    check_scalar("init", init, x)
    x = only_valid(x, read_valid_mask(valid, x, window, padding), init)
    primitive = _primitive_of(x, init, reduce_fn)
    if primitive is not None:
        return reduce_windows(primitive, x, window)
    init = jnp.asarray(init).astype(x.dtype)
    groups = tap_groups(*resolve_padding(x, window), init)
    return scan_taps(reduce_fn, jnp.broadcast_to(init, groups[0].shape[1:]), groups)


def _primitive_of(x: Array, init: Any, reduce_fn: Callable):
    """Return the window primitive that equals `reduce_fn` with this start value, or None."""
    if not isinstance(init, (int, float, np.generic)) or not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    known: Sequence[tuple[Any, float, Any]] = (
        ((lax.add, jnp.add), 0.0, _backend.window_sum),
        ((lax.max, jnp.maximum), -np.inf, window_max),
        ((lax.min, jnp.minimum), np.inf, window_min),
    )
    return next((primitive for names, start, primitive in known if reduce_fn in names and init == start), None)
