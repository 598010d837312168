"""The dtypes of sums and of averages."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def accumulation_dtype(x: Array) -> Any:
    """Return the dtype for sums of averages: float32 for 16-bit and integer input."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) and x.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def average_dtype(x: Array) -> Any:
    """Return the dtype of an average: that of the input, float32 for integers."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.dtype(jnp.float32)
