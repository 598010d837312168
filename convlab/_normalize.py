"""Normalization over neighbouring channels."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ._arguments import argument_error, as_array, check_real, check_real_dtype, read_int
from ._dtypes import accumulation_dtype, average_dtype
from ._pool_windows import sum_windows
from ._promotion import promoting
from ._window import Window

Array = jax.Array

# Above this size a window reduction replaces the explicit sum of slices.
MAX_SLICES = 16


@promoting
def local_response_norm(x: Array, size: int, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """Divide each channel by a power of the mean square of the `size` channels around it.

    Args:
        x: `(*any, c)` of a real dtype.
        size: the number of channels: `size // 2` before, the channel itself, and the rest after; channels beyond the
            ends count as 0.
        alpha, beta, k: the divisor is `(k + alpha * mean square) ** beta`.

    Returns:
        The shape of `x` and its dtype, float32 for integers; 16-bit floats are computed in float32.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a size below 1, no channels.

    Example:
        >>> local_response_norm(jnp.array([[0.0, 1.0]]), 2, alpha=2.0, beta=1.0).tolist()
        [[0.0, 0.5]]

    Equals `torch.nn.functional.local_response_norm`.
    Source: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks" (2012), section 3.3.
    """
    x, size = as_array("x", x), read_int("size", size)
    for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        check_real(name, value)
    if x.ndim < 1 or x.shape[-1] == 0:
        raise argument_error("x", "have channels on its last axis", x.shape)
    check_real_dtype(x)
    y = x.astype(accumulation_dtype(x))
    before, after = min(size // 2, x.shape[-1] - 1), min((size - 1) // 2, x.shape[-1] - 1)
    scaled = jnp.asarray(k, y.dtype) + jnp.asarray(alpha, y.dtype) * (_neighbours(y * y, before, after) / size)
    return (y * _power(scaled, beta)).astype(average_dtype(x))


def _neighbours(x: Array, before: int, after: int) -> Array:
    """Return the sums over `before` preceding channels, the channel itself, and `after` following channels."""
    count, channels = before + after + 1, x.shape[-1]
    if count > MAX_SLICES:
        return sum_windows(x[..., None], Window((count,), (1,), ((before, after),), (1,)))[..., 0]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * (x.ndim - 1) + [(before, after, 0)])
    return functools.reduce(operator.add, (lax.slice_in_dim(padded, i, i + channels, axis=-1) for i in range(count)))


def _power(x: Array, beta: Any) -> Array:
    """Compute `x ** -beta`, with roots for the usual powers, since roots are far cheaper."""
    if isinstance(beta, (int, float)) and beta in (0.5, 0.75, 1):
        root = lax.rsqrt(x)
        return {0.5: lambda: root, 0.75: lambda: root * lax.sqrt(root), 1: lambda: 1 / x}[beta]()
    return x ** -jnp.asarray(beta, x.dtype)
