"""The layers of convlab as `flax.linen` modules: a superset of Flax's own, with their names, parameters and defaults."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any

import jax

from .. import _layers
from .._extras import missing

try:
    from flax import linen
except ModuleNotFoundError as error:
    raise missing("flax", extra="flax", by=__name__) from error

from .._layers import avg_pool as avg_pool
from .._layers import max_pool as max_pool
from .._layers import min_pool as min_pool
from .._layers import pool as pool
from ._convolutions import CausalConv as CausalConv
from ._convolutions import Conv as Conv
from ._convolutions import ConvLocal as ConvLocal
from ._convolutions import ConvTranspose as ConvTranspose
from ._convolutions import DeformConv as DeformConv
from ._convolutions import DepthwiseConv as DepthwiseConv
from ._convolutions import SeparableConv as SeparableConv
from ._convolutions import WSConv as WSConv

Array = jax.Array


def bound(body: Any) -> Any:
    """A body without parameters as a module. Linen sees only the methods that stand in the class itself."""
    names = {"__module__": __name__, "__doc__": body.__doc__, "__call__": body.__call__}
    return type(body.__name__, (body, linen.Module), names)


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


class StochasticPool(_layers.StochasticPool, linen.Module):
    """`convlab.stochastic_pool` as a layer: it draws, or is the expectation if `deterministic`."""

    _: KW_ONLY
    deterministic: bool = False
    rng_collection: str = "pool"

    def __call__(
        self, x: Array, *, valid: Array | None = None, deterministic: bool | None = None, rng: Array | None = None
    ) -> Array:
        if self.deterministic if deterministic is None else deterministic:
            return _layers.StochasticPool.__call__(self, x, valid=valid)
        key = self.make_rng(self.rng_collection) if rng is None else rng
        return _layers.StochasticPool.__call__(self, x, key=key, valid=valid)


class FractionalMaxPool(_layers.FractionalMaxPool, linen.Module):
    """`convlab.fractional_max_pool` as a layer: each call draws where its windows begin, or takes `samples`."""

    _: KW_ONLY
    rng_collection: str = "pool"

    def __call__(self, x: Array, *, samples: Array | None = None, rng: Array | None = None) -> Any:
        key = self.make_rng(self.rng_collection) if samples is None and rng is None else rng
        return _layers.FractionalMaxPool.__call__(self, x, key=key, samples=samples)
