"""The causal convolution without its parameters: whole sequences, and streams of chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._arguments import argument_error, as_array, is_int, is_sequence
from .._conv_operands import promote_operands
from .._masks import AxisWindow, packed_conv, read_segments
from .._padding import pad_axis
from .._window import Window
from .convolutions import Conv

Array = jax.Array


class CausalConv(Conv):
    """A convolution that pads before only, so that it can run while its input arrives along the first spatial axis.

    `step` convolves the cached input with a new chunk. The cache holds the `effective_size - 1` positions that the next
    window reads again, and the remainder of the input length modulo the stride. The length of the cache tells the phase
    of the stride, which is therefore static.
    """

    def _is_pointwise(self) -> bool:
        return False  # which axis is time depends on the number of spatial axes

    def _check_options(self, channels: int | None = None) -> None:
        if not isinstance(self.padding, str) or self.padding.upper() != "CAUSAL":
            raise argument_error("padding", "be 'CAUSAL'", self.padding, "a causal convolution")
        if set(self._broadcast("input_dilation")) - {1}:
            raise argument_error("input_dilation", "be 1", self.input_dilation, "a causal convolution")
        super()._check_options(channels)

    @property
    def _context(self) -> int:
        """Return the number of earlier positions that a position of the result depends on."""
        return (self._size[0] - 1) * self._broadcast("kernel_dilation")[0]

    def _empty_cache(self, input_shape: Any, dtype: Any) -> Array:
        """Return a cache of zeros, for chunks of shape `(*batch, *spatial, c)` of any length."""
        rule = f"be {len(self._size) + 1} ints or more, (*batch, *spatial, c)"
        if not is_sequence(input_shape) or not all(map(is_int, input_shape)):
            raise argument_error("input_shape", rule, input_shape, kind=TypeError)
        time = len(input_shape) - 1 - len(self._size)
        if time < 0:
            raise argument_error("input_shape", rule, input_shape)
        return jnp.zeros((*input_shape[:time], self._context, *input_shape[time + 1 :]), dtype)

    def _empty_segments(self, input_shape: Any) -> Array:
        """Return the segments of an empty cache: any, since its positions are zeros."""
        return self._empty_cache(input_shape, jnp.int32)[..., 0]

    def _check_unpacked(self, segments: Any) -> None:
        if segments is not None:
            raise argument_error("segment_ids", "be given", None, "a cache of packed sequences")

    def _step(self, hook: Callable | None, cache: Array, x: Array, kernel: Array, bias: Any) -> tuple[Array, Array]:
        """Return the positions of the result that the chunk `x` completes, and the next cache."""
        time = cache.ndim - 1 - len(self._size)
        expected = (*cache.shape[:time], "any", *cache.shape[time + 1 :])
        if x.ndim != cache.ndim or (*x.shape[:time], "any", *x.shape[time + 1 :]) != expected:
            shown = ", ".join(map(str, expected))
            raise argument_error(
                "inputs", f"have the shape ({shown})", x.shape, "the cache", "`init_cache` makes one for another shape."
            )
        data, next_cache, tail_padding = self._chunk(cache, x, time)
        window = Window(self._size, self._broadcast("strides"), "CAUSAL", self._broadcast("kernel_dilation"))
        pads = ((0, 0), *window.pads(x.shape[time:-1])[1:])
        y = self._convolve(hook, data, kernel, bias, {}, padding=pads)
        return lax.slice_in_dim(y, 0, 0 if tail_padding else None, axis=time), next_cache

    def _chunk(self, cache: Array, x: Array, time: int) -> tuple[Array, Array, int]:
        """Return the positions that the windows of a chunk read, the next cache, and the length of added padding."""
        context, stride = self._context, self._broadcast("strides")[0]
        phase, length = cache.shape[time] - context, cache.shape[time] + x.shape[time]
        data = jnp.concatenate([cache.astype(x.dtype), x], time)
        next_cache = lax.slice_in_dim(data, length - context - (phase + x.shape[time]) % stride, length, axis=time)
        first = stride if phase else 0
        # Pad a chunk that completes no position to one position, which the callers slice off.
        tail_padding = max(first + context + 1 - length, 0)
        data = pad_axis(lax.slice_in_dim(data, min(first, length), length, axis=time), time, (0, tail_padding), "zeros")
        return data, next_cache.astype(cache.dtype), tail_padding

    def _packed_step(
        self,
        hook: Callable | None,
        cache: Array,
        x: Array,
        kernel: Array,
        bias: Any,
        *,
        cached_segments: Any,
        segment_ids: Any,
    ) -> tuple[Array, Array, Array]:
        """Compute `_step` for packed sequences, with a second cache for the segments."""
        ids = as_array("segment_ids", segment_ids, "an array of integers")
        if cached_segments is None:
            hint = "`init_cache(..., packed=True)` makes one with them."
            raise argument_error("segment_ids", "be None", ids.shape, "a cache without segments", hint)
        jax.eval_shape(lambda *operands: self._step(hook, *operands), cache, x, kernel, bias)  # raises its errors
        read_segments(ids, x, len(self._size))
        time, options = cache.ndim - 2, self._options(x.shape[-1])
        data, next_cache, tail_padding = self._chunk(cache, x, time)
        segments, next_segments, _ = self._chunk(cached_segments, ids, time)
        check = jax.ShapeDtypeStruct(segments.shape, segments.dtype)
        jax.eval_shape(lambda ids: self._convolve(hook, data, kernel, bias, {}, segment_ids=ids), check)
        (size,), (stride,), (dilation,) = self._size, self._broadcast("strides"), self._broadcast("kernel_dilation")
        window = AxisWindow(size, stride, dilation, (0, 0), self._context)
        data, kernel = promote_operands(data, jnp.flip(kernel, 0) if options["flip_kernel"] else kernel)
        same = {name: options[name] for name in ("precision", "preferred_element_type")}
        y = packed_conv(data, kernel, bias, segments, window, groups=options["feature_group_count"], **same)
        return lax.slice_in_dim(y, 0, 0 if tail_padding else None, axis=time), next_cache, next_segments
