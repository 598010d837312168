"""convlab's layers as `flax.nnx` modules: a superset of Flax's layers, with their names, parameters and defaults."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import KW_ONLY
from typing import TYPE_CHECKING, Any, Literal, overload

import jax

from .. import _layers
from .._extras import missing

try:
    from flax import nnx
except ModuleNotFoundError as error:
    raise missing("flax", extra="flax", by=__name__) from error

from .._arguments import argument_error
from .._layers import avg_pool as avg_pool
from .._layers import max_pool as max_pool
from .._layers import min_pool as min_pool
from .._layers import pool as pool
from .._layers.operations import Indexed, Result
from ..typing import Floats, Ints, OptionalInts, Padding
from ._causal import CausalConv as CausalConv
from ._convolutions import Conv as Conv
from ._convolutions import ConvLocal as ConvLocal
from ._convolutions import ConvTranspose as ConvTranspose
from ._convolutions import DeformConv as DeformConv
from ._convolutions import DepthwiseConv as DepthwiseConv
from ._convolutions import SeparableConv as SeparableConv
from ._convolutions import WSConv as WSConv
from ._normalization import BatchNorm as BatchNorm
from ._normalization import GroupNorm as GroupNorm
from ._normalization import InstanceNorm as InstanceNorm
from ._normalization import LayerNorm as LayerNorm
from ._normalization import RMSNorm as RMSNorm

Array = jax.Array


class _Operation(nnx.Module):
    """A layer without parameters as a module; its documentation is that of the body."""

    def __init_subclass__(cls, **options: Any) -> None:
        cls.__doc__ = cls.__doc__ or inspect.getdoc(cls.__mro__[1])
        super().__init_subclass__(**options)


class MaxPool(_layers.MaxPool[Result], _Operation):
    if TYPE_CHECKING:

        @overload
        def __init__(
            self: MaxPool[Array], window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
            window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[False] = ...,
        ) -> None: ...  # fmt: skip

        @overload
        def __init__(
            self: MaxPool[Indexed], window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
            window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[True],
        ) -> None: ...  # fmt: skip

        @overload
        def __init__(
            self: MaxPool[Array | Indexed], window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
            window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: bool,
        ) -> None: ...  # fmt: skip

        def __init__(self, *args: Any, **options: Any) -> None: ...


class MinPool(_layers.MinPool[Result], _Operation):
    if TYPE_CHECKING:

        @overload
        def __init__(
            self: MinPool[Array], window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
            window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[False] = ...,
        ) -> None: ...  # fmt: skip

        @overload
        def __init__(
            self: MinPool[Indexed], window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
            window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: Literal[True],
        ) -> None: ...  # fmt: skip

        @overload
        def __init__(
            self: MinPool[Array | Indexed], window_shape: Ints, strides: Ints | None = ..., padding: Padding = ..., *,
            window_dilation: Ints = ..., ceil_mode: bool = ..., return_indices: bool,
        ) -> None: ...  # fmt: skip

        def __init__(self, *args: Any, **options: Any) -> None: ...


class AvgPool(_layers.AvgPool, _Operation): ...


class SumPool(_layers.SumPool, _Operation): ...


class LPPool(_layers.LPPool, _Operation): ...


class GeMPool(_layers.GeMPool, _Operation): ...


class SoftmaxPool(_layers.SoftmaxPool, _Operation): ...


class TopKPool(_layers.TopKPool, _Operation): ...


class MixedPool(_layers.MixedPool, _Operation): ...


class BlurPool(_layers.BlurPool, _Operation): ...


class GlobalAvgPool(_layers.GlobalAvgPool, _Operation): ...


class GlobalMaxPool(_layers.GlobalMaxPool, _Operation): ...


class AdaptiveAvgPool(_layers.AdaptiveAvgPool, _Operation): ...


class AdaptiveMaxPool(_layers.AdaptiveMaxPool[Result], _Operation):
    if TYPE_CHECKING:

        @overload
        def __init__(
            self: AdaptiveMaxPool[Array], output_shape: OptionalInts, *, return_indices: Literal[False] = ...,
        ) -> None: ...  # fmt: skip

        @overload
        def __init__(
            self: AdaptiveMaxPool[Indexed], output_shape: OptionalInts, *, return_indices: Literal[True],
        ) -> None: ...  # fmt: skip

        @overload
        def __init__(
            self: AdaptiveMaxPool[Array | Indexed], output_shape: OptionalInts, *, return_indices: bool,
        ) -> None: ...  # fmt: skip

        def __init__(self, *args: Any, **options: Any) -> None: ...


class SpatialPyramidPool(_layers.SpatialPyramidPool, _Operation): ...


class MaxUnpool(_layers.MaxUnpool, _Operation): ...


class Unfold(_layers.Unfold, _Operation): ...


class Fold(_layers.Fold, _Operation): ...


class Pad(_layers.Pad, _Operation): ...


class Flatten(_layers.Flatten, _Operation): ...


class Resize(_layers.Resize, _Operation): ...


class Upsample(_layers.Upsample, _Operation): ...


class PixelShuffle(_layers.PixelShuffle, _Operation): ...


class PixelUnshuffle(_layers.PixelUnshuffle, _Operation): ...


class LocalResponseNorm(_layers.LocalResponseNorm, _Operation): ...


class RoIAlign(_layers.RoIAlign, _Operation): ...


class RoIPool(_layers.RoIPool, _Operation): ...


class _Drawing(nnx.Module):
    """A module that draws random numbers, with keys from `rngs` of the layer or of the call, as in `nnx.Dropout`."""

    rngs: Any
    rng_collection: str

    def __post_init__(self):
        self.rngs = self.rngs[self.rng_collection] if isinstance(self.rngs, nnx.Rngs) else self.rngs
        self.rngs = nnx.data(None if self.rngs is None else self.rngs.fork())

    def _key(self, rngs: Any) -> Array:
        rngs = self.rngs if rngs is None else rngs
        if rngs is None:
            raise argument_error("rngs", "be given to the layer or to its call", None)
        rngs = rngs[self.rng_collection] if isinstance(rngs, nnx.Rngs) else rngs
        return rngs() if isinstance(rngs, nnx.RngStream) else rngs


@dataclasses.dataclass(eq=False, repr=False)
class StochasticPool(_layers.StochasticPool, _Drawing):
    """`convlab.stochastic_pool` as a layer: it draws or, if `deterministic` (`model.eval()`), returns the
    expectation."""

    _: KW_ONLY
    deterministic: bool = False
    rng_collection: str = "pool"
    rngs: Any = None

    def __call__(
        self, x: Array, *, valid: Array | None = None, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        fixed = self.deterministic if deterministic is None else deterministic
        return self._apply(x, key=None if fixed else self._key(rngs), valid=valid)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set `deterministic`, for `nnx.view`."""
        if deterministic is not None:
            self.deterministic = deterministic


@dataclasses.dataclass(eq=False, repr=False)
class FractionalMaxPool(_layers.FractionalMaxPool[Result], _Drawing):
    """`convlab.fractional_max_pool` as a layer: each call draws the starts of its windows, or takes `samples`."""

    _: KW_ONLY
    rng_collection: str = "pool"
    rngs: Any = None

    def __call__(self, x: Array, *, samples: Array | None = None, rngs: Any = None) -> Result:
        return self._apply(x, key=self._key(rngs) if samples is None else None, samples=samples)

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: FractionalMaxPool[Array], window_shape: Ints, *,
            output_shape: Ints | None = ..., output_ratio: Floats | None = ...,
            return_indices: Literal[False] = ..., rng_collection: str = ..., rngs: Any = ...,
        ) -> None: ...  # fmt: skip

        @overload
        def __init__(
            self: FractionalMaxPool[Indexed], window_shape: Ints, *,
            output_shape: Ints | None = ..., output_ratio: Floats | None = ...,
            return_indices: Literal[True], rng_collection: str = ..., rngs: Any = ...,
        ) -> None: ...  # fmt: skip

        @overload
        def __init__(
            self: FractionalMaxPool[Array | Indexed], window_shape: Ints, *,
            output_shape: Ints | None = ..., output_ratio: Floats | None = ...,
            return_indices: bool, rng_collection: str = ..., rngs: Any = ...,
        ) -> None: ...  # fmt: skip

        def __init__(self, *args: Any, **options: Any) -> None: ...
