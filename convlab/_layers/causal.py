"""The causal convolution without its parameters: whole sequences, and streams of chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._masks import Line, packed_conv, read_segments
from .._operands import promoted
from .._patches import as_array, pad_axis
from .._window import Window, argument_error, is_int, is_sequence
from .convolutions import Conv

Array = jax.Array


class CausalConv(Conv):
    """A convolution that pads before only, so that it can be computed while its input arrives along its first spatial axis.

    A step convolves what it kept with the new chunk. It keeps the `reach - 1` places that the next window may see, and as many
    more as the input has gone beyond a multiple of the stride: the phase is told by a shape, and so it is static.
    """

    padding: Any
    input_dilation: Any

    def _is_pointwise(self) -> bool:
        return False  # which axis is time depends on the number of spatial axes

    def _check_options(self, channels: int | None = None) -> None:
        if not isinstance(self.padding, str) or self.padding.upper() != "CAUSAL":
            raise argument_error("padding", "be 'CAUSAL'", self.padding, "a causal convolution")
        if set(self._spread("input_dilation")) - {1}:
            raise argument_error("input_dilation", "be 1", self.input_dilation, "a causal convolution")
        super()._check_options(channels)

    @property
    def _seen(self) -> int:
        """How many places before it a place of the result sees."""
        return (self._size[0] - 1) * self._spread("kernel_dilation")[0]

    def _fresh(self, input_shape: Any, dtype: Any) -> Array:
        """What is kept before anything has arrived, for chunks of shape `(*batch, *spatial, c)` of any length."""
        rule = f"be {len(self._size) + 1} ints or more, (*batch, *spatial, c)"
        if not is_sequence(input_shape) or not all(map(is_int, input_shape)):
            raise argument_error("input_shape", rule, input_shape, kind=TypeError)
        time = len(input_shape) - 1 - len(self._size)
        if time < 0:
            raise argument_error("input_shape", rule, input_shape)
        return jnp.zeros((*input_shape[:time], self._seen, *input_shape[time + 1 :]), dtype)

    def _fresh_segments(self, input_shape: Any) -> Array:
        """The segments of what is kept: any, for it is zeros."""
        return self._fresh(input_shape, jnp.int32)[..., 0]

    def _check_unpacked(self, segments: Any) -> None:
        if segments is not None:
            raise argument_error("segment_ids", "be given", None, "a cache of packed sequences")

    def _step(self, hook: Callable | None, kept: Array, x: Array, kernel: Array, bias: Any) -> tuple[Array, Array]:
        """The places of the result that the chunk `x` completes, and what to keep."""
        time = kept.ndim - 1 - len(self._size)
        expected = (*kept.shape[:time], "any", *kept.shape[time + 1 :])
        if x.ndim != kept.ndim or (*x.shape[:time], "any", *x.shape[time + 1 :]) != expected:
            shown = ", ".join(map(str, expected))
            raise argument_error(
                "inputs", f"have the shape ({shown})", x.shape, "the cache", "`init_cache` makes one for another shape."
            )
        data, keep, short = self._chunk(kept, x, time)
        window = Window(self._size, self._spread("strides"), "CAUSAL", self._spread("kernel_dilation"))
        pads = ((0, 0), *window.pads(x.shape[time:-1])[1:])
        y = self._convolve(hook, data, kernel, bias, {}, padding=pads)
        return lax.slice_in_dim(y, 0, 0 if short else None, axis=time), keep

    def _chunk(self, kept: Array, x: Array, time: int) -> tuple[Array, Array, int]:
        """What the windows of a chunk see, what to keep of it, and by how much it was made longer."""
        seen, stride = self._seen, self._spread("strides")[0]
        phase, length = kept.shape[time] - seen, kept.shape[time] + x.shape[time]
        data = jnp.concatenate([kept.astype(x.dtype), x], time)
        keep = lax.slice_in_dim(data, length - seen - (phase + x.shape[time]) % stride, length, axis=time)
        first = stride if phase else 0
        # A chunk that completes nothing is made long enough for one place, which is then left out.
        short = max(first + seen + 1 - length, 0)
        data = pad_axis(lax.slice_in_dim(data, min(first, length), length, axis=time), time, (0, short), "zeros")
        return data, keep.astype(kept.dtype), short

    def _packed_step(
        self, hook: Callable | None, kept: Array, former: Any, x: Array, segment_ids: Any, kernel: Array, bias: Any
    ) -> tuple[Array, Array, Array]:
        """`_step` over packed sequences: of what is kept, the segments are kept too."""
        ids = as_array("segment_ids", segment_ids, "an array of integers")
        if former is None:
            hint = "`init_cache(..., packed=True)` makes one with them."
            raise argument_error("segment_ids", "be None", ids.shape, "a cache without segments", hint)
        jax.eval_shape(lambda *operands: self._step(hook, *operands), kept, x, kernel, bias)  # for its refusals
        read_segments(ids, x, len(self._size))
        time, options = kept.ndim - 2, self._options(x.shape[-1])
        data, keep, short = self._chunk(kept, x, time)
        segments, latter, _ = self._chunk(former, ids, time)
        check = jax.ShapeDtypeStruct(segments.shape, segments.dtype)
        jax.eval_shape(lambda ids: self._convolve(hook, data, kernel, bias, {}, segment_ids=ids), check)
        line = Line(*self._size, *self._spread("strides"), *self._spread("kernel_dilation"), (0, 0), self._seen)
        data, kernel = promoted(data, jnp.flip(kernel, 0) if options["flip_kernel"] else kernel)
        same = {name: options[name] for name in ("precision", "preferred_element_type")}
        y = packed_conv(data, kernel, bias, segments, line, groups=options["feature_group_count"], **same)
        return lax.slice_in_dim(y, 0, 0 if short else None, axis=time), keep, latter
