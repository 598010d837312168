"""A product for each place of an image: what the place sees times a kernel of its own."""

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
    """`x: (n, *spatial, c)` and `kernel: (*out, c * taps, features)`, of which `(n, *out, features)`.

    `stacked(x)` is what each place sees through the window, `(n, c * taps, *out)`.
    """
    products = functools.partial(by_slices, stacked=stacked, precision=precision)
    if precision is not None or not jnp.issubdtype(x.dtype, jnp.floating) or 0 in x.shape:
        return products(x, kernel)
    return lax.platform_dependent(
        x, kernel, tpu=functools.partial(by_ones, stacked=stacked, window=window), default=products
    )


def by_slices(x: Array, kernel: Array, stacked: Callable[[Array], Array], precision: Any) -> Array:
    """The places along one axis, which a CPU multiplies fastest."""
    seen = stacked(x)
    places = math.prod(kernel.shape[:-2])
    rows, kernels = seen.reshape(*seen.shape[:2], places).transpose(2, 0, 1), kernel.reshape(places, *kernel.shape[-2:])
    y = sum_of_products("pnk,pkf->pnf", rows, kernels, precision).swapaxes(0, 1)
    return y.reshape(x.shape[0], *kernel.shape[:-2], kernel.shape[-1])


def by_ones(x: Array, kernel: Array, stacked: Callable[[Array], Array], window: Window) -> Array:
    """What is seen by a product with ones and zeros, which a TPU fuses with the products that follow."""
    return sum_of_products("n...k,...kf->n...f", _seen(x, stacked, window), kernel, None)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _seen(x: Array, stacked: Callable[[Array], Array], window: Window) -> Array:
    """`(n, *out, c * taps)`"""
    image, taps = (0, x.ndim - 1, *range(1, x.ndim - 1)), (x.ndim - 1, x.ndim - 2, *range(x.ndim - 2))
    options = dict(rhs_dilation=window.dilation, dimension_numbers=lax.ConvDimensionNumbers(image, taps, image))
    return lax.conv_general_dilated_patches(x, window.size, window.strides, "VALID", **options)


@_seen.defjvp
def _seen_jvp(
    stacked: Callable[[Array], Array], window: Window, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents  # the adjoint of slices takes fewer cycles
    return _seen(x, stacked, window), jnp.moveaxis(stacked(dx), 1, -1)


def sum_of_products(subscripts: str, a: Array, b: Array, precision: Any) -> Array:
    """`jnp.einsum`, with 16-bit floats summed in float32."""
    wide = jnp.float32 if jnp.issubdtype(a.dtype, jnp.floating) and a.dtype.itemsize < 4 else None
    return jnp.einsum(subscripts, a, b, precision=precision, preferred_element_type=wide).astype(a.dtype)
