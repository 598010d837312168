"""The causal convolution as an NNX module, with its cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import _layers
from .._window import argument_error
from ._convolutions import Conv

Array = jax.Array


@dataclasses.dataclass(eq=False, repr=False)
class CausalConv(_layers.CausalConv, Conv):  # type: ignore[misc]
    """`Conv` that pads before only, on a whole sequence or, chunk by chunk along the first spatial axis, on a stream.

    The results of `step` on chunks of any lengths, put together, are the result on the whole sequence. What must be remembered
    is in `cache`, an `nnx.Cache`, which `init_cache` makes. With strides its length, and so the program, depends on the phase.
    Of packed sequences, `(*batch, length, in_features)`, the cache has a part for their segments: a sequence that begins in a chunk
    sees nothing of what came before.

    Args:
        padding, input_dilation: "CAUSAL" and 1, nothing else.
        in_features, out_features, kernel_size and the other options: as in `Conv`.

    Attributes:
        kernel, bias, scale: as in `Conv`.

    Raises:
        TypeError, ValueError: as `convlab.conv`, at construction where the options tell.

    Example:
        >>> layer = CausalConv(1, 1, 3, rngs=nnx.Rngs(0))
        >>> x = jnp.arange(5.0).reshape(1, 5, 1)
        >>> layer.init_cache(x.shape)
        >>> chunks = [layer.step(x[:, :2]), layer.step(x[:, 2:])]
        >>> bool(jnp.allclose(jnp.concatenate(chunks, 1), layer(x), atol=1e-6))
        True
    """

    _: KW_ONLY
    padding: Any = "CAUSAL"

    def __post_init__(self, *recipe):
        super().__post_init__(*recipe)
        self.cache = nnx.data(None)
        self.segments = nnx.data(None)

    def init_cache(self, input_shape: Sequence[int], dtype: Any = jnp.float32, *, packed: bool = False) -> None:
        """Forgets. What comes are chunks of shape `(*batch, *spatial, in_features)`, the first spatial axis of any length.

        With `packed` they come with `segment_ids`, which are kept as int32.
        """
        self.cache = nnx.Cache(self._fresh(input_shape, dtype))
        self.segments = nnx.Cache(self._fresh_segments(input_shape)) if packed else nnx.data(None)

    def step(self, inputs: Array, *, segment_ids: Array | None = None, valid: Array | None = None) -> Array:
        """The places of the result that the chunk `inputs` completes, perhaps none."""
        if self.cache is None:
            raise argument_error("cache", "be made by `init_cache`", None)
        x, kernel, bias = self._promoted(inputs)
        x = self._only_valid(x, valid)
        if segment_ids is None:
            self._check_unpacked(self.segments)
            y, kept = self._step(self._hook(), self.cache[...], x, kernel, bias)
        else:
            former = None if self.segments is None else self.segments[...]
            y, kept, latter = self._packed_step(self._hook(), self.cache[...], former, x, segment_ids, kernel, bias)
            self.segments.set_value(latter)
        self.cache.set_value(kept)
        return y
