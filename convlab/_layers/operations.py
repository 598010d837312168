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
from .._patches import as_array, pad
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
from .._unpool import max_unpool
from .._window import argument_error, check_axis_sizes, is_sequence
from .validation import Call, frozen, room, validate_options

Array = jax.Array


class Operation:
    """A function of an image with its options fixed; `layer` makes its dataclasses."""

    def __post_init__(self):
        self._validate_options()
        for name in self._options():
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
    """An error that is the same for images of other sizes, and of another rank where the options leave it open, is the options'."""
    told = [options[name] for name in ("window_shape", "output_shape", "padding") if is_sequence(options.get(name))]
    errors, size = [], room(options)
    for more, rank in enumerate((len(told[0]),) * 2 if told else (1, 2)):
        try:
            validate_options(Call(function, ((1, *(size + more,) * rank, 1 + more),), options))
            return
        except (TypeError, ValueError) as error:
            errors.append(error)
    if str(errors[0]) == str(errors[1]):
        raise errors[0]


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
    unfold(x, (1,) * (x.ndim - 2), **options)


MaxPool, MinPool, AvgPool, SumPool = layer(max_pool), layer(min_pool), layer(avg_pool), layer(sum_pool)
GlobalAvgPool, GlobalMaxPool = layer(global_avg_pool), layer(global_max_pool)
AdaptiveAvgPool, AdaptiveMaxPool = layer(adaptive_avg_pool), layer(adaptive_max_pool)
LPPool, GeMPool = layer(lp_pool, "LPPool"), layer(gem_pool, "GeMPool")
SoftmaxPool, TopKPool, MixedPool = layer(softmax_pool), layer(top_k_pool), layer(mixed_pool)
BlurPool, SpatialPyramidPool = layer(blur_pool), layer(spatial_pyramid_pool)
StochasticPool = layer(stochastic_pool, called=("key",))
FractionalMaxPool = layer(fractional_max_pool, called=("key", "samples"), tried=_try_fractional)
MaxUnpool = layer(max_unpool, called=("indices",), tried=_try_unpool)
Pad, Flatten, Unfold, Fold = layer(pad), layer(flatten), layer(unfold), layer(fold, tried=_try_fold)
