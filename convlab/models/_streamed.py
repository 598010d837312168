"""Networks of causal layers, which compute a whole sequence or its chunks with the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from .. import nnx as cn

Array = jax.Array


class Streamed(nnx.Module):
    """A network whose forward pass is `run(x, layer_of)`, in which `layer_of(layer, x)` calls each causal layer."""

    run: Callable[[Array, Callable[[Any, Array], Array]], Array]

    def __call__(self, x: Array) -> Array:
        return self.run(x, lambda layer, x: layer(x))

    def init_cache(self, batch: int = 1) -> None:
        """Reset the caches of all causal layers, for a new sequence."""
        for _, layer in nnx.iter_modules(self):
            if isinstance(layer, cn.CausalConv):
                layer.init_cache((batch, 1, layer.in_features or 0))

    def step(self, x: Array) -> Array:
        """Return the result for the chunk `x`, `(n, time, channels)`, that follows the chunks of earlier calls."""
        return self.run(x, lambda layer, x: layer.step(x))
