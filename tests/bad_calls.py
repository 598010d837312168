"""Calls that must raise an error, with the argument that the message must name and the value that it must show.

A row is `bad(function, error, argument, shapes or arrays, **options)`; the value shown is the option as passed, unless
`shown` gives another. `argument` may be several names, separated by |, if the rule involves all of them.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class BadCall:
    function: str
    error: type
    argument: str
    arrays: tuple
    options: dict
    shown: str

    def __str__(self):
        given = ", ".join(
            f"{k}={getattr(v, '__name__', v)!r}" for k, v in self.options.items() if not isinstance(v, np.ndarray)
        )
        shapes = ", ".join(str(getattr(a, "shape", a)) for a in self.arrays)
        return f"{self.function}({shapes}, {given})".replace("\n", "")


def bad(function, error, argument, *arrays, shown=None, **options):
    arrays = tuple(np.ones(a, np.float32) if isinstance(a, tuple) else a for a in arrays)
    first = argument.split("|")[0]
    shown = repr(options[first]) if shown is None and first in options else shown
    return BadCall(function, error, argument, arrays, options, shown)


V, T = ValueError, TypeError
x, k = (2, 6, 5, 3), (3, 3, 3, 4)
line = (2, 7, 3)

CONV = [
    bad("conv", V, "kernel|x|feature_group_count", (2, 6, 5, 4), k),
    bad("conv", V, "x|kernel", (6, 5), k),
    bad("conv", V, "kernel", x, (3,)),
    bad("conv", V, "kernel", x, (7, 3, 3, 4), padding="VALID"),
    bad("conv", V, "kernel", x, (3, 3, 3, 4), padding=-2),
    bad("conv", V, "kernel", x, (3, 3, 3, 0)),
    bad("conv", V, "x|kernel", (2, 6, 5, 0), (3, 3, 0, 4)),
    bad("conv", V, "x", (2, 0, 5, 3), k),
    bad("conv", V, "x", (2, 0, 5, 3), k, padding=2),
    bad("conv", V, "bias", x, k, (3,)),
    bad("conv", V, "bias", x, k, (1, 4)),
    bad("conv", V, "mask", x, k, mask=np.ones((3, 3, 3, 1)), shown="(3, 3, 3, 1)"),
    bad("conv", T, "x", "image", np.ones(k)),
    bad("conv", V, "strides", x, k, strides=0),
    bad("conv", V, "strides", x, k, strides=(1, -1)),
    bad("conv", V, "strides", x, k, strides=(1, 1, 1)),
    bad("conv", T, "strides", x, k, strides=1.5),
    bad("conv", T, "strides", x, k, strides="2"),
    bad("conv", T, "strides", x, k, strides=None),
    bad("conv", T, "strides", x, k, strides=(1, None)),
    bad("conv", V, "kernel_dilation", x, k, kernel_dilation=0),
    bad("conv", V, "kernel_dilation", x, k, kernel_dilation=(2,)),
    bad("conv", V, "input_dilation", x, k, input_dilation=[1, 0]),
    bad("conv", T, "input_dilation", x, k, input_dilation=2.0),
    bad("conv", V, "padding", x, k, padding="SMAE"),
    bad("conv", V, "padding", x, k, padding=(1, 1, 1)),
    bad("conv", V, "padding", x, k, padding=((1, 1),)),
    bad("conv", V, "padding", x, k, padding=((1, 1, 1), (0, 0))),
    bad("conv", V, "padding", line, (3, 3, 2), padding=(1, 1)),
    bad("conv", T, "padding", x, k, padding=None),
    bad("conv", T, "padding", x, k, padding=1.0),
    bad("conv", T, "padding", x, k, padding=("SAME", "VALID")),
    bad("conv", V, "padding", x, k, padding=7, padding_mode="circular"),
    bad("conv", V, "padding_value", x, k, padding_value=1.0),
    bad("conv", T, "padding_value", x, k, padding_mode="constant", padding_value="1"),
    bad("conv", T, "padding_value", x, k, padding_mode="constant", padding_value=[1.0]),
    bad("conv", T, "padding_value", x, k, padding_mode="constant", padding_value=1j),
    bad("conv", T, "x", np.ones(x, bool), np.ones(k, bool), shown="'bool'"),
    bad("conv", V, "padding", x, k, padding=((0, 0), (5, 0)), padding_mode="reflect"),
    bad("conv", V, "padding", (2, 2, 1, 3), k, padding="REFLECT"),
    bad("conv", V, "padding_mode", x, k, padding_mode="mirror"),
    bad("conv", V, "padding_mode", x, k, padding_mode=("reflect",) * 3),
    bad("conv", T, "padding_mode", x, k, padding_mode=0),
    bad("conv", V, "padding_mode|input_dilation", x, k, input_dilation=2, padding_mode="reflect"),
    bad("conv", V, "padding|input_dilation", x, k, input_dilation=2, padding="CIRCULAR"),
    bad("conv", V, "feature_group_count", x, k, feature_group_count=2),
    bad("conv", V, "feature_group_count", x, (3, 3, 1, 4), feature_group_count=3),
    bad("conv", V, "feature_group_count", x, k, feature_group_count=0),
    bad("conv", T, "feature_group_count", x, k, feature_group_count=1.0),
    bad("conv", V, "method", x, k, method="fast"),
    bad("conv", V, "method", x, k, method="winograd", strides=5),
    *(
        bad("conv", error, "segment_ids", line, (3, 3, 2), segment_ids=ids, shown=shown)
        for error, ids, shown in (
            (T, [1, 2], "[1, 2]"),
            (T, np.ones((2, 7)), "'float32'"),
            (V, np.ones((1, 7), int), "(1, 7)"),
        )
    ),
    bad("conv", V, "segment_ids", x, k, segment_ids=np.ones((2, 6, 5), int), shown="(2, 6, 5)"),
    *(
        bad("conv", V, argument, line, (3, 3, 2), segment_ids=np.ones((2, 7), int), **{argument: value})
        for argument, value in (
            ("padding", "FULL"),
            ("padding", 3),
            ("padding", -1),
            ("padding", "CIRCULAR"),
            ("padding_mode", "reflect"),
            ("input_dilation", 2),
            ("method", "gemm"),
        )
    ),
    bad("conv", T, "valid", x, k, valid=np.ones((2, 6, 5)), shown="'float32'"),
    bad("conv", V, "valid", x, k, valid=np.ones(x, bool), shown="(2, 6, 5, 3)"),
    bad("conv", V, "padding_mode", x, k, valid=np.ones((2, 6, 5), bool), padding_mode="circular"),
    bad("conv", V, "padding", x, k, valid=np.ones((2, 6, 5), bool), padding="REFLECT"),
    bad("conv_transpose", V, "kernel|x|feature_group_count", (2, 4, 4, 5), k),
    bad("conv_transpose", V, "strides", x, k, strides=(2, 0)),
    bad("conv_transpose", V, "padding", x, k, padding="OUTER"),
    bad("conv_transpose", V, "padding", x, k, padding=9, use_consistent_padding=True, transpose_kernel=False),
    bad("conv_transpose", V, "output_padding", x, k, output_padding=2, strides=2),
    bad("conv_transpose", V, "output_padding", x, k, output_padding=-1, strides=2),
    bad("conv_transpose", T, "output_padding", x, k, output_padding=0.5, strides=2),
    bad("conv_transpose", V, "output_shape", x, k, output_shape=(99, 99)),
    bad("conv_transpose", V, "output_shape", x, k, output_shape=(6, 5, 4)),
    bad("conv_transpose", V, "output_padding|output_shape", x, k, strides=2, output_padding=1, output_shape=(13, 11)),
    bad("conv_transpose", V, "feature_group_count", x, k, feature_group_count=2),
    bad("conv_transpose", V, "bias", x, k, (3,)),
    bad("conv_transpose", V, "padding_mode", x, k, padding_mode="mirror"),
    bad("conv_transpose", V, "padding_mode", x, k, padding_mode="constant"),
    bad(
        "conv_transpose",
        V,
        "padding",
        (1, 4, 4, 3),
        (9, 9, 3, 4),
        padding=4,
        padding_mode="reflect",
        use_consistent_padding=True,
    ),
    bad("conv_transpose", V, "x", (2, 0, 5, 3), k),
    bad("conv_transpose", T, "x", np.ones(x, bool), np.ones(k, bool), shown="'bool'"),
    *(
        bad(name, T, "bias", *arrays, bias=np.ones(of, np.complex64), shown="'complex64'", **options)
        for name, arrays, of, options in (
            ("conv", (x, k), 4, {}),
            ("conv_transpose", (x, k), 4, {}),
            ("deform_conv", (x, (2, 6, 5, 18), k), 4, {}),
            ("conv_local", (x, (4, 3, 27, 2)), (4, 3, 2), dict(kernel_size=(3, 3))),
        )
    ),
    bad("conv", T, "bias", np.ones(x, int), np.ones(k, int), bias=np.full(4, 0.5, np.float32), shown="'float32'"),
    bad("conv", T, "mask", x, k, mask=np.ones(k, np.complex64), shown="'complex64'"),
    bad("deform_conv", T, "mask", x, (2, 6, 5, 18), k, mask=np.ones((2, 6, 5, 9), np.complex64), shown="'complex64'"),
    bad("conv", V, "kernel", x, k, padding=2**31),
    bad("conv_transpose", V, "strides", x, k, strides=(2**31, 2**31)),
    bad("conv_local", V, "kernel_size", x, (4, 3, 27, 2), kernel_size=()),
    bad("conv_matrix", V, "input_shape", k, input_shape=(2**31, 5, 3)),
    bad("conv_local", V, "kernel", x, (4, 3, 26, 2), kernel_size=(3, 3)),
    bad("conv_local", V, "kernel", x, (5, 3, 27, 2), kernel_size=(3, 3)),
    bad("conv_local", V, "kernel_size", x, (4, 3, 27, 2), kernel_size=(3, 0)),
    bad("conv_local", V, "strides", x, (4, 3, 27, 2), kernel_size=(3, 3), strides=0),
    bad("deform_conv", V, "offset", x, (2, 6, 5, 17), k),
    bad("deform_conv", V, "offset", x, (2, 5, 5, 18), k),
    bad("deform_conv", V, "offset", x, (1, 6, 5, 18), k),
    bad("deform_conv", V, "mask", x, (2, 6, 5, 18), k, mask=np.ones((2, 6, 5, 8), np.float32), shown="(2, 6, 5, 8)"),
    bad("deform_conv", V, "strides", x, (2, 6, 5, 18), k, strides=0),
    bad("deform_conv", T, "offset", x, np.ones((2, 6, 5, 18), np.complex64), k, shown="'complex64'"),
    bad("conv_matrix", T, "kernel", np.ones(k, bool), input_shape=(6, 5, 3), shown="'bool'"),
    bad("conv_matrix", V, "kernel|input_shape", k, input_shape=(6, 5, 4)),
    bad("conv_matrix", V, "input_shape", k, input_shape=(6, 3)),
]


def pool(function, **options):
    """Return the bad calls of every pool over sliding windows; `options` make the call valid otherwise."""
    return [
        bad(function, V, "window_shape", x, window_shape=(), **options),
        bad(function, V, "window_shape", x, window_shape=(1, 1), padding=2**31, **options),
        bad(function, V, "window_shape", x, window_shape=0, **options),
        bad(function, V, "window_shape", x, window_shape=(2, -1), **options),
        bad(function, V, "window_shape", x, window_shape=(7, 2), **options),
        bad(function, V, "window_shape|x", (2, 3), window_shape=(2, 2), **options),
        bad(function, T, "window_shape", x, window_shape=2.0, **options),
        bad(function, T, "window_shape", x, window_shape="2", **options),
        bad(function, T, "window_shape", x, window_shape=None, **options),
        bad(function, V, "strides", x, window_shape=(2, 2), strides=0, **options),
        bad(function, V, "strides", x, window_shape=(2, 2), strides=(1,), **options),
        bad(function, T, "strides", x, window_shape=2, strides=(1, 0.5), **options),
        bad(function, V, "padding", x, window_shape=2, padding="SAMEE", **options),
        bad(function, V, "padding", x, window_shape=2, padding=(1, 2, 3), **options),
        bad(function, T, "padding", x, window_shape=2, padding=0.5, **options),
        bad(function, V, "x", (2, 0, 5, 3), window_shape=2, **options),
        bad(function, V, "x", (2, 6, 5, 0), window_shape=2, **options),
        bad(function, T, "valid", x, window_shape=2, valid=np.ones((2, 6, 5)), shown="'float32'", **options),
        bad(function, V, "valid", x, window_shape=2, valid=np.ones((6, 5), bool), shown="(6, 5)", **options),
        bad(function, V, "padding", x, window_shape=2, padding="CIRCULAR", valid=np.ones((2, 6, 5), bool), **options),
    ]


SLIDING = (
    "max_pool",
    "min_pool",
    "avg_pool",
    "sum_pool",
    "lp_pool",
    "gem_pool",
    "softmax_pool",
    "mixed_pool",
    "stochastic_pool",
)

POOLS = [
    *(row for function in SLIDING for row in pool(function)),
    *pool("top_k_pool", k=1),
    *pool("pool", init=0.0, reduce_fn=lambda a, b: a + b),
    *(bad(function, V, "window_dilation", x, window_shape=2, window_dilation=0)
      for function in ("max_pool", "min_pool", "avg_pool", "sum_pool", "lp_pool")),
    bad("max_pool", V, "window_shape", x, window_shape=(3, 3), window_dilation=3),
    bad("max_pool", V, "window_shape", (1, 2, 3), window_shape=(5,), strides=2, ceil_mode=True),
    bad("max_pool", V, "window_shape|x", (6, 3), window_shape=2),
    bad("max_pool", T, "x", np.ones(x, np.complex64), window_shape=2),
    bad("sum_pool", T, "x", np.ones(x, bool), window_shape=2, shown="'bool'"),
    bad("pool", T, "init", x, init="0", reduce_fn=np.add, window_shape=2),
    bad("pool", T, "init", x, init=np.ones(3), reduce_fn=np.add, window_shape=2),
    bad("min_pool", T, "x", np.ones(x, np.complex64), window_shape=2),
    bad("avg_pool", V, "divisor_override", x, window_shape=2, divisor_override=0),
    bad("avg_pool", T, "divisor_override", x, window_shape=2, divisor_override="4"),
    bad("lp_pool", V, "norm_type", x, window_shape=2, norm_type=0),
    bad("lp_pool", V, "norm_type", x, window_shape=2, norm_type=float("nan")),
    bad("lp_pool", T, "norm_type", x, window_shape=2, norm_type="2"),
    bad("gem_pool", V, "p", x, window_shape=2, p=0.0),
    *(bad(function, T, weight, x, window_shape=2, shown="'complex64'", **{weight: np.ones(3, np.complex64)})
      for function, weight in (("gem_pool", "p"), ("softmax_pool", "temperature"), ("mixed_pool", "alpha"))),
    bad("max_unpool", V, "output_shape", (2, 2, 2, 3), np.zeros((2, 2, 2, 3), int), output_shape=()),
    bad("max_unpool", V, "output_shape", (2, 2, 2, 3), np.zeros((2, 2, 2, 3), np.int32), output_shape=(2**16, 2**16)),
    bad("max_unpool", V, "output_shape", (2, 2, 2, 3), np.zeros((2, 2, 2, 3), np.int32), output_shape=(2**31, 1)),
    bad("blur_pool", V, "window_shape", x, window_shape=()),
    bad("fractional_max_pool", V, "window_shape", x, window_shape=(), output_shape=2, samples=np.full((2, 3, 2), 0.5)),
    bad("fractional_max_pool", V, "output_shape", x, window_shape=(2, 2), output_shape=(),
        samples=np.full((2, 3, 2), 0.5)),
    bad("spatial_pyramid_pool", V, "levels", x, levels=(1, 2**16)),
    bad("softmax_pool", V, "temperature", x, window_shape=2, temperature=0.0),
    bad("top_k_pool", V, "k", x, window_shape=2, k=0),
    bad("top_k_pool", V, "k", x, window_shape=2, k=5),
    bad("top_k_pool", T, "k", x, window_shape=2, k=1.5),
    bad("blur_pool", V, "window_shape", x, window_shape=0),
    bad("blur_pool", V, "padding_mode", x, padding_mode="edge"),
    bad("blur_pool", V, "padding", (2, 1, 5, 3), padding=1),
    bad("max_unpool", V, "indices", (2, 2, 2, 3), np.zeros((2, 2, 1, 3), int), output_shape=(4, 4),
        shown="(2, 2, 1, 3)"),
    bad("max_unpool", T, "indices", (2, 2, 2, 3), (2, 2, 2, 3), output_shape=(4, 4)),
    bad("max_unpool", V, "output_shape", (2, 2, 2, 3), np.zeros((2, 2, 2, 3), int), output_shape=(4, 0)),
    bad("max_unpool", V, "x", (2, 0, 2, 3), np.zeros((2, 0, 2, 3), int), output_shape=(4, 4)),
    bad("max_unpool", V, "x", (2, 2, 2, 0), np.zeros((2, 2, 2, 0), int), output_shape=(4, 4)),
    bad("max_unpool", V, "output_shape|x", (2, 3), np.zeros((2, 3), int), output_shape=(4, 4)),
    *(row for function in ("adaptive_avg_pool", "adaptive_max_pool") for row in (
        bad(function, V, "output_shape", x, output_shape=()),
        bad(function, V, "output_shape", x, output_shape=9132760301568586890),
        bad(function, V, "output_shape", x, output_shape=0),
        bad(function, V, "output_shape", x, output_shape=(3, -1)),
        bad(function, T, "output_shape", x, output_shape=2.5),
        bad(function, T, "output_shape", x, output_shape=("2", 2)),
        bad(function, V, "output_shape|x", (2, 3), output_shape=(2, 2)),
        bad(function, V, "x", (2, 0, 5, 3), output_shape=2),
    )),
    bad("fractional_max_pool", V, "output_shape|output_ratio", x, window_shape=2, samples=np.full((2, 3, 2), 0.5),
        shown=""),
    bad("fractional_max_pool", V, "output_shape|output_ratio", x, window_shape=2, output_shape=2, output_ratio=0.5,
        samples=np.full((2, 3, 2), 0.5), shown=""),
    bad("fractional_max_pool", V, "output_ratio", x, window_shape=2, output_ratio=1.5, samples=np.full((2, 3, 2), 0.5)),
    bad("fractional_max_pool", V, "output_shape|window_shape", x, window_shape=3, output_shape=5,
        samples=np.full((2, 3, 2), 0.5)),
    bad("fractional_max_pool", V, "samples", x, window_shape=2, output_shape=2, samples=np.full((2, 3, 1), 0.5),
        shown="(2, 3, 1)"),
    bad("fractional_max_pool", T, "samples", x, window_shape=2, output_shape=2, samples=np.ones((2, 3, 2), int),
        shown="'int32'"),
    bad("fractional_max_pool", V, "samples|key", x, window_shape=2, output_shape=2, shown=""),
    bad("spatial_pyramid_pool", V, "levels", x, levels=()),
    bad("spatial_pyramid_pool", V, "levels", x, levels=(1, 0)),
    bad("spatial_pyramid_pool", V, "reduce", x, reduce="median"),
    bad("global_avg_pool", V, "x", (2, 0, 5, 3)),
    bad("global_max_pool", V, "x", (3,)),
]  # fmt: skip

PATCHES = [
    bad("unfold", V, "window_shape", x, window_shape=(7, 1)),
    bad("unfold", V, "window_shape", x, window_shape=()),
    bad("unfold", V, "window_shape", x, window_shape=(1, 1), padding=2**31),
    bad("fold", V, "output_shape", (2, 3), output_shape=()),
    bad("fold", V, "output_shape", (1, 3, 2, 1), output_shape=2**31),
    bad("pad", V, "padding", x, padding=()),
    bad("pad", V, "padding", x, padding=2**31),
    bad("unfold", V, "strides", x, window_shape=2, strides=0),
    bad("unfold", V, "padding", x, window_shape=2, padding="SAMEE"),
    bad("fold", V, "patches|output_shape", (2, 5, 4, 2, 2, 3), output_shape=(7, 5), shown=""),
    bad("fold", V, "patches|output_shape", (2, 2, 3), output_shape=(7, 5), shown=""),
    bad("fold", V, "output_shape", (2, 5, 4, 2, 2, 3), output_shape=(6, 0)),
    bad("fold", V, "patches", (3,), output_shape=4),
    bad("fold", V, "patches", (1, 2, 3, 2, 1), output_shape=4),
    bad("fold", V, "patches", (1, 3, 2, 0), output_shape=4),
    bad("fold", V, "patches", (1, 3, 0, 1), output_shape=4),
    bad("pad", V, "mode", x, padding=1, mode="mirror"),
    bad("pad", V, "mode", x, padding=((1, 1), (1, 1)), mode=("zeros",) * 3),
    bad("pad", V, "padding", x, padding=((1, 1), (1, 1, 1))),
    bad("pad", T, "padding", x, padding=1.5),
    bad("pad", V, "padding", x, padding=-3),
    bad("pad", V, "padding", x, padding=((-3, -3), 0), mode="replicate"),
    bad("pad", V, "padding", x, padding=((0, -6), 0), mode="reflect"),
    bad("pad", V, "value", x, padding=1, value=2.0),
    bad("pad", V, "value", x, padding=1, mode="reflect", value=2.0),
    bad("pad", T, "value", x, padding=1, mode="constant", value="0"),
    bad("pad", T, "value", x, padding=1, mode="constant", value=(0, 1)),
    bad("pad", V, "padding", x, padding=((0, 0), (5, 0)), mode="reflect"),
    bad("pad", V, "padding", x, padding=((0, 0), (6, 0)), mode="circular"),
    bad("pad", V, "padding", x, padding=((0, 0), (-2, 4)), mode="circular"),
]

WINDOWS = [
    bad("Window", V, "size", shown="0", size=0),
    bad("Window", T, "size", shown="'3'", size="3"),
    bad("Window", V, "strides", size=(3, 3), strides=(1, 0)),
    bad("Window", V, "dilation", size=(3, 3), dilation=(1, 1, 1)),
    bad("Window", T, "padding", size=(3, 3), padding=2.5),
]

grid, regions = (2, 3, 4, 2), (1, 5)
RESAMPLING = [
    bad("resize", V, "output_shape", x, shown="None"),
    bad("resize", V, "output_shape", x, output_shape=(3, 4), scale=2),
    bad("resize", V, "output_shape", x, output_shape=(3, 0)),
    bad("resize", V, "output_shape", x, output_shape=()),
    bad("resize", V, "scale", x, scale=()),
    bad("resize", T, "output_shape", x, output_shape=(3, 2.5)),
    bad("resize", V, "output_shape|x", (2, 3), output_shape=(3, 2)),
    bad("resize", V, "scale", x, scale=0.1),
    bad("resize", V, "scale", x, scale=(2, -1)),
    bad("resize", T, "scale", x, scale="2"),
    bad("resize", V, "method", x, scale=2, method="lanczos"),
    bad("resize", T, "method", x, scale=2, method=None),
    bad("resize", V, "align_corners", x, scale=2, method="nearest", align_corners=True),
    bad("resize", V, "antialias", x, scale=2, method="area", antialias=True),
    bad("resize", V, "x", (2, 0, 5, 3), output_shape=2),
    bad("resize", T, "x", np.ones(x, bool), output_shape=2, shown="'bool'"),
    bad("pixel_shuffle", V, "x", x, factor=2, shown="(2, 6, 5, 3)"),
    bad("pixel_shuffle", V, "factor", x, factor=0),
    bad("pixel_shuffle", V, "factor", x, factor=()),
    bad("pixel_shuffle", T, "factor", x, factor=1.5),
    bad("pixel_unshuffle", V, "factor", x, factor=4),
    bad("pixel_unshuffle", T, "factor", x, factor="2"),
    bad("local_response_norm", V, "size", x, size=0),
    bad("local_response_norm", T, "size", x, size=2.5),
    bad("local_response_norm", T, "beta", x, size=3, beta="1"),
    bad("local_response_norm", T, "alpha", x, size=3, alpha=(1e-4, 1e-3)),
    bad("local_response_norm", T, "k", x, size=3, k=1j),
    bad("local_response_norm", V, "x", (2, 0), size=3),
    bad("local_response_norm", T, "x", np.ones(x, bool), size=3, shown="'bool'"),
    bad("grid_sample", V, "method", x, grid, method="area"),
    bad("grid_sample", T, "method", x, grid, method=1),
    bad("grid_sample", V, "padding_mode", x, grid, padding_mode="reflect"),
    bad("grid_sample", V, "grid", x, (1, 3, 4, 2), shown="(1, 3, 4, 2)"),
    bad("grid_sample", V, "grid|x", x, (2, 3, 4, 4), shown="(2, 3, 4, 4)"),
    bad("grid_sample", T, "grid", x, np.ones(grid, int), shown="'int32'"),
    bad("grid_sample", V, "method", (2, 5, 3), (2, 4, 1), method="cubic"),
    bad("grid_sample", V, "x", (2, 0, 5, 3), grid, shown="(2, 0, 5, 3)"),
    bad("affine_grid", V, "theta", (2, 3, 3), output_shape=4, shown="(2, 3, 3)"),
    bad("affine_grid", V, "output_shape", (2, 2, 3), output_shape=(4, 0)),
    bad("affine_grid", V, "output_shape", (2, 2, 3), output_shape=()),
    bad("affine_grid", T, "theta", np.ones((2, 3), int), output_shape=4, shown="'int32'"),
    *(row for function in ("roi_align", "roi_pool") for row in (
        bad(function, V, "boxes", x, (1, 4), output_shape=2, shown="(1, 4)"),
        bad(function, V, "x", (6, 5, 3), regions, output_shape=2, shown="(6, 5, 3)"),
        bad(function, V, "x", (2, 0, 5, 3), regions, output_shape=2),
        bad(function, V, "output_shape", x, regions, output_shape=(2, 0)),
        bad(function, V, "output_shape", x, regions, output_shape=()),
        bad(function, T, "output_shape", x, regions, output_shape=2.5),
        bad(function, T, "spatial_scale", x, regions, output_shape=2, spatial_scale="1"),
        bad(function, T, "spatial_scale", x, regions, output_shape=2, spatial_scale=(0.5, 0.5)),
        bad(function, T, "boxes", x, np.ones(regions, complex), output_shape=2, shown="'complex64'"),
        bad(function, T, "x", np.ones(x, complex), regions, output_shape=2, shown="'complex64'"),
    )),
    bad("roi_align", T, "sampling_ratio", x, regions, output_shape=2, sampling_ratio=1.5),
    bad("nms", V, "boxes", (3, 5), (3,), iou_threshold=0.5, max_outputs=2, shown="(3, 5)"),
    bad("nms", V, "scores", (3, 4), (2,), iou_threshold=0.5, max_outputs=2, shown="(2,)"),
    bad("nms", V, "max_outputs", (3, 4), (3,), iou_threshold=0.5, max_outputs=0),
    bad("nms", T, "iou_threshold", (3, 4), (3,), iou_threshold=None, max_outputs=2),
    bad("nms", T, "iou_threshold", (3, 4), (3,), iou_threshold=[0.5, 0.4], max_outputs=2),
    bad("nms", T, "boxes", np.ones((3, 4), bool), (3,), iou_threshold=0.5, max_outputs=2, shown="'bool'"),
    bad("nms", T, "scores", (3, 4), np.ones(3, complex), iou_threshold=0.5, max_outputs=2, shown="'complex64'"),
]  # fmt: skip

BAD_CALLS = CONV + POOLS + PATCHES + WINDOWS + RESAMPLING
