"""Networks of causal layers, which give the same for a whole sequence and for its chunks as they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from .. import nnx as cn

Array = jax.Array


class Streamed(nnx.Module):
    """`run(x, layer_of)` of the network is its forward pass, in which `layer_of(layer, x)` calls each causal layer."""

    run: Callable[[Array, Callable[[Any, Array], Array]], Array]

    def __call__(self, x: Array) -> Array:
        return self.run(x, lambda layer, x: layer(x))

    def init_cache(self, batch: int = 1) -> None:
        """Forgets what `step` has been given."""
        for _, layer in nnx.iter_modules(self):
            if isinstance(layer, cn.CausalConv):
                layer.init_cache((batch, 1, layer.in_features or 0))

    def step(self, x: Array) -> Array:
        """What the network gives for the chunk `x`, `(n, time, channels)`, that follows what it has been given."""
        return self.run(x, lambda layer, x: layer.step(x))
