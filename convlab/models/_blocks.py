"""Building blocks of the networks: chains under PyTorch's names, normalised convolutions, squeeze and excitation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import conv as convolution
from .. import nnx as cn

Array = jax.Array
Layer = Callable[..., Any]

batch_norm = partial(cn.BatchNorm, momentum=0.9, epsilon=1e-5)


@jax.custom_jvp
def gelu(x: Array) -> Array:
    """Compute the Gaussian error linear unit, `x` times the normal distribution's probability of less than `x`, by the
    error function. Hendrycks and Gimpel, arXiv 1606.08415.

    `jax.nn.gelu(x, approximate=False)` is equal up to rounding, and slower on the CPU: it calls the complementary error
    function, whose branches XLA computes in separate loops, and its derivative keeps more arrays than `x`.
    """
    return x * _normal_probability(x)


def _normal_probability(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    @partial(jax.checkpoint, prevent_cse=False)  # the derivative keeps only `x`
    def tangent(x: Array, dx: Array) -> Array:
        density = jnp.exp(-0.5 * jnp.square(x)) * (2 * jnp.pi) ** -0.5
        return dx * (_normal_probability(x) + x * density)

    return gelu(*primals), tangent(*primals, *tangents)


class Sequential(nnx.Module):
    """Layers that run one after another, named as in `torch.nn.Sequential`: "0", "1", ..., or by keyword.

    Args:
        layers: modules or functions of an array, or None for a module of PyTorch without a counterpart here.
        named: further layers by name, after `layers`.

    Example:
        >>> chain = Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.relu)
        >>> chain(jnp.ones((2, 3))).shape, len(chain), chain[1] is nnx.relu
        ((2, 4), 2, True)
    """

    def __init__(self, *layers: Layer | None, **named: Layer | None):
        children = {str(position): layer for position, layer in enumerate(layers)} | named
        self.names = tuple(children)
        for name, layer in children.items():
            setattr(self, name, layer)

    def __call__(self, x: Any) -> Any:
        for layer in self:
            x = layer(x)
        return x

    def outputs(self, x: Array, names: Sequence[str]) -> list[Array]:
        """Return the results of the layers `names`, in their order; layers after the last of them are not computed."""
        found = {}
        for name in self.names[: max(map(self.names.index, names)) + 1]:
            layer = getattr(self, name)
            x = x if layer is None else layer(x)
            found[name] = x
        return [found[name] for name in names]

    def __iter__(self) -> Iterator[Layer]:
        return (layer for name in self.names if (layer := getattr(self, name)) is not None)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> Any:
        return getattr(self, self.names[position])


def conv(
    in_features: int,
    out_features: int,
    kernel_size: int | tuple[int, int] = 3,
    strides: int = 1,
    *,
    groups: int = 1,
    dilation: int = 1,
    padding: Any = None,
    use_bias: bool = False,
    rngs: nnx.Rngs,
) -> cn.Conv:
    """Create a convolution of images. `padding=None` pads by `(kernel_size - 1) // 2 * dilation`, as networks in
    PyTorch do."""
    window = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    padding = tuple((k - 1) // 2 * dilation for k in window) if padding is None else padding
    options: dict[str, Any] = dict(
        feature_group_count=groups, kernel_dilation=dilation, padding=padding, use_bias=use_bias
    )
    return cn.Conv(in_features, out_features, window, strides, rngs=rngs, **options)


def dense(in_features: int, out_features: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """Create a dense layer for every position of an image, computed as a convolution with a window of one tap: the
    formulations of convolutions are faster on the CPU than XLA's matrix product."""
    return nnx.Linear(in_features, out_features, dot_general=_pointwise, rngs=rngs)


def _pointwise(x: Array, kernel: Array, axes: Any, precision: Any = None, **options: Any) -> Array:
    del axes  # the last of `x` and the first of `kernel`
    return convolution(x, kernel.reshape(*(1,) * (x.ndim - 2), *kernel.shape), precision=precision, **options)


class ConvNormActivation(Sequential):
    """A convolution, its normalisation and an activation: "0", "1" and "2" of torchvision's `Conv2dNormActivation`.

    Args:
        in_features, out_features, kernel_size, strides, groups, dilation, padding: options of the convolution, as in
            `conv`.
        norm: a function that makes the normalisation, called as `norm(out_features, rngs=rngs)`.
        activation: a function, or None for no activation.
        use_bias: whether the convolution has a bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int] = 3,
        strides: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        padding: Any = None,
        norm: Layer = batch_norm,
        activation: Callable | None = nnx.relu,
        use_bias: bool = False,
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = dict(groups=groups, dilation=dilation, padding=padding, use_bias=use_bias, rngs=rngs)
        layers: list[Any] = [
            conv(in_features, out_features, kernel_size, strides, **options),
            norm(out_features, rngs=rngs),
        ]
        super().__init__(*layers, *([] if activation is None else [activation]))


class BasicConv(nnx.Module):
    """A convolution `conv`, its normalisation `bn` with epsilon 1e-3, and a ReLU: the unit of both Inception
    networks."""

    def __init__(
        self, in_features: int, out_features: int, kernel_size: Any, strides: int = 1, *, padding: Any = 0, rngs: Any
    ):
        self.conv = conv(in_features, out_features, kernel_size, strides, padding=padding, rngs=rngs)
        self.bn = batch_norm(out_features, epsilon=1e-3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.bn(self.conv(x)))


class SqueezeExcitation(nnx.Module):
    """Squeeze and excitation: scale each channel by a function of the means of all channels. Hu et al., arXiv
    1709.01507.

    Args:
        features: number of channels of the input and of the result.
        squeezed: number of channels between the two convolutions.
        activation, gate: the functions after the first and the second.
    """

    def __init__(
        self,
        features: int,
        squeezed: int,
        *,
        activation: Callable = nnx.relu,
        gate: Callable = nnx.sigmoid,
        rngs: nnx.Rngs,
    ):
        self.avgpool = cn.GlobalAvgPool(keepdims=True)
        self.fc1 = conv(features, squeezed, 1, use_bias=True, rngs=rngs)
        self.fc2 = conv(squeezed, features, 1, use_bias=True, rngs=rngs)
        self.activation, self.gate = activation, gate

    def __call__(self, x: Array) -> Array:
        return x * self.gate(self.fc2(self.activation(self.fc1(self.avgpool(x)))))


class LocalResponseNorm(nnx.Module):
    """Divides each channel by `(k + alpha * mean of the squares of `size` neighbouring channels) ** beta`.

    The mean is a pool along the channels: they become a spatial axis, and every position of the image a batch axis.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        self.mean = cn.AvgPool((size,), padding="SAME")
        self.alpha, self.beta, self.k = alpha, beta, k

    def __call__(self, x: Array) -> Array:
        return x * (self.k + self.alpha * self.mean(x[..., None] ** 2)[..., 0]) ** -self.beta


def stochastic_depth(rate: float, *, rngs: nnx.Rngs) -> nnx.Dropout:
    """Create a layer that zeroes a branch for whole images of a batch, in training. Huang et al., arXiv 1603.09382."""
    return nnx.Dropout(rate, broadcast_dims=(1, 2, 3), rngs=rngs)


def multiple_of_8(channels: float) -> int:
    """Return the multiple of 8 nearest to `channels`, at least 8 and not below 90 % of it, as the MobileNets round
    widths."""
    return divisible(channels, 8)


def divisible(channels: float, divisor: int) -> int:
    """Return the multiple of `divisor` nearest to `channels`, at least `divisor` and not below 90 % of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def per_channel(values: Array, x: Array) -> Array:
    """Return `values`, one for each channel, with the rank and the dtype of `x`."""
    return jnp.asarray(values, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def imagenet_input(x: Array) -> Array:
    """Convert images normalised with ImageNet's means and deviations to the range -1 to 1 that Inception was trained
    on."""
    deviation, mean = jnp.array([0.229, 0.224, 0.225]), jnp.array([0.485, 0.456, 0.406])
    return x * per_channel(deviation / 0.5, x) + per_channel((mean - 0.5) / 0.5, x)


def upsampled(x: Array, image: Array) -> Array:
    """Resize `x` bilinearly to the size of `image`."""
    return jax.image.resize(x, (x.shape[0], *image.shape[1:-1], x.shape[-1]), "linear", antialias=False)
