"""The layers without parameters. Their fields are the options of their functions: names, kinds, defaults and types."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
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
from ..typing import Floats, Interpolation, Ints, OptionalInts, Padding, PaddingModes, Reduce
from .base import ImageOperation, IndexedOperation, Operation, layer

Array = jax.Array


def flatten(x: Array) -> Array:
    """Reshape `(n, *axes)` to `(n, features)`, last axis fastest."""
    x = as_array("x", x)
    if x.ndim < 2:
        raise argument_error("x", "have one batch axis and axes to flatten", x.shape)
    features = math.prod(x.shape[1:])
    check_axis_sizes("x", [features], x.shape)
    return x.reshape(x.shape[0], features)


def _try_fractional(x: Array, **options: Any) -> None:
    """Check what does not depend on the image: which ratios are valid does."""
    if options["output_ratio"] is None:
        fractional_max_pool(x, samples=jnp.zeros((1, x.shape[-1], x.ndim - 2)), **options)


def _try_unpool(x: Array, output_shape: Any) -> None:
    max_unpool(x, jnp.zeros(x.shape, jnp.int32), output_shape)


def _try_fold(x: Array, output_shape: Any, **options: Any) -> None:
    check_not_empty("output_shape", output_shape)
    unfold(x, (1,) * (x.ndim - 2), **options)


def _try_factor(x: Array, factor: Any) -> None:
    """Check the kind of `factor`: which values are valid depends on the image."""
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
