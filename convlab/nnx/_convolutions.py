"""Convolutions as NNX modules."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import _layers
from .._arguments import broadcast_to_rank, is_int
from .._conv import conv_general_dilated
from ..typing import Ints, Padding, PaddingModes
from ._parameters import InitSpec, Layer, lecun_normal, promote_dtype, zeros

Array = jax.Array


@dataclasses.dataclass(eq=False, repr=False)
class Conv(_layers.Conv, Layer, nnx.Conv):  # type: ignore[misc]  # `in_features` may be None here
    """Convolution. A superset of `flax.nnx.Conv`: the same arguments, defaults, parameters and initial values.

    Args:
        in_features: channels of the input; None delays the parameters to the first call or to `initialize(inputs)`.
        out_features: channels of the result.
        kernel_size: taps along each spatial axis; an int is one axis.
        strides, padding, input_dilation, kernel_dilation, feature_group_count, precision, preferred_element_type: as in
            `convlab.conv`; strides and dilations of None are 1.
        use_bias: whether to add a bias.
        mask: an array of the kernel's shape that multiplies it. It is not part of the state and has no gradient.
        dtype: dtype of the computation; None infers it from input and parameters.
        param_dtype: dtype of the parameters.
        kernel_init, bias_init: initializers.
        conv_general_dilated: a function with the signature of `lax.conv_general_dilated` that computes the convolution.
        promote_dtype: a function of `((inputs, kernel, bias), dtype=dtype)` that casts them to one dtype.
        rngs: random number generators; the initializers draw their keys from it.
        kernel_metadata, bias_metadata: keyword arguments of the `nnx.Param`s.
        padding_mode, padding_value, flip_kernel, method: as in `convlab.conv`.
        weight_norm: whether to scale the kernel of each output channel to a learned norm, `scale`, so that `kernel`
            gives only its direction (Salimans and Kingma, "Weight normalization", arXiv 1602.07868). PyTorch's
            `parametrizations.weight_norm`.

    Attributes:
        kernel: `nnx.Param` of shape `(*kernel_size, in_features / feature_group_count, out_features)`.
        bias: `nnx.Param` of shape `(out_features,)`, or None.
        scale: with `weight_norm` an `nnx.Param` of shape `(out_features,)`, initially the norms of the kernel;
            otherwise None.

    Called with `inputs`, `(*batch, *spatial, in_features)`, in JAX's explicit mode `out_sharding`, and optionally
    `segment_ids` or `valid` as in `convlab.conv`, it returns `(*batch, *out, out_features)`.

    Raises:
        TypeError, ValueError: as `convlab.conv`, at construction if the options alone are wrong.

    Example:
        >>> layer = Conv(3, 8, (3, 3), strides=2, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 28, 28, 3))).shape
        (1, 14, 14, 8)
    """

    strides: Ints | None = 1
    _: KW_ONLY
    padding: Padding = "SAME"  # type: ignore[assignment]  # wider than Flax's
    input_dilation: Ints | None = 1
    kernel_dilation: Ints | None = 1
    feature_group_count: int = 1
    conv_general_dilated: Any = conv_general_dilated

    def _make(self, spec: InitSpec, keys: Any, image: tuple[int, ...]) -> None:
        super()._make(spec, keys, image)
        self.scale: Any = nnx.data(None)
        if self.weight_norm:
            self.scale = nnx.Param(_layers.channel_norms(self._effective_kernel(self.kernel[...])))

    def _effective_kernel(self, kernel: Array) -> Array:
        kernel = super()._effective_kernel(kernel)
        return kernel if self.scale is None else _layers.scale_to_norms(kernel, self.scale[...])

    def __call__(
        self,
        inputs: Array,
        out_sharding: Any = None,
        *,
        segment_ids: Array | None = None,
        valid: Array | None = None,
    ) -> Array:
        x, kernel, bias = self._promoted(inputs)
        more = self._sharding(out_sharding)
        return self._convolve(self._hook(), x, kernel, bias, more, segment_ids=segment_ids, valid=valid)

    def _hook(self) -> Callable | None:
        return None if self.conv_general_dilated is conv_general_dilated else self.conv_general_dilated

    def _sharding(self, out_sharding: Any) -> dict[str, Any]:
        """Return `out_sharding` as an option, unless it is None and the hook does not know it."""
        hook = self._hook()
        parameters = inspect.signature(hook).parameters.values() if hook else ()
        known = not hook or any(p.name == "out_sharding" or p.kind is p.VAR_KEYWORD for p in parameters)
        return {"out_sharding": out_sharding} if known or out_sharding is not None else {}


@dataclasses.dataclass(eq=False, repr=False)
class DepthwiseConv(_layers.DepthwiseConv, Conv):  # type: ignore[misc]
    """`Conv` with one group per input channel, each with `multiplier` output channels.

    Args:
        multiplier: output channels per input channel.
        in_features, kernel_size and the options: as in `Conv`. There is no `out_features` and no `feature_group_count`.

    Attributes:
        kernel: `nnx.Param` of shape `(*kernel_size, 1, multiplier * in_features)`, channel by channel.
        bias, scale: as in `Conv`.

    Raises:
        TypeError, ValueError: as `convlab.conv`, at construction if the options alone are wrong.

    Example:
        >>> layer = DepthwiseConv(3, (3, 3), multiplier=2, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 28, 28, 3))).shape, layer.kernel.shape
        ((1, 28, 28, 6), (3, 3, 1, 6))
    """

    out_features: Any = dataclasses.field(init=False, default=None)
    feature_group_count: Any = dataclasses.field(init=False, default=None)

    def _make(self, spec: InitSpec, keys: Any, image: tuple[int, ...]) -> None:
        self.feature_group_count, self.out_features = image[-1], self._out_channels(image[-1])
        super()._make(spec, keys, image)


@dataclasses.dataclass(eq=False, repr=False)
class WSConv(_layers.WSConv, Conv):  # type: ignore[misc]
    """`Conv` with weight standardization: the kernel of each output channel is used with mean 0 and variance 1.

    Args:
        epsilon: a number > 0, added to the variance before its root divides.
        in_features, out_features, kernel_size and the options: as in `Conv`.

    Attributes:
        kernel, bias, scale: as in `Conv`; `kernel` is the trained kernel before standardization.

    Raises:
        TypeError, ValueError: as `convlab.conv`, at construction if the options alone are wrong.

    Example:
        >>> layer = WSConv(3, 8, (3, 3), rngs=nnx.Rngs(0))
        >>> abs(layer(jnp.ones((1, 5, 5, 3)))[0, 2, 2]).max() < 1e-4  # weights that sum to 0 ignore a constant
        Array(True, dtype=bool)

    Source: Qiao et al., "Micro-batch training with batch-channel normalization and weight standardization", arXiv
        1903.10520.
    """


@dataclasses.dataclass(eq=False, repr=False)
class ConvTranspose(_layers.ConvTranspose, Layer, nnx.ConvTranspose):  # type: ignore[misc]
    """Transposed convolution. A superset of `flax.nnx.ConvTranspose`, with equal defaults and initial values.

    Args:
        in_features, out_features, kernel_size: as in `Conv`.
        strides, padding, kernel_dilation, transpose_kernel, precision, preferred_element_type: as in
            `convlab.conv_transpose`; strides and dilations of None are 1.
        use_bias, mask, dtype, param_dtype, kernel_init, bias_init, promote_dtype, rngs, kernel_metadata, bias_metadata:
            as in `Conv`.
        padding_mode, feature_group_count, output_padding, use_consistent_padding, method: as in
            `convlab.conv_transpose`.

    Attributes:
        kernel: `nnx.Param` of shape `(*kernel_size, in_features / feature_group_count, out_features)`, or with
            `transpose_kernel` `(*kernel_size, out_features / feature_group_count, in_features)`.
        bias: `nnx.Param` of shape `(out_features,)`, or None.

    Called with `inputs`, `(*batch, *spatial, in_features)`, and optionally the `output_shape` of the spatial axes, it
    returns `(*batch, *out, out_features)`.

    Raises:
        TypeError, ValueError: as `convlab.conv_transpose`, at construction if the options alone are wrong.

    Example:
        >>> layer = ConvTranspose(3, 8, (2, 2), strides=(2, 2), rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 7, 7, 3))).shape
        (1, 14, 14, 8)
    """

    strides: Ints | None = None
    _: KW_ONLY
    padding: Padding = "SAME"  # type: ignore[assignment]  # wider than Flax's
    kernel_dilation: Ints | None = None
    transpose_kernel: bool = False
    preferred_element_type: Any = None

    def __call__(self, inputs: Array, output_shape: Any = None) -> Array:
        return self._function(*self._promoted(inputs), output_shape=output_shape, **self._options(inputs.shape[-1]))


@dataclasses.dataclass(eq=False, repr=False)
class ConvLocal(_layers.ConvLocal, Layer):
    """A convolution with one kernel and one bias per position (locally connected): `flax.linen.ConvLocal` for NNX.

    The shapes of the parameters depend on the size of the image: without `in_features` or `spatial_shape` the first
    call creates them.

    Args:
        spatial_shape: the spatial sizes of the images.
        strides, padding, input_dilation, kernel_dilation, padding_mode: as in `convlab.conv_local`.
        feature_group_count: 1.
        in_features, out_features, kernel_size and the other options: as in `Conv`.

    Attributes:
        kernel: `nnx.Param` of shape `(*out, taps * in_features, out_features)`, a row for each tap of each channel,
            channel by channel.
        bias: `nnx.Param` of shape `(*out, out_features)`, or None.

    Raises:
        TypeError, ValueError: as `convlab.conv_local`, at construction if the options alone are wrong.

    Example:
        >>> layer = ConvLocal(3, 8, (3, 3), padding="VALID", spatial_shape=(6, 5), rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 6, 5, 3))).shape, layer.kernel.shape, layer.bias.shape
        ((1, 4, 3, 8), (4, 3, 27, 8), (4, 3, 8))
    """

    strides: Ints | None = 1
    _: KW_ONLY
    spatial_shape: Sequence[int] | None = None
    padding: Padding = "SAME"
    input_dilation: Ints | None = 1
    kernel_dilation: Ints | None = 1
    feature_group_count: int = 1

    def _known_shape(self) -> tuple[int, ...] | None:
        if self.in_features is None or self.spatial_shape is None:
            return None
        return *broadcast_to_rank("spatial_shape", self.spatial_shape, len(self._size)), self.in_features

    def __call__(self, inputs: Array) -> Array:
        return self._function(*self._promoted(inputs), **self._options(inputs.shape[-1]))


@dataclasses.dataclass(eq=False, repr=False)
class DeformConv(_layers.DeformConv, Layer):
    """`convlab.deform_conv` with a kernel and a bias: called with `inputs`, `offset` and optionally `mask`.

    Another layer computes the offsets, usually a `Conv` with the same window and strides and an initial kernel of
    zeros.

    Args:
        strides, padding, kernel_dilation, feature_group_count: as in `convlab.deform_conv`, and the shapes of `offset`
            and `mask`.
        in_features, out_features, kernel_size and the other options: as in `Conv`.

    Attributes:
        kernel, bias: as in `Conv`.

    Raises:
        TypeError, ValueError: as `convlab.deform_conv`, at construction if the options alone are wrong.

    Example:
        >>> x, zeros = jnp.ones((1, 8, 8, 3)), nnx.initializers.zeros
        >>> offsets = Conv(3, 2 * 9, (3, 3), kernel_init=zeros, rngs=nnx.Rngs(0))
        >>> DeformConv(3, 8, (3, 3), rngs=nnx.Rngs(0))(x, offsets(x)).shape
        (1, 8, 8, 8)
    """

    strides: Ints | None = 1

    def __call__(self, inputs: Array, offset: Array, mask: Array | None = None) -> Array:
        x, kernel, bias = self._promoted(inputs)
        return self._function(x, offset, kernel, bias, mask=mask, **self._options(inputs.shape[-1]))


class SeparableConv(nnx.Module):
    """A depthwise separable convolution: a `DepthwiseConv` without bias, then a `Conv` of one tap.

    Args:
        multiplier: output channels of `depthwise` per input channel.
        kernel_size, strides, padding, kernel_dilation, padding_mode, padding_value: options of `depthwise`.
        out_features, use_bias, bias_init: options of `pointwise`.
        in_features and the other options: for both, as in `Conv`.

    Attributes:
        depthwise, pointwise: the two layers.

    Raises:
        TypeError, ValueError: as `convlab.conv`, at construction if the options alone are wrong.

    Example:
        >>> layer = SeparableConv(3, 8, (3, 3), strides=2, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((1, 28, 28, 3))).shape
        (1, 14, 14, 8)
    """

    def __init__(
        self,
        in_features: int | None,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: Ints | None = 1,
        *,
        multiplier: int = 1,
        padding: Padding = "SAME",
        kernel_dilation: Ints | None = 1,
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        kernel_init: Callable = lecun_normal,
        bias_init: Callable = zeros,
        promote_dtype: Callable = promote_dtype,
        rngs: nnx.Rngs,
        padding_mode: PaddingModes = "zeros",
        padding_value: Any = 0,
    ):
        both: dict[str, Any] = dict(
            dtype=dtype, param_dtype=param_dtype, precision=precision, promote_dtype=promote_dtype
        )
        both |= dict(kernel_init=kernel_init, rngs=rngs)
        window: dict[str, Any] = dict(padding=padding, padding_mode=padding_mode, padding_value=padding_value)
        window |= dict(kernel_dilation=kernel_dilation, multiplier=multiplier)
        self.depthwise = DepthwiseConv(in_features, kernel_size, strides, use_bias=False, **window, **both)
        one = 1 if is_int(kernel_size) else (1,) * len(self.depthwise.kernel_size)
        self.pointwise = Conv(
            self.depthwise.out_features, out_features, one, use_bias=use_bias, bias_init=bias_init, **both
        )

    def __call__(self, inputs: Array, *, segment_ids: Array | None = None, valid: Array | None = None) -> Array:
        return self.pointwise(self.depthwise(inputs, segment_ids=segment_ids, valid=valid))
