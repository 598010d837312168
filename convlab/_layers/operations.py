"""Layers that are a function of an image with its options fixed."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._matrix import fold, unfold
from .._normalize import local_response_norm
from .._patches import as_array, pad
from .._pixel_shuffle import pixel_shuffle, pixel_unshuffle
from .._pool import avg_pool, max_pool, min_pool, sum_pool
from .._pool_adaptive import (
    adaptive_avg_pool,
    adaptive_max_pool,
    global_avg_pool,
    global_max_pool,
    spatial_pyramid_pool,
)
from .._pool_fractional import fractional_max_pool
from .._pool_power import gem_pool, lp_pool
from .._pool_smooth import blur_pool, mixed_pool, softmax_pool, stochastic_pool, top_k_pool
from .._regions import roi_align, roi_pool
from .._resize import resize
from .._unpool import max_unpool
from .._window import argument_error, broadcast_to_rank, check_axis_sizes, check_not_empty, is_sequence
from .validation import Call, frozen, rehearse, room

Array = jax.Array


# Options that may be arrays: weights, not sizes.
WEIGHTS = {"p", "temperature", "alpha"}


class Operation:
    """A function of an image with its options fixed; `layer` makes its dataclasses."""

    def __post_init__(self):
        self._validate_options()
        for name in self._options().keys() - WEIGHTS:
            object.__setattr__(self, name, frozen(getattr(self, name)))
        getattr(super(), "__post_init__", lambda: None)()

    def _options(self) -> dict[str, Any]:
        raise NotImplementedError

    def _validate_options(self) -> None:
        raise NotImplementedError


def layer(function: Callable, title: str = "", called: Sequence[str] = (), tried: Callable | None = None) -> Any:
    """The dataclass whose fields are the options of `function` and whose call applies it to an image.

    What stands in `called` is an argument of the call and no field; `tried` takes the place of `function` where it is rehearsed
    with an image alone.
    """
    image, *parameters = inspect.signature(function).parameters.values()
    parameters = [parameter for parameter in parameters if parameter.name not in called]
    names = [parameter.name for parameter in parameters]

    def options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}

    def validate_options(self) -> None:
        _rehearse_on_images(tried or function, options(self))

    def call(self, x: Array) -> Any:
        return function(x, **options(self))

    def call_with(self, x: Array, *arrays: Any, **named: Any) -> Any:
        return function(x, *arrays, **named, **options(self))

    called_as: Callable = call_with if called else call
    called_as.__name__ = "__call__"  # Flax's tables list the methods of this name
    body: dict[str, Any] = {"_options": options, "_validate_options": validate_options, "__call__": called_as}
    whose = "A layer" if function.__module__ == __name__ else f"`convlab.{function.__name__}` as a layer"
    arguments = ", ".join(f"`{name}`" for name in (image.name, *called))
    summary = inspect.cleandoc(function.__doc__ or "").splitlines()[0]
    body["__doc__"] = f"{whose}, called with {arguments}. {summary}"
    fields = [(parameter.name, Any, _field(parameter)) for parameter in parameters]
    title = title or "".join(word.capitalize() for word in function.__name__.split("_"))
    return dataclasses.make_dataclass(title, fields, bases=(Operation,), namespace=body, eq=False, repr=False)


def _field(parameter: inspect.Parameter) -> Any:
    default = dataclasses.MISSING if parameter.default is parameter.empty else parameter.default
    return dataclasses.field(default=default, kw_only=parameter.kind is parameter.KEYWORD_ONLY)


def _rehearse_on_images(function: Callable, options: dict[str, Any]) -> None:
    """Rehearses the function on images of two sizes, and two ranks where the options leave it open."""
    told = [
        options[name]
        for name in ("window_shape", "output_shape", "padding", "scale", "factor")
        if is_sequence(options.get(name))
    ]
    size, ranks = room(options), (len(told[0]),) * 2 if told else (1, 2)
    rehearse([Call(function, ((1, *(size + more,) * rank, 1 + more),), options) for more, rank in enumerate(ranks)])


def flatten(x: Array) -> Array:
    """`(n, *axes)` as `(n, features)`, last axis fastest."""
    x = as_array("x", x)
    if x.ndim < 2:
        raise argument_error("x", "have one batch axis and axes to flatten", x.shape)
    features = math.prod(x.shape[1:])
    check_axis_sizes("x", [features], x.shape)
    return x.reshape(x.shape[0], features)


def _try_fractional(x: Array, **options: Any) -> None:
    """Which ratios leave a result depends on the image."""
    if options["output_ratio"] is None:
        fractional_max_pool(x, samples=jnp.zeros((1, x.shape[-1], x.ndim - 2)), **options)


def _try_unpool(x: Array, output_shape: Any) -> None:
    max_unpool(x, jnp.zeros(x.shape, jnp.int32), output_shape)


def _try_fold(x: Array, output_shape: Any, **options: Any) -> None:
    check_not_empty("output_shape", output_shape)
    unfold(x, (1,) * (x.ndim - 2), **options)


def _factor_alone(x: Array, factor: Any) -> None:
    """Whether a factor fits depends on the image, but for its kind."""
    check_not_empty("factor", factor)
    broadcast_to_rank("factor", factor, len(factor) if is_sequence(factor) else x.ndim - 2)


def _try_regions(function: Callable) -> Callable:
    return lambda x, **options: function(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 5)), **options)


MaxPool, MinPool, AvgPool, SumPool = (layer(f, called=("valid",)) for f in (max_pool, min_pool, avg_pool, sum_pool))
GlobalAvgPool, GlobalMaxPool = (layer(f, called=("valid",)) for f in (global_avg_pool, global_max_pool))
AdaptiveAvgPool, AdaptiveMaxPool = layer(adaptive_avg_pool), layer(adaptive_max_pool)
LPPool, GeMPool = layer(lp_pool, "LPPool", called=("valid",)), layer(gem_pool, "GeMPool", called=("valid",))
SoftmaxPool, TopKPool, MixedPool = (layer(f, called=("valid",)) for f in (softmax_pool, top_k_pool, mixed_pool))
BlurPool, SpatialPyramidPool = layer(blur_pool), layer(spatial_pyramid_pool)
StochasticPool = layer(stochastic_pool, called=("key", "valid"))
FractionalMaxPool = layer(fractional_max_pool, called=("key", "samples"), tried=_try_fractional)
MaxUnpool = layer(max_unpool, called=("indices",), tried=_try_unpool)
Pad, Flatten, Unfold, Fold = layer(pad), layer(flatten), layer(unfold), layer(fold, tried=_try_fold)
Resize, Upsample = layer(resize), layer(resize, "Upsample")
PixelShuffle = layer(pixel_shuffle, tried=_factor_alone)
PixelUnshuffle = layer(pixel_unshuffle, tried=_factor_alone)
LocalResponseNorm = layer(local_response_norm)
RoIAlign = layer(roi_align, "RoIAlign", called=("boxes",), tried=_try_regions(roi_align))
RoIPool = layer(roi_pool, "RoIPool", called=("boxes",), tried=_try_regions(roi_pool))
