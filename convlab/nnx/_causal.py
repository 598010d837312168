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
from .._arguments import argument_error
from ..typing import Padding
from ._convolutions import Conv

Array = jax.Array


@dataclasses.dataclass(eq=False, repr=False)
class CausalConv(_layers.CausalConv, Conv):  # type: ignore[misc]
    """`Conv` with causal padding, for whole sequences or, with `step`, for chunks along the first spatial axis.

    The concatenated results of `step`, on chunks of any lengths, equal the result on the whole sequence. `init_cache`
    creates the state between chunks, `cache`, an `nnx.Cache`. With strides its length depends on the phase of the
    stride, so that JAX compiles `step` once per phase. For packed sequences, `(*batch, length, in_features)`,
    `segments` stores the segments of the cached positions: a sequence that begins in a chunk is independent of those
    before it.

    Args:
        padding, input_dilation: only "CAUSAL" and 1.
        in_features, out_features, kernel_size and the other options: as in `Conv`.

    Attributes:
        kernel, bias, scale: as in `Conv`.

    Raises:
        TypeError, ValueError: as `convlab.conv`, at construction if the options alone are wrong.

    Example:
        >>> layer = CausalConv(1, 1, 3, rngs=nnx.Rngs(0))
        >>> x = jnp.arange(5.0).reshape(1, 5, 1)
        >>> layer.init_cache(x.shape)
        >>> chunks = [layer.step(x[:, :2]), layer.step(x[:, 2:])]
        >>> bool(jnp.allclose(jnp.concatenate(chunks, 1), layer(x), atol=1e-6))
        True
    """

    _: KW_ONLY
    padding: Padding = "CAUSAL"

    def __post_init__(self, *spec):
        super().__post_init__(*spec)
        self.cache = nnx.data(None)
        self.segments = nnx.data(None)

    def init_cache(self, input_shape: Sequence[int], dtype: Any = jnp.float32, *, packed: bool = False) -> None:
        """Reset the cache for chunks of shape `(*batch, *spatial, in_features)` of any length on the first spatial
        axis.

        With `packed` the chunks have `segment_ids`, which are stored as int32.
        """
        self.cache = nnx.Cache(self._empty_cache(input_shape, dtype))
        self.segments = nnx.Cache(self._empty_segments(input_shape)) if packed else nnx.data(None)

    def step(self, inputs: Array, *, segment_ids: Array | None = None, valid: Array | None = None) -> Array:
        """Return the positions of the result that the chunk `inputs` completes, possibly none."""
        if self.cache is None:
            raise argument_error("cache", "be made by `init_cache`", None)
        x, kernel, bias = self._promoted(inputs)
        x = self._only_valid(x, valid)
        if segment_ids is None:
            self._check_unpacked(self.segments)
            y, next_cache = self._step(self._hook(), self.cache[...], x, kernel, bias)
        else:
            segments: Any = self.segments
            cached = None if segments is None else segments[...]
            y, next_cache, next_segments = self._packed_step(
                self._hook(), self.cache[...], x, kernel, bias, cached_segments=cached, segment_ids=segment_ids
            )
            segments.set_value(next_segments)
        self.cache.set_value(next_cache)
        return y
