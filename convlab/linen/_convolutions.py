"""Convolutions as Linen modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen
from flax.linen.dtypes import promote_dtype

from .. import _layers
from .._arguments import is_int, read_int
from ..typing import Ints, Method, Padding, PaddingModes

Array = jax.Array
lecun_normal, zeros = linen.initializers.lecun_normal(), linen.initializers.zeros_init()


class Layer(linen.Module):
    """A module with `kernel` and `bias`."""

    def __post_init__(self):
        self._check_options()
        super().__post_init__()

    @linen.nowrap
    def _out_channels(self, channels: int) -> int:
        return read_int("features", self.features)

    @linen.nowrap
    def _has_scalar_size(self) -> bool:
        return is_int(self.kernel_size)

    @linen.nowrap
    def _promoted(self, inputs: Any) -> tuple[Array, Array, Array | None]:
        """Create the parameters, in a compact method, and return the operands of the operation in one dtype."""
        self._check_inputs(inputs)
        image = self._image(inputs.shape)
        self._check_options(image[-1])
        kernel_shape, bias_shape = self._checked_shapes(image)
        kernel = self.param("kernel", self.kernel_init, kernel_shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, bias_shape, self.param_dtype) if self.use_bias else None
        return self.promote_dtype(inputs, self._effective_kernel(kernel), bias, dtype=self.dtype)


class Conv(_layers.Conv, Layer, linen.Conv):
    """Convolution. A superset of `flax.linen.Conv`: the same arguments, defaults, parameters and initial values.

    Args:
        features: channels of the result.
        kernel_size: taps along each spatial axis; an int is one axis.
        strides, padding, input_dilation, kernel_dilation, feature_group_count, precision, preferred_element_type: as in
            `convlab.conv`; strides and dilations of None are 1.
        use_bias: whether to add a bias.
        mask: an array of the kernel's shape that multiplies it.
        dtype: dtype of the computation; None infers it from input and parameters.
        param_dtype: dtype of the parameters.
        kernel_init, bias_init: initializers.
        promote_dtype: a function of `(inputs, kernel, bias, dtype=dtype)` that casts them to one dtype.
        conv_general_dilated: a function with the signature of `lax.conv_general_dilated` that computes the convolution.
        conv_general_dilated_cls: a class or function without arguments that returns such a function.
        padding_mode, padding_value, flip_kernel, method: as in `convlab.conv`.
        weight_norm: whether to scale the kernel of each output channel to a learned norm, `scale`, so that `kernel`
            gives only its direction (Salimans and Kingma, "Weight normalization", arXiv 1602.07868). PyTorch's
            `parametrizations.weight_norm`.

    Parameters are `kernel`, `(*kernel_size, c_in / feature_group_count, features)`, `bias`, `(features,)`, and with
    `weight_norm` `scale`, `(features,)`, initially the norms of the kernel. Called with `inputs`, `(*batch, *spatial,
    c_in)`, and optionally `segment_ids` or `valid` as in `convlab.conv`, it returns `(*batch, *out, features)`.

    Raises:
        TypeError, ValueError: as `convlab.conv`, at construction if the options alone are wrong.

    Example:
        >>> layer = Conv(8, (3, 3), strides=2)
        >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 28, 28, 3)))
        >>> y.shape
        (1, 14, 14, 8)
    """

    padding: Padding = "SAME"  # type: ignore[assignment]  # wider than Flax's

    @linen.compact
    def __call__(self, inputs: Array, *, segment_ids: Array | None = None, valid: Array | None = None) -> Array:
        return self._convolve(self._hook(), *self._promoted(inputs), {}, segment_ids=segment_ids, valid=valid)

    @linen.nowrap
    def _effective_kernel(self, kernel: Array) -> Array:
        kernel = super()._effective_kernel(kernel)
        if not self.weight_norm:
            return kernel
        return _layers.scale_to_norms(kernel, self.param("scale", lambda key: _layers.channel_norms(kernel)))

    @linen.nowrap
    def _hook(self) -> Callable | None:
        return self.conv_general_dilated if self.conv_general_dilated_cls is None else self.conv_general_dilated_cls()


class DepthwiseConv(_layers.DepthwiseConv, Conv):  # type: ignore[misc]  # it counts fields that are no arguments
    """`Conv` with one group per input channel, each with `multiplier` output channels.

    Args and Raises: as in `convlab.nnx.DepthwiseConv`, without `in_features` and `rngs`.

    Example:
        >>> DepthwiseConv((3, 3), multiplier=2).init_with_output(jax.random.key(0), jnp.ones((1, 28, 28, 3)))[0].shape
        (1, 28, 28, 6)
    """

    features: Any = dataclasses.field(init=False, default=None)
    feature_group_count: Any = dataclasses.field(init=False, default=None)

    if TYPE_CHECKING:  # Flax's annotations do not tell type checkers that these fields are not arguments

        def __init__(
            self, kernel_size: Ints, strides: Ints | None = ..., padding: Padding = ...,
            input_dilation: Ints | None = ..., kernel_dilation: Ints | None = ..., use_bias: bool = ...,
            mask: Any = ..., dtype: Any = ..., param_dtype: Any = ..., precision: Any = ...,
            kernel_init: Callable = ..., bias_init: Callable = ..., promote_dtype: Callable = ...,
            conv_general_dilated: Callable | None = ..., conv_general_dilated_cls: Any = ..., parent: Any = ...,
            name: str | None = ..., *, multiplier: int = ..., preferred_element_type: Any = ...,
            padding_mode: PaddingModes = ..., padding_value: Any = ..., flip_kernel: bool = ...,
            method: Method = ..., weight_norm: bool = ...,
        ) -> None: ...  # fmt: skip


class WSConv(_layers.WSConv, Conv):
    """`Conv` with weight standardization: the kernel of each output channel is used with mean 0 and variance 1.

    Args and Raises: as in `convlab.nnx.WSConv`, `features` for `out_features`, without `in_features` and `rngs`.

    Example:
        >>> WSConv(8, (3, 3)).init_with_output(jax.random.key(0), jnp.ones((1, 28, 28, 3)))[0].shape
        (1, 28, 28, 8)

    Source: Qiao et al., "Micro-batch training with batch-channel normalization and weight standardization", arXiv
        1903.10520.
    """


class CausalConv(_layers.CausalConv, Conv):
    """`Conv` with causal padding, for whole sequences or, with `step`, for chunks along the first spatial axis.

    The concatenated results of `step`, on chunks of any lengths, equal the result on the whole sequence. `init_cache`
    creates the state between chunks, the collection "cache". With strides its length depends on the phase of the
    stride, so that JAX compiles `step` once per phase. For packed sequences, `(*batch, length, c_in)`, the collection
    also stores the segments of the cached positions: a sequence that begins in a chunk is independent of those before
    it.

    Args and Raises: as in `convlab.nnx.CausalConv`, `features` for `out_features`, without `in_features` and `rngs`.

    Example:
        >>> layer, x = CausalConv(1, 3), jnp.arange(5.0).reshape(1, 5, 1)
        >>> variables = layer.init(jax.random.key(0), x) | {"cache": layer.init_cache(x.shape)}
        >>> first, cache = layer.apply(variables, x[:, :2], method="step", mutable=["cache"])
        >>> second, cache = layer.apply(variables | cache, x[:, 2:], method="step", mutable=["cache"])
        >>> bool(jnp.allclose(jnp.concatenate([first, second], 1), layer.apply(variables, x), atol=1e-6))
        True
    """

    padding: Padding = "CAUSAL"

    def __call__(self, inputs: Array, *, segment_ids: Array | None = None, valid: Array | None = None) -> Array:
        return self._streamed(inputs, False, segment_ids, valid)

    def step(self, inputs: Array, *, segment_ids: Array | None = None, valid: Array | None = None) -> Array:
        """Return the positions of the result that the chunk `inputs` completes, possibly none."""
        return self._streamed(inputs, True, segment_ids, valid)

    @linen.nowrap
    def init_cache(
        self, input_shape: Sequence[int], dtype: Any = jnp.float32, *, packed: bool = False
    ) -> dict[str, Array]:
        """Return the collection "cache" for chunks of shape `(*batch, *spatial, c)` of any length on the first axis.

        With `packed` the chunks have `segment_ids`, which are stored as int32.
        """
        segments = {"segment_ids": self._empty_segments(input_shape)} if packed else {}
        return {"inputs": self._empty_cache(input_shape, dtype)} | segments

    @linen.compact
    def _streamed(self, inputs: Array, chunked: bool, segment_ids: Any, valid: Any) -> Array:
        x, kernel, bias = self._promoted(inputs)
        if not chunked:
            return self._convolve(self._hook(), x, kernel, bias, {}, segment_ids=segment_ids, valid=valid)
        x, packed = self._only_valid(x, valid), self.has_variable("cache", "segment_ids")
        cached = self.has_variable("cache", "inputs")
        cache = self.variable("cache", "inputs", self._empty_cache, inputs.shape, inputs.dtype)
        if segment_ids is None:
            self._check_unpacked("segment_ids" if packed else None)
            y, next_cache = self._step(self._hook(), cache.value, x, kernel, bias)
        else:
            fresh = packed or not cached
            segments_before = (
                self.variable("cache", "segment_ids", self._empty_segments, inputs.shape) if fresh else None
            )
            segments = None if segments_before is None else segments_before.value
            y, next_cache, next_segments = self._packed_step(
                self._hook(), cache.value, x, kernel, bias, cached_segments=segments, segment_ids=segment_ids
            )
            if segments_before is not None and not self.is_initializing():
                segments_before.value = next_segments
        if not self.is_initializing():
            cache.value = next_cache
        return y


class ConvTranspose(_layers.ConvTranspose, Layer, linen.ConvTranspose):
    """Transposed convolution. A superset of `flax.linen.ConvTranspose`, with equal defaults and initial values.

    Args:
        features, kernel_size: as in `Conv`.
        strides, padding, kernel_dilation, transpose_kernel, precision, preferred_element_type: as in
            `convlab.conv_transpose`; strides and dilations of None are 1.
        use_bias, mask, dtype, param_dtype, kernel_init, bias_init, promote_dtype: as in `Conv`.
        padding_mode, feature_group_count, output_padding, use_consistent_padding, method: as in
            `convlab.conv_transpose`.

    Parameters are `kernel`, `(*kernel_size, c_in / feature_group_count, features)`, or with `transpose_kernel`
    `(*kernel_size, features / feature_group_count, c_in)`, and `bias`, `(features,)`. Called with `inputs`, `(*batch,
    *spatial, c_in)`, and optionally the `output_shape` of the spatial axes, it returns `(*batch, *out, features)`.

    Raises:
        TypeError, ValueError: as `convlab.conv_transpose`, at construction if the options alone are wrong.

    Example:
        >>> layer = ConvTranspose(8, (2, 2), strides=(2, 2))
        >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 7, 7, 3)))
        >>> y.shape
        (1, 14, 14, 8)
    """

    strides: Ints | None = None  # type: ignore[assignment]  # wider than Flax's
    padding: Padding = "SAME"  # type: ignore[assignment]  # wider than Flax's
    kernel_dilation: Ints | None = None  # type: ignore[assignment]  # wider than Flax's

    @linen.compact
    def __call__(self, inputs: Array, output_shape: Any = None) -> Array:
        return self._function(*self._promoted(inputs), output_shape=output_shape, **self._options(inputs.shape[-1]))


class ConvLocal(_layers.ConvLocal, Layer, linen.ConvLocal):
    """A convolution with one kernel per position (locally connected). A superset of `flax.linen.ConvLocal`.

    Args and Raises: as in `convlab.nnx.ConvLocal`, `features` for `out_features`, without `in_features`,
    `spatial_shape` and `rngs`.

    Example:
        >>> ConvLocal(8, (3, 3), padding="VALID").init_with_output(jax.random.key(0), jnp.ones((1, 6, 5, 3)))[0].shape
        (1, 4, 3, 8)
    """

    padding: Padding = "SAME"  # type: ignore[assignment]  # wider than Flax's

    @linen.compact
    def __call__(self, inputs: Array) -> Array:
        return self._function(*self._promoted(inputs), **self._options(inputs.shape[-1]))


class Options(linen.Module):
    """The options of layers for which Flax has no class."""

    features: int
    kernel_size: int | Sequence[int]
    strides: Ints | None = 1
    _: KW_ONLY
    padding: Padding = "SAME"
    kernel_dilation: Ints | None = 1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Callable = lecun_normal
    bias_init: Callable = zeros
    promote_dtype: Callable = promote_dtype


class DeformConv(_layers.DeformConv, Layer, Options):
    """`convlab.deform_conv` with a kernel and a bias: called with `inputs`, `offset` and optionally `mask`.

    Args and Raises: as in `convlab.nnx.DeformConv`, `features` for `out_features`, without `in_features` and `rngs`.

    Example:
        >>> x, offset = jnp.ones((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 18))
        >>> DeformConv(8, (3, 3)).init_with_output(jax.random.key(0), x, offset)[0].shape
        (1, 8, 8, 8)
    """

    @linen.compact
    def __call__(self, inputs: Array, offset: Array, mask: Array | None = None) -> Array:
        x, kernel, bias = self._promoted(inputs)
        return self._function(x, offset, kernel, bias, mask=mask, **self._options(inputs.shape[-1]))


class SeparableConv(Options):
    """A depthwise separable convolution: a `DepthwiseConv` without bias, then a `Conv` of one tap.

    Args and Raises: as in `convlab.nnx.SeparableConv`, `features` for `out_features`, without `in_features` and `rngs`.

    Example:
        >>> SeparableConv(8, (3, 3), strides=2).init_with_output(jax.random.key(0), jnp.ones((1, 28, 28, 3)))[0].shape
        (1, 14, 14, 8)
    """

    _: KW_ONLY
    multiplier: int = 1
    padding_mode: PaddingModes = "zeros"
    padding_value: Any = 0

    def __post_init__(self):
        self._parts(parent=None)
        super().__post_init__()

    def setup(self):
        self.depthwise, self.pointwise = self._parts()

    def __call__(self, inputs: Array, *, segment_ids: Array | None = None, valid: Array | None = None) -> Array:
        return self.pointwise(self.depthwise(inputs, segment_ids=segment_ids, valid=valid))

    @linen.nowrap
    def _parts(self, **parent: Any) -> tuple[DepthwiseConv, Conv]:
        alike = ("dtype", "param_dtype", "precision", "kernel_init", "promote_dtype")
        both = {name: getattr(self, name) for name in alike} | parent
        own = ("padding", "padding_mode", "padding_value", "kernel_dilation", "multiplier")
        window = {name: getattr(self, name) for name in own}
        depthwise = DepthwiseConv(self.kernel_size, self.strides, use_bias=False, **window, **both)
        one = 1 if is_int(self.kernel_size) else (1,) * len(depthwise._size)
        return depthwise, Conv(self.features, one, use_bias=self.use_bias, bias_init=self.bias_init, **both)
