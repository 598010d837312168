"""Pooling by any reduction, like Flax's `pool`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _backend
from ._patches import check_scalar, scan_taps, tap_groups
from ._pool import read, reduce, settled, window_max, window_min
from ._window import argument_error
from .typing import Ints, Padding

Array = jax.Array


def pool(
    x: Array,
    init: Any,
    reduce_fn: Callable,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
) -> Array:
    """Reduce each window by any function. Strides default to 1, as in Flax.

    Args:
        x: `(*batch, *spatial, c)`.
        init: the start value of the reduction, and the value of padding.
        reduce_fn: an associative function of two arrays, such as `lax.add`, `jnp.logaddexp` or a lambda.
        window_shape, strides, padding: as in `max_pool`.

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
    x, window = read(x, window_shape, strides, padding)
    if not callable(reduce_fn):
        raise argument_error("reduce_fn", "be a function of two arrays", reduce_fn, kind=TypeError)
    check_scalar("init", init, x)
    primitive = _primitive_of(x, init, reduce_fn)
    if primitive is not None:
        return reduce(primitive, x, window)
    init = jnp.asarray(init).astype(x.dtype)
    groups = tap_groups(*settled(x, window), init)
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
