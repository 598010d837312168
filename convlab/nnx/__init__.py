"""The layers of convlab as `flax.nnx` modules: a superset of Flax's own, with their names, parameters and defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import KW_ONLY
from typing import Any

import jax

from .. import _layers
from .._extras import missing

try:
    from flax import nnx
except ModuleNotFoundError as error:
    raise missing("flax", extra="flax", by=__name__) from error

from .._layers import avg_pool as avg_pool
from .._layers import max_pool as max_pool
from .._layers import min_pool as min_pool
from .._layers import pool as pool
from .._window import argument_error
from ._causal import CausalConv as CausalConv
from ._convolutions import Conv as Conv
from ._convolutions import ConvLocal as ConvLocal
from ._convolutions import ConvTranspose as ConvTranspose
from ._convolutions import DeformConv as DeformConv
from ._convolutions import DepthwiseConv as DepthwiseConv
from ._convolutions import SeparableConv as SeparableConv
from ._convolutions import WSConv as WSConv

Array = jax.Array


def bound(body: Any) -> Any:
    """A body without parameters as a module."""
    return type(body.__name__, (body, nnx.Module), {"__module__": __name__, "__doc__": body.__doc__})


MaxPool = bound(_layers.MaxPool)
MinPool = bound(_layers.MinPool)
AvgPool = bound(_layers.AvgPool)
SumPool = bound(_layers.SumPool)
LPPool = bound(_layers.LPPool)
GeMPool = bound(_layers.GeMPool)
SoftmaxPool = bound(_layers.SoftmaxPool)
TopKPool = bound(_layers.TopKPool)
MixedPool = bound(_layers.MixedPool)
BlurPool = bound(_layers.BlurPool)
GlobalAvgPool = bound(_layers.GlobalAvgPool)
GlobalMaxPool = bound(_layers.GlobalMaxPool)
AdaptiveAvgPool = bound(_layers.AdaptiveAvgPool)
AdaptiveMaxPool = bound(_layers.AdaptiveMaxPool)
SpatialPyramidPool = bound(_layers.SpatialPyramidPool)
MaxUnpool = bound(_layers.MaxUnpool)
Unfold = bound(_layers.Unfold)
Fold = bound(_layers.Fold)
Pad = bound(_layers.Pad)
Flatten = bound(_layers.Flatten)
Resize = bound(_layers.Resize)
Upsample = bound(_layers.Upsample)
PixelShuffle = bound(_layers.PixelShuffle)
PixelUnshuffle = bound(_layers.PixelUnshuffle)
LocalResponseNorm = bound(_layers.LocalResponseNorm)
RoIAlign = bound(_layers.RoIAlign)
RoIPool = bound(_layers.RoIPool)


class Drawing(nnx.Module):
    """A module that draws: its keys come from `rngs`, given to it or to the call, as for `nnx.Dropout`."""

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
class StochasticPool(_layers.StochasticPool, Drawing):
    """`convlab.stochastic_pool` as a layer: it draws, or is the expectation if `deterministic`, as after `model.eval()`."""

    _: KW_ONLY
    deterministic: bool = False
    rng_collection: str = "pool"
    rngs: Any = None

    def __call__(
        self, x: Array, *, valid: Array | None = None, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        fixed = self.deterministic if deterministic is None else deterministic
        return super().__call__(x, key=None if fixed else self._key(rngs), valid=valid)

    def set_view(self, deterministic: bool | None = None) -> None:
        """For `nnx.view`."""
        if deterministic is not None:
            self.deterministic = deterministic


@dataclasses.dataclass(eq=False, repr=False)
class FractionalMaxPool(_layers.FractionalMaxPool, Drawing):
    """`convlab.fractional_max_pool` as a layer: each call draws where its windows begin, or takes `samples`."""

    _: KW_ONLY
    rng_collection: str = "pool"
    rngs: Any = None

    def __call__(self, x: Array, *, samples: Array | None = None, rngs: Any = None) -> Any:
        return super().__call__(x, key=self._key(rngs) if samples is None else None, samples=samples)
