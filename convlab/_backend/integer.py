"""Sums of products of bytes, exact: on a CPU by floats where none of the sums is too large for them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array

# float32 holds every integer up to here.
EXACT = 2**24


def largest(dtype: np.dtype) -> int:
    info = np.iinfo(dtype)
    return max(-int(info.min), int(info.max))


def of_bytes(
    floats: Callable[[Array, Array], Array], integers: Callable[[Array, Array], Array], x: Array, kernel: Array
) -> Array:
    """The same sums in int32; a CPU multiplies floats far faster than integers."""
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: floats(x.astype(jnp.float32), kernel.astype(jnp.float32)).astype(jnp.int32),
        default=integers,
    )
