"""Calls that type checkers must accept: mypy and pyright read this file in `make lint`; it is never run.

`typed_wrong.py` has the calls that they must reject.
"""

from collections.abc import Sequence
from typing import Any, assert_type

import jax
from flax import nnx as flax_nnx

import convlab
from convlab import Window, analysis, linen, models, nnx, sharding, viz, weights
from convlab.typing import Ints, Method, Padding, PaddingMode, PaddingModes, Reduce

Pair = tuple[jax.Array, jax.Array]


def convolutions(x: jax.Array, kernel: jax.Array, bias: jax.Array, method: Method) -> jax.Array:
    assert_type(convlab.conv(x, kernel), jax.Array)
    assert_type(convlab.conv(x, kernel, bias, strides=2, padding="SAME", method="gemm"), jax.Array)
    assert_type(convlab.conv(x, kernel, padding=[(1, 1), (0, 2)], padding_mode=("circular", "zeros")), jax.Array)
    assert_type(convlab.conv(x, kernel, padding=(1, 2), kernel_dilation=[1, 2], method=method), jax.Array)
    assert_type(convlab.conv_transpose(x, kernel, strides=(2, 2), output_padding=1), jax.Array)
    assert_type(convlab.conv_local(x, kernel, kernel_size=(3, 3)), jax.Array)
    assert_type(convlab.deform_conv(x, x, kernel, mask=None), jax.Array)
    assert_type(convlab.conv_general_dilated(x, kernel, (1, 1), "SAME"), jax.Array)
    assert_type(convlab.pad(x, [(1, 1), (2, 2)], "reflect"), jax.Array)
    assert_type(convlab.unfold(x, 3, strides=2), jax.Array)
    assert_type(convlab.fold(x, (8, 8)), jax.Array)
    assert_type(Window((3, 3), strides=2).out((8, 8)), tuple[int, ...])
    return convlab.conv(x, kernel, flip_kernel=True)


def options(x: jax.Array, size: Ints, padding: Padding, mode: PaddingMode, modes: PaddingModes, how: Reduce) -> None:
    assert_type(convlab.sum_pool(x, size, padding=padding), jax.Array)
    assert_type(convlab.pad(x, padding, mode), jax.Array)
    assert_type(convlab.blur_pool(x, padding_mode=modes), jax.Array)
    assert_type(convlab.spatial_pyramid_pool(x, (1, 2), reduce=how), jax.Array)


def pools(x: jax.Array, key: jax.Array, indices: bool) -> jax.Array:
    y, positions = convlab.max_pool(x, 2, return_indices=True)
    assert_type(positions, jax.Array)
    assert_type(convlab.max_pool(x, (2, 2), (2, 2), "SAME"), jax.Array)
    assert_type(convlab.min_pool(y, 2, strides=2), jax.Array)
    assert_type(convlab.max_pool(x, 2, return_indices=indices), jax.Array | Pair)
    assert_type(convlab.min_pool(x, 2, return_indices=indices), jax.Array | Pair)
    assert_type(convlab.adaptive_max_pool(y, 2, return_indices=True), Pair)
    assert_type(convlab.adaptive_max_pool(y, 2, return_indices=indices), jax.Array | Pair)
    assert_type(convlab.fractional_max_pool(y, 2, output_shape=3, key=key), jax.Array)
    assert_type(convlab.fractional_max_pool(y, 2, output_ratio=0.7, key=key, return_indices=indices), jax.Array | Pair)
    assert_type(convlab.max_unpool(y, positions, (8, 8)), jax.Array)
    assert_type(convlab.adaptive_avg_pool(x, (None, 4)), jax.Array)
    assert_type(convlab.lp_pool(x, 2, norm_type=3.0), jax.Array)
    assert_type(convlab.stochastic_pool(x, 2, key=key), jax.Array)
    assert_type(convlab.resize(x, scale=2.0, method="bilinear"), jax.Array)
    assert_type(convlab.grid_sample(x, y, method="nearest", padding_mode="border"), jax.Array)
    assert_type(convlab.pixel_shuffle(x, (2, 2)), jax.Array)
    assert_type(convlab.nms(x, y, iou_threshold=0.5, max_outputs=3), Pair)
    return convlab.avg_pool(x, 2, 2, "VALID", False)


def layers_with_indices(x: jax.Array, indices: bool, rngs: flax_nnx.Rngs) -> jax.Array:
    assert_type(nnx.MaxPool(2, 2), nnx.MaxPool[jax.Array])
    assert_type(nnx.MaxPool(2, 2, return_indices=False)(x), jax.Array)
    assert_type(nnx.MaxPool(2, ceil_mode=True, return_indices=True)(x), Pair)
    assert_type(nnx.MinPool((2, 2), padding="SAME", return_indices=indices)(x, valid=None), jax.Array | Pair)
    assert_type(nnx.AdaptiveMaxPool((None, 2))(x), jax.Array)
    assert_type(nnx.AdaptiveMaxPool(2, return_indices=True)(x), Pair)
    assert_type(nnx.FractionalMaxPool(2, output_ratio=0.7, rngs=rngs)(x), jax.Array)
    assert_type(nnx.FractionalMaxPool(2, output_shape=3, return_indices=True)(x, rngs=rngs), Pair)
    assert_type(linen.MaxPool(2, strides=2, name="pool")(x), jax.Array)
    assert_type(linen.MinPool(2, return_indices=True, name="pool")(x), Pair)
    assert_type(linen.AdaptiveMaxPool(2, return_indices=indices)(x), jax.Array | Pair)
    assert_type(linen.FractionalMaxPool(2, output_ratio=0.7, return_indices=True, name="pool")(x), Pair)
    y, positions = nnx.MaxPool(2, 2, return_indices=True)(x)
    return nnx.MaxUnpool((8, 8))(y, positions)


class Network(nnx.Conv):
    """A user's subclass."""

    def twice(self, x: jax.Array) -> jax.Array:
        return self(self(x))


class Block(flax_nnx.Module):
    def __init__(self, rngs: flax_nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, padding="SAME", padding_mode="reflect", rngs=rngs)
        self.depthwise = nnx.DepthwiseConv(8, (3, 3), multiplier=2, method="taps", rngs=rngs)
        self.separable = nnx.SeparableConv(None, 8, (3, 3), kernel_dilation=2, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 4, (2, 2), strides=(2, 2), output_padding=1, rngs=rngs)
        self.local = nnx.ConvLocal(4, 4, (3, 3), spatial_shape=(8, 8), rngs=rngs)
        self.standardized = nnx.WSConv(4, 4, (3, 3), epsilon=1e-4, weight_norm=True, rngs=rngs)
        self.causal = nnx.CausalConv(4, 4, 3, rngs=rngs)
        self.deformed = nnx.DeformConv(4, 4, (3, 3), padding=[(1, 1), (1, 1)], rngs=rngs)
        self.pool: nnx.MaxPool = nnx.MaxPool(2, strides=2, padding="SAME", ceil_mode=True)
        self.average = nnx.AvgPool((2, 2), 2, "VALID", False, divisor_override=3)
        self.head = nnx.Upsample(scale=2, method="nearest")
        self.norm = nnx.LocalResponseNorm(5, alpha=1e-3)
        self.pyramid = nnx.SpatialPyramidPool((1, 2), reduce="avg")
        self.random = nnx.StochasticPool(2, strides=2, rngs=rngs)

    def __call__(self, x: jax.Array, boxes: jax.Array) -> jax.Array:
        assert_type(self.pool.window_shape, Ints)
        assert_type(self.average(x), jax.Array)
        assert_type(self.norm(self.head(x)), jax.Array)
        assert_type(self.random(x, deterministic=True), jax.Array)
        assert_type(nnx.RoIAlign((7, 7), spatial_scale=0.5)(x, boxes), jax.Array)
        assert_type(nnx.MaxUnpool((8, 8))(x, x), jax.Array)
        assert_type(nnx.Flatten()(nnx.GlobalAvgPool(keepdims=True)(x)), jax.Array)
        y: jax.Array = self.pool(x)
        return self.pyramid(self.conv(y))


def in_linen() -> Sequence[Any]:
    layers = (
        linen.Conv(8, (3, 3), strides=2, padding=[(1, 1), (1, 1)], padding_mode="circular", name="first"),
        linen.Conv(8, [3, 3], 1, "SAME", method="winograd"),
        linen.DepthwiseConv((3, 3), multiplier=2, name="depthwise"),
        linen.SeparableConv(8, (3, 3), padding="CAUSAL"),
        linen.ConvTranspose(8, (2, 2), strides=2, use_consistent_padding=True),
        linen.ConvLocal(8, (3, 3), padding_mode="zeros"),
        linen.DeformConv(8, (3, 3), kernel_dilation=2),
        linen.MaxPool((2, 2), strides=(2, 2), name="pool"),
        linen.LPPool(2, norm_type=2.0),
        linen.Pad([(1, 1)], "constant", 2.0),
        linen.PixelShuffle(2),
        linen.FractionalMaxPool(2, output_ratio=0.5, return_indices=True),
    )
    assert_type(linen.AvgPool(2).window_shape, Ints)
    return layers


def around(x: jax.Array, kernel: jax.Array) -> None:
    assert_type(sharding.conv(x, kernel, axis_names=("rows", None), padding="SAME"), jax.Array)
    viz.slide(x, kernel, padding_mode="reflect")
    analysis.summary(lambda a: convlab.max_pool(a, 2), x)
    assert_type(analysis.influence(lambda a: convlab.max_pool(a, 2), x, (0, 0)), jax.Array)
    network = models.ResNet18(rngs=flax_nnx.Rngs(0))
    weights.from_torch(network, {})
