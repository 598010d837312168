"""Replaces convlab's layers of a network by Flax's with the same parameters, to compare both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax

from convlab import nnx as cn


class Missing(Exception):
    """The error for a layer without a counterpart in Flax."""


class Function(nnx.Module):
    """A layer that calls a function of an image."""

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, x: Any) -> Any:
        return self.function(x)


SHARED = (
    "in_features", "out_features", "kernel_size", "strides", "padding", "kernel_dilation", "use_bias",
    "dtype", "param_dtype", "precision",
)  # fmt: skip
CONV = (*SHARED, "input_dilation", "feature_group_count")
TRANSPOSED = (*SHARED, "transpose_kernel")


def parametrised(system: Any, options: tuple[str, ...]) -> Callable:
    """Return Flax's layer with the options and the parameters of convlab's."""

    def make(layer: Any) -> nnx.Module:
        given = {name: getattr(layer, name) for name in options}
        made = nnx.eval_shape(lambda: system(**given, rngs=nnx.Rngs(0)))
        made.kernel, made.bias = layer.kernel, layer.bias
        return made

    return make


def pool(function: Callable, *more: str) -> Callable:
    def make(layer: Any) -> nnx.Module:
        given = {name: getattr(layer, name) for name in ("window_shape", "strides", "padding", *more)}
        return Function(lambda x: function(x, **broadcast_to_rank(given, x.ndim - 2)))

    return make


def broadcast_to_rank(given: dict[str, Any], rank: int) -> dict[str, Any]:
    """Return the options with a tuple in place of an int for every axis, as Flax's pools require."""
    window, strides, padding = given["window_shape"], given["strides"], given["padding"]
    rank = rank if isinstance(window, int) else len(window)
    every = lambda n: (n,) * rank if isinstance(n, int) else n
    pads = padding if isinstance(padding, str) else tuple((p, p) if isinstance(p, int) else p for p in every(padding))
    return given | dict(window_shape=every(window), strides=strides and every(strides), padding=pads)


def whole(function: Callable) -> Callable:
    """Return the pool over all positions."""
    return lambda layer: Function(lambda x: function(x, tuple(range(1, x.ndim - 1)), keepdims=layer.keepdims))


def adaptive(layer: Any) -> nnx.Module:
    """Return the adaptive pool, for windows of one size."""

    def pooled(x: Any) -> Any:
        window = tuple(n // m for n, m in zip(x.shape[1:-1], layer.output_shape))
        if any(n % m for n, m in zip(x.shape[1:-1], layer.output_shape)):
            raise Missing(f"AdaptiveAvgPool of {x.shape[1:-1]} to {layer.output_shape}")
        return nnx.avg_pool(x, window, window)

    return Function(pooled)


def plain(function: Callable) -> Callable:
    return lambda layer: Function(function)


# The counterpart of each layer, and the options that Flax's lacks with the only value that it supports.
NONE_OF_FLAX: dict[str, Any] = {
    "padding_mode": "zeros",
    "padding_value": 0,
    "flip_kernel": False,
    "mask": None,
    "weight_norm": False,
}
POOL = {"window_dilation": 1, "ceil_mode": False}
COUNTERPARTS: dict[Any, tuple[Callable, dict[str, Any]]] = {
    cn.Conv: (parametrised(nnx.Conv, CONV), NONE_OF_FLAX),
    cn.CausalConv: (parametrised(nnx.Conv, CONV), NONE_OF_FLAX),
    cn.DepthwiseConv: (parametrised(nnx.Conv, CONV), NONE_OF_FLAX),
    cn.ConvTranspose: (
        parametrised(nnx.ConvTranspose, TRANSPOSED),
        dict(padding_mode="zeros", feature_group_count=1, output_padding=0, use_consistent_padding=False, mask=None),
    ),
    cn.MaxPool: (pool(nnx.max_pool), POOL | {"return_indices": False}),
    cn.MinPool: (pool(nnx.min_pool), POOL),
    cn.SumPool: (pool(lambda x, **options: nnx.pool(x, 0.0, lax.add, **options)), POOL),
    cn.AvgPool: (pool(nnx.avg_pool, "count_include_pad"), POOL | {"divisor_override": None}),
    cn.GlobalAvgPool: (whole(jnp.mean), {}),
    cn.GlobalMaxPool: (whole(jnp.max), {}),
    cn.AdaptiveAvgPool: (adaptive, {}),
    cn.Flatten: (plain(lambda x: x.reshape(x.shape[0], -1)), {}),
}


def counterpart(layer: Any, path: str) -> nnx.Module:
    """Return Flax's layer for one of convlab's."""
    name = f"{type(layer).__name__} at {path}"
    if type(layer) not in COUNTERPARTS:
        raise Missing(name)
    make, served = COUNTERPARTS[type(layer)]
    for option, value in served.items():
        if getattr(layer, option, value) not in (value, (value,) * 1, (value,) * 2, (value,) * 3):
            raise Missing(f"{name}: {option}={getattr(layer, option)!r}")
    return make(layer)


def flax_layers(model: nnx.Module) -> nnx.Module:
    """Return `model` with Flax's layers in place of convlab's, sharing its parameters.

    Raises:
        Missing: a layer, or an option of it, that Flax does not have.
    """
    graph, state = nnx.split(model)
    copy = nnx.merge(graph, state)
    made: dict[int, nnx.Module] = {}

    def swapped(node: Any, path: str) -> Any:
        if type(node).__module__.startswith("convlab.nnx"):
            if id(node) not in made:
                made[id(node)] = counterpart(node, path)
            return made[id(node)]
        if isinstance(node, nnx.Module) and id(node) not in made:
            made[id(node)] = node
            for name, child in list(vars(node).items()):
                if isinstance(child, nnx.Module):
                    new = swapped(child, f"{path}.{name}".lstrip("."))
                    if new is not child:
                        setattr(node, name, new)
        return node

    return swapped(copy, "")
