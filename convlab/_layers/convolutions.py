"""Layers with a kernel, without their parameters: options, shapes, checks and calls."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._arguments import (
    argument_error,
    as_array,
    broadcast_to_rank,
    check_castable,
    check_not_empty,
    describe_axes,
    is_int,
    is_sequence,
    read_int,
    read_modes,
)
from .._conv import conv, conv_transpose
from .._conv_local import conv_local, deform_conv
from .._dtypes import accumulation_dtype
from .._masks import only_valid, read_valid
from .._padding import check_zero_padding, pad_spatial
from .._window import Window, dilate
from ..typing import Ints, Method, Padding, PaddingModes
from .validation import Call, Shape, fitting_size, validate_options

Array = jax.Array


class Constant:
    """An array that a module stores as a static attribute: it is no part of the state and has no gradient."""

    def __init__(self, array: Any):
        self.array = np.asarray(array)
        self.shape, self.dtype, self.ndim = self.array.shape, self.array.dtype, self.array.ndim
        self._hash = hash((self.shape, self.dtype, self.array.tobytes()))

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        return isinstance(other, Constant) and self.dtype == other.dtype and np.array_equal(self.array, other.array)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)

    def __jax_array__(self):
        return jnp.asarray(self.array)

    def __repr__(self):
        return f"Constant({self.dtype}{list(self.shape)})"


def options_of(function: Callable, *called: str) -> tuple[str, ...]:
    """Return the names of the options that a layer stores: the keyword-only parameters of `function` except those of
    the call.

    `feature_group_count` is left out too, because some layers derive it."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(
        p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in (*called, "feature_group_count")
    )


class Kernel:
    """Base of the layers with a kernel. The NNX and Linen classes define the attributes, as Flax's layers do."""

    kernel_size: Any
    padding: Any
    input_dilation: Any
    feature_group_count: Any
    transpose_kernel: Any
    mask: Any
    # output channels for a number of input channels: `out_features` in NNX, `features` in Linen
    _out_channels: Callable[[int], int]
    _has_scalar_size: Callable[[], bool]  # whether `kernel_size` is an int
    _function: Callable
    _names: tuple[str, ...]

    @property
    def _size(self) -> Shape:
        check_not_empty("kernel_size", self.kernel_size)
        size = (self.kernel_size,) if is_int(self.kernel_size) else self.kernel_size
        return broadcast_to_rank("kernel_size", size, len(size) if is_sequence(size) else 1)

    def _groups(self, channels: int) -> int:
        return read_int("feature_group_count", self.feature_group_count)

    def _options(self, channels: int) -> dict[str, Any]:
        return {name: self._option(name) for name in self._names} | {"feature_group_count": self._groups(channels)}

    def _option(self, name: str) -> Any:
        option = getattr(self, name)
        return 1 if option is None and name in ("strides", "input_dilation", "kernel_dilation") else option

    def _broadcast(self, name: str) -> Shape:
        return broadcast_to_rank(name, self._option(name), len(self._size))

    def _image(self, shape: Shape) -> Shape:
        """Return the axes of an input's shape that the shapes of the parameters depend on."""
        return shape[-1:]

    def _shapes(self, image: Shape) -> tuple[Shape, Shape]:
        """Return the shapes of kernel and bias."""
        out_channels = self._out_channels(image[-1])
        return (*self._size, image[-1] // self._groups(image[-1]), out_channels), (out_channels,)

    def _checked_shapes(self, image: Shape) -> tuple[Shape, Shape]:
        kernel, bias = self._shapes(image)
        if self.mask is not None and self.mask.shape != kernel:
            raise argument_error("mask", f"have the kernel's shape {kernel}", self.mask.shape)
        return kernel, bias

    def _inner_shapes(self, image: Shape) -> tuple[Shape, ...]:
        """Return the shapes of the function's array arguments between the image and the kernel."""
        return ()

    def _check_inputs(self, x: Array) -> None:
        if self._has_scalar_size() and x.ndim > 3 and not self._is_pointwise():
            hint = f"Write {self._size * (x.ndim - 2)}."
            raise argument_error("kernel_size", "be one int per axis", self._size[0], describe_axes(x.ndim - 2), hint)

    def _is_pointwise(self) -> bool:
        """Return whether the layer has one tap, strides of 1 and no padding, so that the number of axes does not
        matter."""
        return False

    def _check_options(self, channels: int | None = None) -> None:
        """Check the options before an input is known. Unknown channel counts are taken as `feature_group_count`."""
        if self.mask is not None and not isinstance(self.mask, Constant):
            as_array("mask", self.mask)
        known = self._groups(1) if channels is None else channels
        options = self._options(known)
        size = fitting_size({**options, "kernel_size": self._size})
        images = [(*(size + more,) * len(self._size), known) for more in (0, 1)]
        shapes = [((1, *image), *self._inner_shapes(image), *self._shapes(image)) for image in images]
        validate_options([Call(self._function, of, options) for of in shapes])

    def _effective_kernel(self, kernel: Array) -> Array:
        if self.mask is None:
            return kernel
        mask = jnp.asarray(self.mask)
        check_castable("mask", mask, kernel.dtype, "a kernel")
        return kernel * mask.astype(kernel.dtype)


@dataclasses.dataclass(eq=False, repr=False)
class Conv(Kernel):
    """A convolution and the options that Flax's layers lack."""

    _function = staticmethod(conv)
    _names = options_of(conv, "mask", "segment_ids", "valid", "out_sharding")
    _: KW_ONLY
    preferred_element_type: Any = None
    padding_mode: PaddingModes = "zeros"
    padding_value: Any = 0
    flip_kernel: bool = False
    method: Method = "auto"
    weight_norm: bool = False

    def _is_pointwise(self) -> bool:
        steps = (*self._size, *self._broadcast("strides"), *self._broadcast("input_dilation"))
        return set(steps) == {1} and Window(self._size, 1, self.padding).declared((1,)) == ((0, 0),)

    def _convolve(
        self,
        hook: Callable | None,
        x: Array,
        kernel: Array,
        bias: Any,
        hook_options: dict,
        *,
        segment_ids: Any = None,
        valid: Any = None,
        **changed: Any,
    ) -> Array:
        """Call `conv`, or `hook` in place of `lax.conv_general_dilated`; both take the arguments `hook_options`."""
        options = self._options(x.shape[-1]) | changed
        if hook is None and not isinstance(kernel, (jax.Array, np.ndarray)):
            hook = lax.conv_general_dilated  # quantisers replace this function of lax and pass kernels of their own
        if hook is None:
            return conv(x, kernel, bias, segment_ids=segment_ids, valid=valid, **options, **hook_options)
        if segment_ids is not None:
            shape = as_array("segment_ids", segment_ids).shape
            raise argument_error("segment_ids", "be None", shape, "a `conv_general_dilated` hook")
        return conv_with_hook(hook, self._only_valid(x, valid), kernel, bias, options, hook_options)

    def _only_valid(self, x: Array, valid: Any) -> Array:
        if valid is None:
            return x
        window = Window(self._size, self._broadcast("strides"), self.padding)
        modes = read_modes(self._option("padding_mode"), window.rank, window.padding)
        check_zero_padding(window, modes, self.padding, self._option("padding_mode"), "valid positions")
        return only_valid(x, read_valid(valid, x))


def conv_with_hook(hook: Callable, x: Array, kernel: Array, bias: Any, options: dict, hook_options: dict) -> Array:
    """Compute `conv` with a hook, as Flax's layers do: merge the batch axes, and pad first where lax has no such
    padding."""
    if options["method"] != "auto":
        raise argument_error("method", "be 'auto'", options["method"], "a `conv_general_dilated` hook")
    rank, padding = kernel.ndim - 2, options["padding"]
    strides, input_dilation, dilation = (
        broadcast_to_rank(n, options[n], rank) for n in ("strides", "input_dilation", "kernel_dilation")
    )
    window = Window(kernel.shape[:rank], strides, padding, dilation)
    batch, modes = x.shape[: -1 - rank], read_modes(options["padding_mode"], rank, window.padding)
    x = x.reshape(math.prod(batch), *x.shape[len(batch) :]) if len(batch) != 1 else x
    pads = window.pads(dilate(x.shape[1:-1], input_dilation))
    undilated = set(input_dilation) <= {1}  # lax takes names of paddings for undilated images only
    given: Any = window.padding if undilated and window.padding in ("SAME", "VALID", "SAME_LOWER") else list(pads)
    if set(modes) - {"zeros"} or (window.padding == "CAUSAL" and undilated):
        x, given = pad_spatial(x, pads, modes, options["padding_value"], padding), "VALID"
    if options["preferred_element_type"] is not None:
        hook_options = hook_options | {"preferred_element_type": options["preferred_element_type"]}
    y = hook(
        x,
        jnp.flip(kernel, range(rank)) if options["flip_kernel"] else kernel,
        strides,
        given,
        lhs_dilation=input_dilation,
        rhs_dilation=dilation,
        dimension_numbers=channels_last(x.ndim),
        feature_group_count=options["feature_group_count"],
        precision=options["precision"],
        **hook_options,
    )
    y = y if bias is None else y + jnp.expand_dims(bias, range(y.ndim - 1))
    return y.reshape(*batch, *y.shape[1:]) if len(batch) != 1 else y


def channels_last(ndim: int) -> lax.ConvDimensionNumbers:
    image, kernel = (0, ndim - 1, *range(1, ndim - 1)), (ndim - 1, ndim - 2, *range(ndim - 2))
    return lax.ConvDimensionNumbers(image, kernel, image)


def channel_norms(kernel: Array) -> Array:
    """Return the Euclidean norm of the kernel of each output channel."""
    wide = kernel.astype(accumulation_dtype(kernel))
    return jnp.sqrt((wide * wide).sum(range(kernel.ndim - 1))).astype(kernel.dtype)


def scale_to_norms(kernel: Array, scale: Array) -> Array:
    """Scale the kernel of each output channel to the norm `scale`; a kernel of zeros stays zero."""
    wide = kernel.astype(accumulation_dtype(kernel))
    squares = (wide * wide).sum(range(kernel.ndim - 1))
    factor = scale.astype(wide.dtype) * lax.rsqrt(jnp.where(squares == 0, 1, squares))
    return (wide * jnp.expand_dims(factor, range(wide.ndim - 1))).astype(kernel.dtype)


@dataclasses.dataclass(eq=False, repr=False)
class DepthwiseConv(Conv):
    """A convolution with one group per input channel."""

    _: KW_ONLY
    multiplier: int = 1

    def _groups(self, channels: int) -> int:
        return channels

    def _out_channels(self, channels: int) -> int:
        return channels * read_int("multiplier", self.multiplier)


@dataclasses.dataclass(eq=False, repr=False)
class WSConv(Conv):
    """A convolution that standardizes the kernel of each output channel before using it."""

    _: KW_ONLY
    epsilon: float = 1e-5

    def _check_options(self, channels: int | None = None) -> None:
        if not isinstance(self.epsilon, numbers.Real) or isinstance(self.epsilon, bool):
            raise argument_error("epsilon", "be a number > 0", self.epsilon, kind=TypeError)
        if not self.epsilon > 0:
            raise argument_error("epsilon", "be a number > 0", self.epsilon)
        super()._check_options(channels)

    def _effective_kernel(self, kernel: Array) -> Array:
        over, wide = range(kernel.ndim - 1), kernel.astype(accumulation_dtype(kernel))
        mean, variance = wide.mean(over, keepdims=True), wide.var(over, keepdims=True)
        return super()._effective_kernel(((wide - mean) * lax.rsqrt(variance + self.epsilon)).astype(kernel.dtype))


@dataclasses.dataclass(eq=False, repr=False)
class ConvTranspose(Kernel):
    """A transposed convolution and the options that Flax's layers lack."""

    _function = staticmethod(conv_transpose)
    _names = options_of(conv_transpose, "output_shape")
    _: KW_ONLY
    padding_mode: PaddingModes = "zeros"
    feature_group_count: int = 1
    output_padding: Ints = 0
    use_consistent_padding: bool = False
    method: Method = "auto"

    def _is_pointwise(self) -> bool:
        steps = (*self._size, *self._broadcast("strides"))
        return (
            set(steps) == {1}
            and self.output_padding in (0, (0,), [0])
            and Window(self._size, 1, self.padding).declared((1,)) == ((0, 0),)
        )

    def _shapes(self, image: Shape) -> tuple[Shape, Shape]:
        groups, out_channels = self._groups(image[-1]), self._out_channels(image[-1])
        if self.transpose_kernel:
            return (*self._size, out_channels // groups, image[-1]), (out_channels,)
        return (*self._size, image[-1] // groups, out_channels), (out_channels,)


@dataclasses.dataclass(eq=False, repr=False)
class ConvLocal(Kernel):
    """A convolution with one kernel per position and the option that Flax's layer lacks."""

    _function = staticmethod(conv_local)
    _names = options_of(conv_local, "kernel_size")
    _: KW_ONLY
    padding_mode: PaddingModes = "zeros"

    def _options(self, channels: int) -> dict[str, Any]:
        if self._groups(channels) != 1:
            raise argument_error("feature_group_count", "be 1", self.feature_group_count, "a kernel for every place")
        return {name: self._option(name) for name in self._names} | {"kernel_size": self._size}

    def _image(self, shape: Shape) -> Shape:
        return shape[-1 - len(self._size) :]

    def _shapes(self, image: Shape) -> tuple[Shape, Shape]:
        window = Window(self._size, self._broadcast("strides"), self.padding, self._broadcast("kernel_dilation"))
        out = window.checked_output_shape("kernel_size", dilate(image[:-1], self._broadcast("input_dilation")))
        out_channels = self._out_channels(image[-1])
        return (*out, math.prod(self._size) * image[-1], out_channels), (*out, out_channels)


@dataclasses.dataclass(eq=False, repr=False)
class DeformConv(Kernel):
    """A deformable convolution and its options."""

    _function = staticmethod(deform_conv)
    _names = options_of(deform_conv, "mask")
    mask = None
    _: KW_ONLY
    padding: Padding = "SAME"
    kernel_dilation: Ints | None = 1
    feature_group_count: int = 1

    def _inner_shapes(self, image: Shape) -> tuple[Shape, ...]:
        window = Window(self._size, self._broadcast("strides"), self.padding, self._broadcast("kernel_dilation"))
        return ((1, *window.out(image[:-1]), math.prod(self._size) * window.rank),)
