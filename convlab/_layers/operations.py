"""The layers without parameters. Their fields are the options of their functions, with the same names, kinds, defaults
and types."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

import jax
import jax.numpy as jnp

from .._arguments import argument_error, as_array, broadcast_to_rank, check_axis_sizes, check_not_empty, is_sequence
from .._matrix import fold, unfold
from .._normalize import local_response_norm
from .._padding import pad
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
from ..typing import Floats, Interpolation, Ints, OptionalInts, Padding, PaddingModes, Reduce
from .base import ImageOperation, MaskedOperation, Operation, layer

Array = jax.Array
Indexed: TypeAlias = tuple[Array, Array]  # an array and indices, the result of a layer with `return_indices=True`

# The result of a layer with `return_indices`: `Array`, `Indexed`, or their union if only the run decides.
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Result = TypeVar("Result", default=Any)
else:
    from typing import TypeVar

    Result = TypeVar("Result")


def flatten(x: Array) -> Array:
    """Reshape `(n, *axes)` to `(n, features)`, last axis fastest."""
    x = as_array("x", x)
    if x.ndim < 2:
        raise argument_error("x", "have one batch axis and axes to flatten", x.shape)
    features = math.prod(x.shape[1:])
    check_axis_sizes("x", [features], x.shape)
    return x.reshape(x.shape[0], features)


def _validate_fractional(x: Array, **options: Any) -> None:
    """Check the options that do not depend on the image; which ratios are valid does."""
    if options["output_ratio"] is None:
        fractional_max_pool(x, samples=jnp.zeros((1, x.shape[-1], x.ndim - 2)), **options)


def _validate_unpool(x: Array, output_shape: Any) -> None:
    max_unpool(x, jnp.zeros(x.shape, jnp.int32), output_shape)


def _validate_fold(x: Array, output_shape: Any, **options: Any) -> None:
    check_not_empty("output_shape", output_shape)
    unfold(x, (1,) * (x.ndim - 2), **options)


def _validate_factor(x: Array, factor: Any) -> None:
    """Check the kind of `factor`; which values are valid depends on the image."""
    check_not_empty("factor", factor)
    broadcast_to_rank("factor", factor, len(factor) if is_sequence(factor) else x.ndim - 2)


def _validate_regions(function: Callable) -> Callable:
    return lambda x, **options: function(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 5)), **options)


@dataclasses.dataclass(eq=False, repr=False)
class WindowPool(MaskedOperation):
    window_shape: Ints
    strides: Ints | None = None
    padding: Padding = "VALID"


@dataclasses.dataclass(eq=False, repr=False)
class ExtremePool(Operation, Generic[Result]):
    window_shape: Ints
    strides: Ints | None = None
    padding: Padding = "VALID"
    _: KW_ONLY
    window_dilation: Ints = 1
    ceil_mode: bool = False
    return_indices: bool = False

    def __call__(self, x: Array, *, valid: Array | None = None) -> Result:
        return self._apply(x, valid=valid)


@layer(max_pool)
class MaxPool(ExtremePool[Result]):
    pass


@layer(min_pool)
class MinPool(ExtremePool[Result]):
    pass


@layer(avg_pool)
class AvgPool(WindowPool):
    count_include_pad: bool = True
    _: KW_ONLY
    window_dilation: Ints = 1
    ceil_mode: bool = False
    divisor_override: int | None = None


@layer(sum_pool)
class SumPool(WindowPool):
    _: KW_ONLY
    window_dilation: Ints = 1
    ceil_mode: bool = False


@layer(lp_pool)
class LPPool(WindowPool):
    _: KW_ONLY
    norm_type: float = 2.0
    window_dilation: Ints = 1
    ceil_mode: bool = False


@layer(gem_pool)
class GeMPool(WindowPool):
    _: KW_ONLY
    p: Any = 3.0


@layer(softmax_pool)
class SoftmaxPool(WindowPool):
    _: KW_ONLY
    temperature: Any = 1.0


@layer(top_k_pool)
class TopKPool(WindowPool):
    _: KW_ONLY
    k: int = 2


@layer(mixed_pool)
class MixedPool(WindowPool):
    _: KW_ONLY
    alpha: Any = 0.5


@layer(stochastic_pool)
class StochasticPool(Operation):
    window_shape: Ints
    strides: Ints | None = None
    padding: Padding = "VALID"


@layer(blur_pool)
class BlurPool(ImageOperation):
    window_shape: Ints = 3
    strides: Ints = 2
    padding: Padding = "SAME"
    _: KW_ONLY
    padding_mode: PaddingModes = "reflect"


@layer(global_avg_pool)
class GlobalAvgPool(MaskedOperation):
    _: KW_ONLY
    keepdims: bool = False


@layer(global_max_pool)
class GlobalMaxPool(MaskedOperation):
    _: KW_ONLY
    keepdims: bool = False


@layer(adaptive_avg_pool)
class AdaptiveAvgPool(ImageOperation):
    output_shape: OptionalInts


@layer(adaptive_max_pool)
class AdaptiveMaxPool(Operation, Generic[Result]):
    output_shape: OptionalInts
    _: KW_ONLY
    return_indices: bool = False

    def __call__(self, x: Array) -> Result:
        return self._apply(x)


@layer(fractional_max_pool, validator=_validate_fractional)
class FractionalMaxPool(Operation, Generic[Result]):
    window_shape: Ints
    _: KW_ONLY
    output_shape: Ints | None = None
    output_ratio: Floats | None = None
    return_indices: bool = False


@layer(spatial_pyramid_pool)
class SpatialPyramidPool(ImageOperation):
    levels: Sequence[int] = (1, 2, 4)
    _: KW_ONLY
    reduce: Reduce = "max"


@layer(max_unpool, validator=_validate_unpool)
class MaxUnpool(Operation):
    output_shape: Ints

    def __call__(self, x: Array, indices: Array) -> Array:
        return self._apply(x, indices)


@layer(unfold)
class Unfold(ImageOperation):
    window_shape: Ints
    strides: Ints = 1
    padding: Padding = "VALID"
    _: KW_ONLY
    window_dilation: Ints = 1


@layer(fold, validator=_validate_fold)
class Fold(ImageOperation):
    output_shape: Ints
    strides: Ints = 1
    padding: Padding = "VALID"
    _: KW_ONLY
    window_dilation: Ints = 1


@layer(pad)
class Pad(ImageOperation):
    padding: Padding
    mode: PaddingModes = "zeros"
    value: Any = 0


@layer(flatten)
class Flatten(ImageOperation):
    pass


@layer(resize)
class Resize(ImageOperation):
    output_shape: Ints | None = None
    _: KW_ONLY
    scale: Floats | None = None
    method: Interpolation = "linear"
    align_corners: bool = False
    antialias: bool = False


@layer(resize)
class Upsample(Resize):
    pass


@layer(pixel_shuffle, validator=_validate_factor)
class PixelShuffle(ImageOperation):
    factor: Ints


@layer(pixel_unshuffle, validator=_validate_factor)
class PixelUnshuffle(ImageOperation):
    factor: Ints


@layer(local_response_norm)
class LocalResponseNorm(ImageOperation):
    size: int
    _: KW_ONLY
    alpha: float = 0.0001
    beta: float = 0.75
    k: float = 1.0


@dataclasses.dataclass(eq=False, repr=False)
class RegionPool(Operation):
    output_shape: Ints
    _: KW_ONLY
    spatial_scale: float = 1.0

    def __call__(self, x: Array, boxes: Array) -> Array:
        return self._apply(x, boxes)


@layer(roi_align, validator=_validate_regions(roi_align))
class RoIAlign(RegionPool):
    _: KW_ONLY
    sampling_ratio: int = -1
    aligned: bool = False


@layer(roi_pool, validator=_validate_regions(roi_pool))
class RoIPool(RegionPool):
    pass
