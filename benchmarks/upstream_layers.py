"""The checks of layers, transposed convolutions and arguments, mostly Flax's; see upstream_checks.py."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx as flax_nnx
from jax import lax
from upstream_checks import check, convolved, draw, near, refused, windows

import convlab
from convlab import nnx


def layers_of(library: str) -> Any:
    return flax_nnx if library == "jax" else nnx


def with_kernel(layer: Any, kernel: np.ndarray) -> Any:
    layer.kernel[...] = jnp.asarray(kernel)
    return layer


def transposed(x: np.ndarray, kernel: np.ndarray, stride: int, pad: int, extra: int = 0, groups: int = 1) -> np.ndarray:
    """Compute PyTorch's transposed convolution; the kernel is `(*k, c_out / groups, c_in)`."""
    rank, spatial = x.ndim - 2, x.shape[1:-1]
    size, out_per_group = kernel.shape[:rank], kernel.shape[rank]
    whole = [(n - 1) * stride + k + extra for n, k in zip(spatial, size)]
    y = np.zeros((len(x), *whole, groups, out_per_group))
    x = x.reshape(*x.shape[:-1], groups, -1)
    kernel = kernel.reshape(*size, out_per_group, groups, -1)
    for place in np.ndindex(*spatial):
        stamp = np.einsum("ngi,...ogi->n...go", x[(slice(None), *place)], kernel)
        cut = tuple(slice(p * stride, p * stride + k) for p, k in zip(place, size))
        y[(slice(None), *cut)] += stamp
    cut = tuple(slice(pad, n - pad) for n in whole)
    return y.reshape(len(x), *whole, -1)[(slice(None), *cut)]


# --- layers that Flax lacks -----------------------------------------------------------------------------------------


@check
def pooling_layers(library: str) -> None:
    x, layers = draw(2, 6, 6, 3), layers_of(library)
    model = flax_nnx.Sequential(layers.MaxPool((2, 2), strides=(2, 2)), layers.AvgPool((2, 2)), layers.GlobalAvgPool())
    largest = windows(x, (2, 2), (2, 2), (1, 1)).max((3, 4))
    near(model(x), windows(largest, (2, 2), (1, 1), (1, 1)).mean((3, 4)).mean((1, 2)))


@check
def averages_in_bfloat16(library: str) -> None:
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    pool = flax_nnx.avg_pool if library == "jax" else convlab.avg_pool
    y = pool(x, (64, 64))
    assert y.dtype == jnp.bfloat16
    near(y.astype(jnp.float32), np.ones((1, 1, 1, 1)))


@check
def mirrored_and_repeated_borders(library: str) -> None:
    x, kernel = draw(2, 7, 8, 3), draw(3, 3, 3, 4, seed=1)
    for mode, numpys in (("circular", "wrap"), ("replicate", "edge"), ("reflect", "reflect")):
        full = np.pad(x, [(0, 0), (2, 1), (0, 2), (0, 0)], numpys)
        if library == "jax":
            padding = {"circular": "CIRCULAR", "replicate": "REPLICATE", "reflect": "REFLECT"}[mode]
            layer = flax_nnx.Conv(3, 4, (3, 3), padding=padding, use_bias=False, rngs=flax_nnx.Rngs(0))
        else:
            layer = nnx.Conv(
                3, 4, (3, 3), padding=[(2, 1), (0, 2)], padding_mode=mode, use_bias=False, rngs=flax_nnx.Rngs(0)
            )
        near(with_kernel(layer, kernel)(x), convolved(full, kernel, (1, 1), [(0, 0)] * 2, (1, 1)))


# --- transposed convolution -----------------------------------------------------------------------------------------


@check
def transposed_groups(library: str) -> None:
    x, kernel = draw(2, 5, 5, 4), draw(3, 3, 3, 4, seed=1)
    if library == "jax":
        y = lax.conv_transpose(x, kernel, (2, 2), [(1, 1)] * 2, transpose_kernel=True, feature_group_count=2)
    else:
        options = dict(strides=2, padding=1, transpose_kernel=True, use_consistent_padding=True)
        y = convlab.conv_transpose(x, kernel, feature_group_count=2, **options)
    near(y, transposed(x, kernel, 2, 1, groups=2))


@check
def transposed_output_shape(library: str) -> None:
    x, kernel = draw(2, 5, 5, 4), draw(3, 3, 6, 4, seed=1)
    if library == "jax":
        y = lax.conv_transpose(x, kernel, (2, 2), [(1, 1)] * 2, transpose_kernel=True, output_shape=(10, 10))
    else:
        options = dict(strides=2, padding=1, transpose_kernel=True, use_consistent_padding=True)
        y = convlab.conv_transpose(x, kernel, output_shape=(10, 10), **options)
    near(y, transposed(x, kernel, 2, 1, extra=1)[:, :10, :10])


@check
def transposed_layer_restores_the_shape(library: str) -> None:
    """Check a layer with the paddings of the convolution whose shape it restores, and PyTorch's numbers."""
    x, kernel = draw(2, 4, 4, 5), draw(3, 3, 6, 5, seed=1)
    options = dict(strides=(2, 2), padding=0, transpose_kernel=True, use_bias=False, rngs=flax_nnx.Rngs(0))
    if library != "jax":
        options |= dict(use_consistent_padding=True)
    layer = layers_of(library).ConvTranspose(5, 6, (3, 3), **options)
    near(with_kernel(layer, kernel)(x), transposed(x, kernel, 2, 0))


@check
def transposed_causal(library: str) -> None:
    x, kernel = draw(2, 6, 3), draw(3, 3, 4, seed=1)
    layer = layers_of(library).ConvTranspose(3, 4, (3,), padding="CAUSAL", use_bias=False, rngs=flax_nnx.Rngs(0))
    y = with_kernel(layer, kernel)(x)
    near(y, convolved(x, kernel, (1,), [(2, 0)], (1,)))


# --- padding and ported weights -------------------------------------------------------------------------------------


@check
def ported_stem(library: str) -> None:
    """Check PyTorch's `Conv2d(3, 8, 7, stride=2, padding=3)`, loaded from its state dict."""
    weight = draw(8, 3, 7, 7, seed=1)
    x = draw(2, 16, 16, 3)
    expected = convolved(x, weight.transpose(2, 3, 1, 0), (2, 2), [(3, 3)] * 2, (1, 1))
    if library == "jax":
        layer = flax_nnx.Conv(3, 8, (7, 7), strides=2, padding="SAME", use_bias=False, rngs=flax_nnx.Rngs(0))
        with_kernel(layer, weight.transpose(2, 3, 1, 0))
    else:
        from convlab import weights

        layer = nnx.Conv(3, 8, (7, 7), strides=2, padding=3, use_bias=False, rngs=flax_nnx.Rngs(0))
        layer = weights.from_torch({"weight": weight}, layer)
    near(layer(x), expected)


# --- messages for wrong arguments -----------------------------------------------------------------------------------


@check
def kernel_size_is_an_int(library: str) -> None:
    layer = layers_of(library).Conv(3, 4, 3, rngs=flax_nnx.Rngs(0))
    refused(lambda: layer(draw(2, 8, 8, 3)), "kernel_size")


@check
def wrong_kinds_of_pool_arguments(library: str) -> None:
    pool = flax_nnx.max_pool if library == "jax" else convlab.max_pool
    x = draw(2, 8, 8, 3)
    refused(lambda: pool(x, "22"), "window_shape")
    refused(lambda: pool(x, (2, 2), strides="2"), "strides")
    refused(lambda: pool(x, (2, 2), padding=2.5), "padding")
    refused(lambda: pool(None, (2, 2)), "x" if library == "convlab" else "inputs")


@check
def too_many_window_axes(library: str) -> None:
    pool = flax_nnx.max_pool if library == "jax" else convlab.max_pool
    refused(lambda: pool(draw(4, 3), (2, 2, 2)), "(4, 3)", "3 spatial axes")


@check
def window_larger_than_the_image(library: str) -> None:
    pool = flax_nnx.avg_pool if library == "jax" else convlab.avg_pool
    refused(lambda: pool(draw(2, 2, 2, 2), (3, 3)), "(3, 3)", "(2, 2)")


@check
def groups_that_do_not_divide(library: str) -> None:
    make = lambda: layers_of(library).Conv(6, 6, (3, 3), feature_group_count=4, rngs=flax_nnx.Rngs(0))
    refused(lambda: make()(draw(2, 8, 8, 6)), "feature_group_count", "4")


@check
def default_strides(library: str) -> None:
    """Check that strides default to the size of the window, as in PyTorch and Keras."""
    pool = flax_nnx.max_pool if library == "jax" else convlab.max_pool
    assert pool(draw(2, 8, 8, 3), (2, 2)).shape == (2, 4, 4, 3), "strides of 1"
