"""Wrong calls that mypy and pyright must reject: both report a `type: ignore` that hides no error. It is never run."""

import jax
from flax import nnx as flax_nnx

import convlab
from convlab import linen, nnx, sharding, viz


def functions(x: jax.Array, kernel: jax.Array) -> None:
    convlab.conv(x, kernel, padding=3.5)  # type: ignore
    convlab.conv(x, kernel, padding=(1.5, 2))  # type: ignore
    convlab.conv(x, kernel, padding_mode="mirror")  # type: ignore
    convlab.conv(x, kernel, padding_mode=("zeros", "mirror"))  # type: ignore
    convlab.conv(x, kernel, method="gemn")  # type: ignore
    convlab.conv(x, kernel, stride=2)  # type: ignore
    convlab.conv(x, kernel, strides=2.0)  # type: ignore
    convlab.conv(x, kernel, None, 2)  # type: ignore
    convlab.conv_transpose(x, kernel, kernel_dilation="SAME")  # type: ignore
    convlab.conv_local(x, kernel)  # type: ignore
    convlab.max_pool(x)  # type: ignore
    convlab.max_pool(x, 2, stride=2)  # type: ignore
    convlab.max_pool(x, "2")  # type: ignore
    convlab.conv(convlab.max_pool(x, 2, return_indices=True), kernel)  # type: ignore
    convlab.avg_pool(x, 2, divisor_override=0.5)  # type: ignore
    convlab.adaptive_avg_pool(x, 2.0)  # type: ignore
    convlab.spatial_pyramid_pool(x, reduce="mean")  # type: ignore
    convlab.resize(x, 4, method="lanczos")  # type: ignore
    convlab.grid_sample(x, x, padding_mode="reflect")  # type: ignore
    convlab.pad(x, 1, "mirror")  # type: ignore
    sharding.conv(x, kernel, axis_names=("rows",), padding=3.5)  # type: ignore
    viz.slide(x, kernel, padding_mode="mirror")  # type: ignore


def layers(x: jax.Array, rngs: flax_nnx.Rngs) -> None:
    nnx.Conv(3, 8, (3, 3))  # type: ignore
    nnx.Conv(3, 8, (3, 3), padding=3.5, rngs=rngs)  # type: ignore
    nnx.Conv(3, 8, (3, 3), padding_mode="mirror", rngs=rngs)  # type: ignore
    nnx.Conv(3, 8, (3, 3), method="gemn", rngs=rngs)  # type: ignore
    nnx.Conv(3, 8, (3, 3), stride=2, rngs=rngs)  # type: ignore
    nnx.DepthwiseConv(3, 8, (3, 3), multiplier=2, feature_group_count=3, rngs=rngs)  # type: ignore
    nnx.ConvTranspose(3, 8, (3, 3), output_padding=0.5, rngs=rngs)  # type: ignore
    nnx.MaxPool()  # type: ignore
    nnx.MaxPool(2, stride=2)  # type: ignore
    nnx.MaxPool(2, padding=3.5)  # type: ignore
    nnx.MaxPool(2, name="pool")  # type: ignore
    nnx.MinPool(2, return_indices="yes")  # type: ignore
    nnx.Flatten()(nnx.MaxPool(2, return_indices=True)(x))  # type: ignore
    nnx.AdaptiveMaxPool(2.5)  # type: ignore
    nnx.FractionalMaxPool(2, strides=2)  # type: ignore
    nnx.AvgPool(2, ceil_mode="yes")  # type: ignore
    nnx.Resize(4, method="lanczos")  # type: ignore
    nnx.SpatialPyramidPool(reduce="mean")  # type: ignore
    nnx.GlobalAvgPool(True)  # type: ignore
    nnx.MaxUnpool((4, 4))(x)  # type: ignore
    linen.Conv(8, (3, 3), padding=3.5)  # type: ignore
    linen.Conv(8, (3, 3), padding_mode="mirror")  # type: ignore
    linen.Conv(8, (3, 3), method="gemn")  # type: ignore
    linen.DepthwiseConv((3, 3), features=8)  # type: ignore
    linen.MaxPool(2, stride=2)  # type: ignore
    linen.MaxPool(2, rngs=rngs)  # type: ignore
    linen.Flatten()(linen.AdaptiveMaxPool(2, return_indices=True)(x))  # type: ignore
    linen.FractionalMaxPool(2, output_ratio="half")  # type: ignore
    linen.LPPool(2, norm_type="inf")  # type: ignore
    linen.Pad(1, "mirror")  # type: ignore
