"""Multiply the patch at each position of an image by that position's own kernel, for `conv_local` and `deform_conv`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._window import Window

Array = jax.Array


def local_products(x: Array, kernel: Array, stacked: Callable[[Array], Array], window: Window, precision: Any) -> Array:
    """Compute `(n, *out, features)` from `x: (n, *spatial, c)` and `kernel: (*out, c * taps, features)`.

    `stacked(x)` returns the patch at each position, `(n, c * taps, *out)`.
    """
    products = functools.partial(multiply_slices, stacked=stacked, precision=precision)
    if precision is not None or not jnp.issubdtype(x.dtype, jnp.floating) or 0 in x.shape:
        return products(x, kernel)
    return lax.platform_dependent(
        x, kernel, tpu=functools.partial(multiply_patches, stacked=stacked, window=window), default=products
    )


def multiply_slices(x: Array, kernel: Array, stacked: Callable[[Array], Array], precision: Any) -> Array:
    """Multiply with the positions as one batch axis, which is fastest on a CPU."""
    patches = stacked(x)
    positions = math.prod(kernel.shape[:-2])
    rows = patches.reshape(*patches.shape[:2], positions).transpose(2, 0, 1)
    kernels = kernel.reshape(positions, *kernel.shape[-2:])
    y = sum_of_products("pnk,pkf->pnf", rows, kernels, precision).swapaxes(0, 1)
    return y.reshape(x.shape[0], *kernel.shape[:-2], kernel.shape[-1])


def multiply_patches(x: Array, kernel: Array, stacked: Callable[[Array], Array], window: Window) -> Array:
    """Multiply patches that a convolution with ones and zeros extracts, which a TPU fuses with the products."""
    return sum_of_products("n...k,...kf->n...f", _patches(x, stacked, window), kernel, None)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _patches(x: Array, stacked: Callable[[Array], Array], window: Window) -> Array:
    """Return the patch at each position, `(n, *out, c * taps)`."""
    image, taps = (0, x.ndim - 1, *range(1, x.ndim - 1)), (x.ndim - 1, x.ndim - 2, *range(x.ndim - 2))
    options = dict(rhs_dilation=window.dilation, dimension_numbers=lax.ConvDimensionNumbers(image, taps, image))
    return lax.conv_general_dilated_patches(x, window.size, window.strides, "VALID", **options)


@_patches.defjvp
def _patches_jvp(
    stacked: Callable[[Array], Array], window: Window, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents  # the transpose of slices is faster than that of a convolution
    return _patches(x, stacked, window), jnp.moveaxis(stacked(dx), 1, -1)


def sum_of_products(subscripts: str, a: Array, b: Array, precision: Any) -> Array:
    """Compute `jnp.einsum`, with 16-bit floats summed in float32."""
    wide = jnp.float32 if jnp.issubdtype(a.dtype, jnp.floating) and a.dtype.itemsize < 4 else None
    return jnp.einsum(subscripts, a, b, precision=precision, preferred_element_type=wide).astype(a.dtype)
