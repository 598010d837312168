"""Layers with a kernel, without their parameters: options, shapes, checks and calls."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._conv import conv, conv_transpose
from .._conv_local import conv_local, deform_conv
from .._masks import only_valid, read_valid
from .._operands import check_zeros
from .._patches import as_array, check_kept, pad_spatial
from .._pool_windows import accumulator
from .._window import (
    Window,
    argument_error,
    axes,
    broadcast_to_rank,
    check_not_empty,
    dilate,
    integer,
    is_int,
    is_sequence,
    read_modes,
)
from .validation import Call, Shape, rehearse, room

Array = jax.Array


class Constant:
    """An array that counts as a static attribute: it is no part of a layer's state and has no gradient."""

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
    """The names of the options that a layer keeps: all but those of the call and, since they may follow from it, the groups."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(
        p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in (*called, "feature_group_count")
    )


class Kernel:
    """What layers with a kernel share. The adapters have the attributes that Flax's layers have."""

    kernel_size: Any
    feature_group_count: Any
    mask: Any
    _made: Callable[
        [int], int
    ]  # of input channels, how many the layer makes: `out_features` in NNX, `features` in Linen
    _lone: Callable[[], bool]  # whether the kernel's size was given as an int
    _function: Callable
    _names: tuple[str, ...]

    @property
    def _size(self) -> Shape:
        check_not_empty("kernel_size", self.kernel_size)
        size = (self.kernel_size,) if is_int(self.kernel_size) else self.kernel_size
        return broadcast_to_rank("kernel_size", size, len(size) if is_sequence(size) else 1)

    def _groups(self, channels: int) -> int:
        return integer("feature_group_count", self.feature_group_count)

    def _options(self, channels: int) -> dict[str, Any]:
        return {name: self._option(name) for name in self._names} | {"feature_group_count": self._groups(channels)}

    def _option(self, name: str) -> Any:
        option = getattr(self, name)
        return 1 if option is None and name in ("strides", "input_dilation", "kernel_dilation") else option

    def _spread(self, name: str) -> Shape:
        return broadcast_to_rank(name, self._option(name), len(self._size))

    def _image(self, shape: Shape) -> Shape:
        """The part of the shape of an input on which the shapes of the parameters depend."""
        return shape[-1:]

    def _shapes(self, image: Shape) -> tuple[Shape, Shape]:
        """The shapes of kernel and bias."""
        made = self._made(image[-1])
        return (*self._size, image[-1] // self._groups(image[-1]), made), (made,)

    def _checked_shapes(self, image: Shape) -> tuple[Shape, Shape]:
        kernel, bias = self._shapes(image)
        if self.mask is not None and self.mask.shape != kernel:
            raise argument_error("mask", f"have the kernel's shape {kernel}", self.mask.shape)
        return kernel, bias

    def _between(self, image: Shape) -> tuple[Shape, ...]:
        """The shapes of what stands between image and kernel in the arguments of the function."""
        return ()

    def _check_inputs(self, x: Array) -> None:
        if self._lone() and x.ndim > 3 and not self._is_pointwise():
            hint = f"Write {self._size * (x.ndim - 2)}."
            raise argument_error("kernel_size", "be one int per axis", self._size[0], axes(x.ndim - 2), hint)

    def _is_pointwise(self) -> bool:
        """Whether a window of one tap means the same along one axis as along all: it neither skips a place nor adds one."""
        return False

    def _check_options(self, channels: int | None = None) -> None:
        """Rehearses the layer. While the number of channels is not known, it is taken to be that of the groups."""
        if self.mask is not None and not isinstance(self.mask, Constant):
            as_array("mask", self.mask)
        known = self._groups(1) if channels is None else channels
        options = self._options(known)
        size = room({**options, "kernel_size": self._size})
        images = [(*(size + more,) * len(self._size), known) for more in (0, 1)]
        shapes = [((1, *image), *self._between(image), *self._shapes(image)) for image in images]
        rehearse([Call(self._function, of, options) for of in shapes])

    def _effective(self, kernel: Array) -> Array:
        if self.mask is None:
            return kernel
        mask = jnp.asarray(self.mask)
        check_kept("mask", mask, kernel.dtype, "a kernel")
        return kernel * mask.astype(kernel.dtype)


class Conv(Kernel):
    """The options of a convolution, by name as `conv` takes them."""

    _function = staticmethod(conv)
    _names = options_of(conv, "mask", "segment_ids", "valid", "out_sharding")
    padding: Any

    def _is_pointwise(self) -> bool:
        steps = (*self._size, *self._spread("strides"), *self._spread("input_dilation"))
        return set(steps) == {1} and Window(self._size, 1, self.padding).declared((1,)) == ((0, 0),)

    def _convolve(
        self,
        hook: Callable | None,
        x: Array,
        kernel: Array,
        bias: Any,
        more: dict,
        segment_ids: Any = None,
        valid: Any = None,
        **changed: Any,
    ) -> Array:
        """`conv`, or somebody's function in place of `lax.conv_general_dilated`; `more` are arguments of either."""
        options = self._options(x.shape[-1]) | changed
        if hook is None:
            return conv(x, kernel, bias, segment_ids=segment_ids, valid=valid, **options, **more)
        if segment_ids is not None:
            shape = as_array("segment_ids", segment_ids).shape
            raise argument_error("segment_ids", "be None", shape, "a `conv_general_dilated` hook")
        return by_hook(hook, self._only_valid(x, valid), kernel, bias, options, more)

    def _only_valid(self, x: Array, valid: Any) -> Array:
        if valid is None:
            return x
        window = Window(self._size, self._spread("strides"), self.padding)
        modes = read_modes(self._option("padding_mode"), window.rank, window.padding)
        check_zeros(window, modes, self.padding, self._option("padding_mode"), "valid positions")
        return only_valid(x, read_valid(valid, x))


def by_hook(hook: Callable, x: Array, kernel: Array, bias: Any, options: dict, more: dict) -> Array:
    """`conv` as Flax's layers compute it: with one batch axis, and borders that lax does not know laid around the image."""
    if options["method"] != "auto":
        raise argument_error("method", "be 'auto'", options["method"], "a `conv_general_dilated` hook")
    rank, padding = kernel.ndim - 2, options["padding"]
    strides, holes, dilation = (
        broadcast_to_rank(n, options[n], rank) for n in ("strides", "input_dilation", "kernel_dilation")
    )
    window = Window(kernel.shape[:rank], strides, padding, dilation)
    batch, modes = x.shape[: -1 - rank], read_modes(options["padding_mode"], rank, window.padding)
    x = x.reshape(math.prod(batch), *x.shape[len(batch) :]) if len(batch) != 1 else x
    pads = window.pads(dilate(x.shape[1:-1], holes))
    whole = not set(holes) - {1}  # lax takes names of paddings, and Flax pads before it, for images without holes only
    given: Any = window.padding if whole and window.padding in ("SAME", "VALID", "SAME_LOWER") else list(pads)
    if set(modes) - {"zeros"} or (window.padding == "CAUSAL" and whole):
        x, given = pad_spatial(x, pads, modes, options["padding_value"], padding), "VALID"
    if options["preferred_element_type"] is not None:
        more = more | {"preferred_element_type": options["preferred_element_type"]}
    y = hook(
        x,
        jnp.flip(kernel, range(rank)) if options["flip_kernel"] else kernel,
        strides,
        given,
        lhs_dilation=holes,
        rhs_dilation=dilation,
        dimension_numbers=channels_last(x.ndim),
        feature_group_count=options["feature_group_count"],
        precision=options["precision"],
        **more,
    )
    y = y if bias is None else y + jnp.expand_dims(bias, range(y.ndim - 1))
    return y.reshape(*batch, *y.shape[1:]) if len(batch) != 1 else y


def channels_last(ndim: int) -> lax.ConvDimensionNumbers:
    image, kernel = (0, ndim - 1, *range(1, ndim - 1)), (ndim - 1, ndim - 2, *range(ndim - 2))
    return lax.ConvDimensionNumbers(image, kernel, image)


def channel_norms(kernel: Array) -> Array:
    """The Euclidean length of the part of a kernel that makes each output channel."""
    wide = kernel.astype(accumulator(kernel))
    return jnp.sqrt((wide * wide).sum(range(kernel.ndim - 1))).astype(kernel.dtype)


def with_lengths(kernel: Array, scale: Array) -> Array:
    """The kernel with the length `scale` for each output channel; where it is 0 it stays 0."""
    wide = kernel.astype(accumulator(kernel))
    squares = (wide * wide).sum(range(kernel.ndim - 1))
    factor = scale.astype(wide.dtype) * lax.rsqrt(jnp.where(squares == 0, 1, squares))
    return (wide * jnp.expand_dims(factor, range(wide.ndim - 1))).astype(kernel.dtype)


class DepthwiseConv(Conv):
    """A convolution with a group for every channel of its input."""

    multiplier: Any

    def _groups(self, channels: int) -> int:
        return channels

    def _made(self, channels: int) -> int:
        return channels * integer("multiplier", self.multiplier)


class WSConv(Conv):
    """A convolution whose kernel is standardised, for each output channel, before it is used."""

    epsilon: float

    def _check_options(self, channels: int | None = None) -> None:
        if not isinstance(self.epsilon, numbers.Real) or isinstance(self.epsilon, bool):
            raise argument_error("epsilon", "be a number > 0", self.epsilon, kind=TypeError)
        if not self.epsilon > 0:
            raise argument_error("epsilon", "be a number > 0", self.epsilon)
        super()._check_options(channels)

    def _effective(self, kernel: Array) -> Array:
        over, wide = range(kernel.ndim - 1), kernel.astype(accumulator(kernel))
        mean, variance = wide.mean(over, keepdims=True), wide.var(over, keepdims=True)
        return super()._effective(((wide - mean) * lax.rsqrt(variance + self.epsilon)).astype(kernel.dtype))


class ConvTranspose(Kernel):
    """The options of a transposed convolution, by name as `conv_transpose` takes them."""

    _function = staticmethod(conv_transpose)
    _names = options_of(conv_transpose, "output_shape")
    transpose_kernel: Any
    padding: Any
    output_padding: Any

    def _is_pointwise(self) -> bool:
        steps = (*self._size, *self._spread("strides"))
        return (
            set(steps) == {1}
            and self.output_padding in (0, (0,), [0])
            and Window(self._size, 1, self.padding).declared((1,)) == ((0, 0),)
        )

    def _shapes(self, image: Shape) -> tuple[Shape, Shape]:
        groups, made = self._groups(image[-1]), self._made(image[-1])
        if self.transpose_kernel:
            return (*self._size, made // groups, image[-1]), (made,)
        return (*self._size, image[-1] // groups, made), (made,)


class ConvLocal(Kernel):
    """The options of a convolution with a kernel for every place, by name as `conv_local` takes them."""

    _function = staticmethod(conv_local)
    _names = options_of(conv_local, "kernel_size")
    padding: Any

    def _options(self, channels: int) -> dict[str, Any]:
        if self._groups(channels) != 1:
            raise argument_error("feature_group_count", "be 1", self.feature_group_count, "a kernel for every place")
        return {name: self._option(name) for name in self._names} | {"kernel_size": self._size}

    def _image(self, shape: Shape) -> Shape:
        return shape[-1 - len(self._size) :]

    def _shapes(self, image: Shape) -> tuple[Shape, Shape]:
        window = Window(self._size, self._spread("strides"), self.padding, self._spread("kernel_dilation"))
        out = window.checked_output_shape("kernel_size", dilate(image[:-1], self._spread("input_dilation")))
        made = self._made(image[-1])
        return (*out, math.prod(self._size) * image[-1], made), (*out, made)


class DeformConv(Kernel):
    """The options of a deformable convolution, by name as `deform_conv` takes them."""

    _function = staticmethod(deform_conv)
    _names = options_of(deform_conv, "mask")
    mask = None
    padding: Any

    def _between(self, image: Shape) -> tuple[Shape, ...]:
        window = Window(self._size, self._spread("strides"), self.padding, self._spread("kernel_dilation"))
        return ((1, *window.out(image[:-1]), math.prod(self._size) * window.rank),)
