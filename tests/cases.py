"""The table of calls that every test iterates over: a new operation needs a few rows here and a function in the oracle.

A row is `case(function, what is special about it, shapes of the arrays, **options)`; an `Array` among the options is
drawn like the positional ones. `dtype` is that of every floating array, and `fill` determines the numbers of the first.
"""

import dataclasses
import math
import re
import zlib

import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16
import numpy as np
import reference
import reference_pools
import reference_resampling
from jax import lax

import convlab

ORACLE = vars(reference) | vars(reference_pools) | vars(reference_resampling)
REDUCERS = {"max": (lax.max, np.maximum), "add": (lax.add, np.add), "mul": (lax.mul, np.multiply)}

# Selections and rearrangements do not round.
EXACT = {
    "pad", "unfold", "max_pool", "min_pool", "max_unpool", "adaptive_max_pool", "global_max_pool",
        "fractional_max_pool",
    "spatial_pyramid_pool", "pixel_shuffle", "pixel_unshuffle", "roi_pool",
}  # fmt: skip
# Averages of integers are float32.
AVERAGES = {
    "avg_pool", "lp_pool", "gem_pool", "softmax_pool", "top_k_pool", "mixed_pool", "stochastic_pool", "blur_pool",
    "adaptive_avg_pool", "global_avg_pool", "local_response_norm",
}  # fmt: skip


def distinct(rng, n):
    """Return distinct nonzero numbers, so that functions of order or sign have derivatives."""
    return (rng.permutation(n) - n / 2 + 0.3) / max(n, 1) * 4


def with_one(odd):
    def fill(rng, n):
        values = distinct(rng, n)
        values[n // 2] = odd
        return values

    return fill


FILLS = {
    "distinct": distinct,
    "positive": lambda rng, n: np.abs(distinct(rng, n)),
    "ties": lambda rng, n: rng.integers(-1, 2, n).astype(float),
    "zeros": lambda rng, n: np.zeros(n),
    "ones": lambda rng, n: np.ones(n),
    "hundreds": lambda rng, n: np.full(n, 200.0),
    "samples": lambda rng, n: rng.uniform(size=n),
    "learned": lambda rng, n: rng.uniform(1, 3, size=n),
    "mask": lambda rng, n: rng.integers(0, 2, n).astype(float),
    "nan": with_one(np.nan),
    "nans": lambda rng, n: np.where(rng.uniform(size=n) < 0.4, np.nan, distinct(rng, n)),
    "inf": with_one(np.inf),
    "mostly -inf": lambda rng, n: np.where(np.arange(n) < n // 3, distinct(rng, n), -np.inf),
}
# Finite differences give no derivative there.
KINKED = {"ties", "zeros", "ones", "hundreds", "nan", "nans", "inf", "mostly -inf"}


@dataclasses.dataclass(frozen=True)
class Array:
    shape: tuple
    fill: str = "distinct"

    def draw(self, rng, dtype):
        if self.fill == "indices":  # of an unpooled image with as many positions as `shape` has, each once per channel
            n, *spatial, c = self.shape
            order = np.broadcast_to(np.arange(math.prod(spatial))[:, None], (n, math.prod(spatial), c))
            return rng.permuted(order, axis=1).reshape(self.shape).astype(np.int32)
        if self.fill == "boxes":  # (image, x1, y1, x2, y2) on two images of some 8 x 8 positions
            corners = rng.uniform(-2, 6, (self.shape[0], 2))
            sizes = rng.uniform(0.3, 6, corners.shape)
            return np.concatenate([rng.integers(0, 2, (len(corners), 1)), corners, corners + sizes], 1).astype(
                np.float32
            )
        if self.fill == "segments":  # runs of one number along the last axis; a number may occur again
            return np.cumsum(rng.uniform(size=self.shape) < 0.4, -1, np.int32) % 3
        if self.fill == "valid":  # a prefix of the last axis, as in padded sequences of several lengths
            lengths = rng.integers(0, self.shape[-1] + 1, (*self.shape[:-1], 1))
            return np.arange(self.shape[-1]) < lengths
        if dtype.kind in "iub" and self.fill == "distinct":
            return rng.integers(-4 * (dtype.kind == "i"), 5, self.shape).astype(dtype)
        values = FILLS[self.fill](rng, math.prod(self.shape)).reshape(self.shape)
        if dtype.kind == "c":
            values = values + 1j * rng.permuted(values)
        return values.astype(dtype)


@dataclasses.dataclass(frozen=True)
class Case:
    function: str
    what: str
    arrays: tuple[Array, ...]
    options: dict
    dtype: np.dtype

    def __str__(self):
        return re.sub(r"\W+", "-", f"{self.function} {self.what}")

    @property
    def named(self):
        return {k: v for k, v in self.options.items() if isinstance(v, Array)}

    def draw(self, dtype=None):
        """Return the positional arrays, then those among the options; every call returns equal ones."""
        rng = np.random.default_rng(zlib.crc32(str(self).encode()))
        return [a.draw(rng, np.dtype(dtype or self.dtype)) for a in (*self.arrays, *self.named.values())]

    def _call(self, function, arrays, **fixed):
        count = len(self.arrays)
        return function(*arrays[:count], **self.options | fixed | dict(zip(self.named, arrays[count:])))

    def convlab(self, *arrays):
        reducer = {"reduce_fn": REDUCERS[self.options["reduce_fn"]][0]} if "reduce_fn" in self.options else {}
        return self._call(getattr(convlab, self.function), arrays, **reducer)

    def oracle(self, *arrays):
        def function(*args, reduce_fn=None, precision=None, preferred_element_type=None, **options):
            reducer = {"reduce_fn": REDUCERS[reduce_fn][1]} if reduce_fn else {}
            return ORACLE[self.function](*args, **options, **reducer)

        return self._call(function, arrays)

    @property
    def out_dtype(self):
        default = np.float32 if self.function in AVERAGES and self.dtype.kind in "iu" else self.dtype
        return np.dtype(self.options.get("preferred_element_type", default))

    @property
    def smooth(self):
        """Return whether it is differentiable at its arrays, so that finite differences give the derivative."""
        return self.dtype.kind not in "iub" and not KINKED & {a.fill for a in self.arrays}


def case(function, what, *shapes, dtype="float32", fill="distinct", **options):
    given = enumerate(shapes)
    arrays = tuple(s if isinstance(s, Array) else Array(s, "distinct" if i else fill) for i, s in given)
    return Case(function, what, arrays, options, np.dtype(dtype))


image, kernel, bias = (2, 6, 5, 3), (3, 3, 3, 4), (4,)
adjoint = dict(transpose_kernel=True, use_consistent_padding=True)

CONVOLUTIONS = [
    case("conv", "defaults with bias", image, kernel, bias),
    case("conv", "three axes, no batch axis", (4, 3, 3, 2), (2, 3, 2, 2, 2), strides=(1, 2, 1)),
    case("conv", "no axis: a matrix product", (2, 5, 3), (3, 4), (4,)),
    case("conv", "empty batch", (0, 5, 5, 3), kernel, strides=2),
    case("conv", "uneven and negative pads", image, kernel, padding=((-1, 2), [2, -2])),
    case("conv", "crops that take more than the image", (2, 1, 5, 3), kernel, padding=((7, -4), (1, 0)), dtype="int32"),
    case("conv", "causal in two axes", image, kernel, padding="CAUSAL", kernel_dilation=(2, 1)),
    case("conv", "CIRCULAR", image, (4, 3, 3, 4), padding="CIRCULAR", strides=(2, 1)),
    case("conv", "REFLECT", image, (3, 4, 3, 4), padding="REFLECT"),
    case("conv", "a mode per axis", image, kernel, padding=((1, 2), (3, 0)), padding_mode=("reflect", "circular")),
    case("conv", "replicated far beyond the edge", image, kernel, padding=7, padding_mode="replicate", strides=3),
    case("conv", "input dilation", image, kernel, input_dilation=(2, 3)),
    case("conv", "input and kernel dilation", (2, 5, 4), (3, 4, 2), input_dilation=2, kernel_dilation=2, strides=3),
    case("conv", "groups", (2, 5, 4, 4), (3, 2, 2, 6), bias=Array((6,)), feature_group_count=2, strides=(2, 1)),
    case("conv", "depthwise with multiplier", (2, 5, 4, 3), (3, 3, 1, 6), feature_group_count=3, kernel_dilation=2),
    case("conv", "flipped, in a frame of ones", image, (2, 3, 3, 4), padding=1, padding_mode=("constant", "circular"),
        padding_value=1.0,
         flip_kernel=True),
    case("conv", "masked", image, kernel, mask=Array(kernel, "mask")),
    case("conv", "packed, causal, depthwise", (2, 9, 3), (4, 1, 3), (3,), segment_ids=Array((2, 9), "segments"),
        padding="CAUSAL",
         feature_group_count=3),
    case("conv", "packed, SAME, dense", (2, 9, 3), (3, 3, 4), (4,), segment_ids=Array((2, 9), "segments")),
    case("conv", "packed and padded, groups, dilated, strides", (2, 1, 9, 4), (3, 2, 6),
        segment_ids=Array((2, 1, 9), "segments"),
         valid=Array((2, 1, 9), "valid"), feature_group_count=2, kernel_dilation=2, strides=2, padding=((3, 1),)),
    case("conv", "packed, no batch axis, many taps, multiplier", (30, 2), (27, 1, 4),
        segment_ids=Array((30,), "segments"),
         feature_group_count=2),
    case("conv", "packed, many taps, dense, VALID", (1, 30, 2), (27, 2, 3), segment_ids=Array((1, 30), "segments"),
        padding="VALID"),
    case("conv", "padded", image, kernel, bias, valid=Array(image[:-1], "valid"), strides=2),
    case("conv", "packed, bfloat16", (2, 9, 3), (3, 1, 3), segment_ids=Array((2, 9), "segments"), dtype="bfloat16",
         feature_group_count=3),
    case("conv", "packed, int8 into int32", (2, 9, 4), (3, 4, 2), segment_ids=Array((2, 9), "segments"), dtype="int8",
         preferred_element_type="int32"),
    case("conv", "an inf stays in its windows", image, (2, 2, 3, 2), fill="inf", precision="highest"),
    case("conv", "a NaN stays in its windows", image, (2, 2, 3, 2), fill="nan", strides=2, precision="highest"),
    case("conv", "float16", image, kernel, bias, dtype="float16"),
    case("conv", "bfloat16, depthwise", image, (3, 3, 1, 3), dtype="bfloat16", feature_group_count=3),
    case("conv", "int32", image, kernel, bias, dtype="int32", strides=2),
    case("conv", "int8 into int32", image, kernel, dtype="int8", preferred_element_type="int32"),
    case("conv", "complex", image, kernel, bias, dtype="complex64", padding_mode="reflect"),
    case("conv_transpose", "defaults with bias", image, kernel, bias),
    case("conv_transpose", "pads of the dilated input", image, kernel, strides=2, padding=((1, 2), (0, 3))),
    case("conv_transpose", "dilated SAME", image, kernel, kernel_dilation=(1, 2), strides=(2, 1)),
    case("conv_transpose", "CIRCULAR", image, (3, 3, 4, 3), padding="CIRCULAR", strides=(1, 2), transpose_kernel=True),
    case("conv_transpose", "adjoint of groups", (2, 3, 4, 4), (3, 2, 3, 4), bias=Array((6,)), strides=2, padding=1,
         feature_group_count=2, output_padding=(1, 0), **adjoint),
    case("conv_transpose", "adjoint of dilation", (3, 4, 3), (3, 2, 2, 3), strides=(1, 2), padding=((1, 2), (0, -1)),
         kernel_dilation=(3, 1), output_padding=(2, 1), **adjoint),
    case("conv_transpose", "adjoint of wrapping", (2, 4, 3), (3, 2, 3), strides=2, padding=1, padding_mode="circular",
         **adjoint),
    case("conv_transpose", "three axes, groups, lax's kernel", (1, 2, 3, 2, 4), (2, 1, 3, 2, 6), feature_group_count=2,
         strides=2),
    case("conv_transpose", "empty batch", (0, 3, 3, 3), kernel, strides=2),
    case("conv_transpose", "bfloat16", image, kernel, dtype="bfloat16", strides=2),
    case("conv_transpose", "complex", image, (3, 3, 4, 3), dtype="complex64", strides=2, padding=1, **adjoint),
    case("conv_transpose", "int32", image, kernel, dtype="int32", strides=2),
    case("conv_local", "two axes with bias", image, (4, 3, 27, 2), bias=Array((4, 3, 2)), kernel_size=(3, 3)),
    case("conv_local", "strides, pads and dilation", image, (4, 2, 12, 2), kernel_size=(2, 2), strides=(2, 3),
         padding=((1, 1), (0, 1)), kernel_dilation=(1, 2)),
    case("conv_local", "a mode per axis", image, (7, 5, 12, 2), kernel_size=(2, 2), padding=((1, 1), (0, 1)),
         padding_mode=("reflect", "circular")),
    case("conv_local", "input dilation", (2, 3, 2), (4, 4, 2), kernel_size=2, input_dilation=2),
    case("conv_local", "one axis, no batch axis", (6, 2), (6, 6, 3), kernel_size=(3,), padding="SAME"),
    case("conv_local", "float16", (2, 4, 2), (2, 6, 3), kernel_size=3, dtype="float16"),
    case("deform_conv", "two axes", (2, 4, 5, 2), (2, 4, 5, 18), (3, 3, 2, 3), bias=Array((3,))),
    case("deform_conv", "modulated, groups", (1, 5, 4, 4), (1, 2, 4, 16), (2, 2, 2, 4), mask=Array((1, 2, 4, 8)),
         strides=(2, 1), padding=((0, 0), (1, 0)), feature_group_count=2),
    case("deform_conv", "one axis, no batch axis, dilated", (7, 2), (3, 3), (3, 2, 2), kernel_dilation=2,
        padding="VALID"),
    case("deform_conv", "three axes", (1, 2, 3, 2, 2), (1, 2, 3, 2, 12), (2, 1, 2, 2, 1)),
    case("deform_conv", "empty batch", (0, 3, 3, 2), (0, 3, 3, 8), (2, 2, 2, 3)),
    case("conv_matrix", "strides, SAME", (3, 2, 2, 3), input_shape=(4, 3, 2), strides=2, padding="SAME"),
    case("conv_matrix", "groups, dilation, reflected", (3, 1, 4), input_shape=(5, 2), padding=((2, 1),),
        kernel_dilation=2,
         feature_group_count=2, padding_mode="reflect", strides=1),
    case("conv_matrix", "dilated flip", (3, 2, 1, 2), input_shape=(3, 2, 1), input_dilation=(2, 1), flip_kernel=True),
]  # fmt: skip

# Other sizes and spellings of the same calls: the slow tests cover their derivatives.
ALIKE = [
    case("conv", "one axis, even kernel, strides", (2, 7, 3), (4, 3, 2), strides=2),
    case("conv", "four axes, three batch axes", (1, 2, 1, 3, 3, 2, 3, 2), (2, 2, 2, 2, 2, 1), padding="VALID"),
    case("conv", "one pixel", (1, 1, 1, 1), (1, 1, 1, 1)),
    case("conv", "one pixel under a wide kernel", (2, 1, 1, 2), (5, 4, 2, 3)),
    case("conv", "strides beyond the window", image, (2, 2, 3, 4), strides=(4, 3), padding="VALID"),
    case("conv", "int padding", image, kernel, padding=2),
    case("conv", "an int per axis, as a list", image, kernel, padding=[0, 2], strides=[2, 1]),
    case("conv", "SAME_LOWER, even kernel", image, (2, 4, 3, 4), padding="SAME_LOWER", strides=(1, 2)),
    case("conv", "FULL, lower case", image, (2, 3, 3, 4), padding="full"),
    case("conv", "constant padding", image, kernel, padding_mode="constant", padding_value=0.5),
    case("conv", "crop, then wrap", image, kernel, padding=((-2, 1), (2, -1)), padding_mode="circular"),
    case("conv", "crop, replicate and reflect", image, kernel, padding=((-2, 3), (4, -1)),
         padding_mode=("reflect", "replicate")),
    case("conv", "input dilation, cropped and strided", image, kernel, input_dilation=2, padding=((-2, 1), (1, -3)),
        strides=(2, 3)),
    case("conv", "dilated beyond the input", image, kernel, kernel_dilation=5),
    case("conv", "flipped", image, (2, 3, 3, 4), flip_kernel=True),
    case("conv", "many channels, few pixels", (3, 2, 2, 9), (3, 3, 9, 11)),
    case("conv_transpose", "SAME, even kernel, strides", image, (4, 2, 3, 4), strides=(2, 3)),
    case("conv_transpose", "VALID, strides beyond the window", image, (2, 3, 3, 4), strides=(3, 2), padding="VALID"),
    case("conv_transpose", "transposed kernel", image, (3, 2, 4, 3), strides=2, transpose_kernel=True),
    case("conv_transpose", "causal", image, kernel, padding="CAUSAL"),
    case("conv_transpose", "SAME_LOWER", image, (2, 4, 3, 4), padding="SAME_LOWER", strides=(1, 2)),
    case("conv_transpose", "FULL", image, (2, 3, 3, 4), padding="FULL"),
    case("conv_transpose", "to a shape", (2, 3, 4, 3), (2, 3, 2, 3), strides=(3, 2), padding=0, output_shape=(10, 9),
         **adjoint),
    case("conv_transpose", "one axis, no batch axis", (5, 2), (4, 2, 3), strides=3),
    case("conv_transpose", "one pixel", (1, 1, 1, 1), (1, 1, 1, 1), strides=2),
]  # fmt: skip


def pools(function, **options):
    """Return the cases of every pool over sliding windows; `options` belong to the function."""
    return [
        case(function, "window as int, default strides", image, window_shape=2, **options),
        case(function, "one axis, no batch axis, SAME", (7, 2), window_shape=(3,), strides=(2,), padding="SAME",
            **options),
        case(function, "three axes, two batch axes", (2, 1, 4, 3, 3, 2), window_shape=[2, 3, 1], strides=[2, 1, 2],
            **options),
        case(function, "strides beyond the window", (2, 7, 6, 1), window_shape=(2, 1), strides=(3, 4), **options),
        case(function, "one pixel", (1, 1, 1, 1), window_shape=(1, 1), **options),
        case(function, "empty batch", (0, 4, 4, 2), window_shape=(2, 2), **options),
        case(function, "bfloat16", image, window_shape=(3, 2), dtype="bfloat16", **options),
        case(function, "float16", image, window_shape=(2, 3), strides=2, dtype="float16", **options),
        case(function, "int32", image, window_shape=(2, 2), dtype="int32", **options),
    ]  # fmt: skip


def padded(function, **options):
    """Return cases with pads of all kinds, dilation and overhang."""
    window = dict(window_shape=(3, 2), **options)
    return [
        case(function, "pads, uneven", image, padding=((1, 2), (0, 1)), strides=2, **window),
        case(function, "int padding, dilated", image, padding=1, window_dilation=(2, 3), **window),
        case(function, "negative pads", image, padding=((-1, 0), (1, -2)), **window),
        case(function, "an overhang over what is cropped", image, padding=((0, 0), (0, -2)), strides=2, ceil_mode=True,
            **window),
        case(function, "negative pads, dilated and strided", image, padding=((-1, 2), (-1, 1)), window_dilation=(2, 1),
             strides=2, **window),
        case(function, "overhang", (2, 8, 7, 2), padding=1, strides=(3, 2), ceil_mode=True, **window),
        case(function, "overhang, dilated, strides beyond it", (2, 9, 7, 1), strides=(5, 4), window_dilation=2,
             ceil_mode=True, **window),
        case(function, "wrapped, dilated", image, padding="CIRCULAR", window_dilation=(1, 2), **window),
        case(function, "mirrored, overhang", image, padding="REFLECT", strides=(3, 2), ceil_mode=True, **window),
        case(function, "a window that hangs over on all axes", (2, 2, 1, 2), strides=3, ceil_mode=True, **window),
        case(function, "four axes, SAME_LOWER", (2, 3, 2, 3, 1, 1), window_shape=(2, 2, 3, 2), padding="SAME_LOWER",
            **options),
    ]  # fmt: skip


def masked(function, **options):
    """Return cases of padded batches, with windows without a valid position."""
    valid = Array(image[:-1], "valid")
    return [
        case(
            function,
            "a padded batch",
            image,
            window_shape=(3, 2),
            strides=(2, 1),
            padding=((1, 2), (0, 1)),
            valid=valid,
            **options,
        )
    ]


def extremes(function):
    return [
        *pools(function),
        *padded(function),
        *(case(function, f"{fill}, with indices", image, fill=fill, window_shape=(3, 2), strides=2,
            padding=((1, 1), (1, 0)),
               return_indices=True) for fill in ("distinct", "ties", "nan", "nans", "inf", "mostly -inf")),
        case(function, "wrapped, with indices", image, window_shape=(4, 2), strides=2, padding="CIRCULAR",
            return_indices=True),
        case(function, "mirrored, overhang, with indices", image, fill="ties", window_shape=(3, 2), strides=(2, 3),
            padding="REFLECT",
             ceil_mode=True, return_indices=True),
        case(function, "indices, dilated, overhang", (2, 1, 8, 7, 2), window_shape=(2, 3), strides=3, window_dilation=2,
             ceil_mode=True, return_indices=True),
        case(function, "windows of padding only", (1, 3, 2, 1), fill="ties", window_shape=(2, 2),
            padding=((3, 2), (0, 3))),
        case(function, "windows of padding only, with indices", (1, 3, 2, 1), fill="ties", window_shape=(2, 2),
            padding=((3, 2), (0, 3)),
             return_indices=True),
        *(case(function, f"many taps, {fill}, with indices", (2, 9, 8, 2), fill=fill, window_shape=(6, 5),
            strides=(1, 5),
               padding=((0, 2), (6, 0)), return_indices=True) for fill in ("ties", "nans", "mostly -inf")),
        case(function, "uint8", image, window_shape=(2, 2), padding="SAME", dtype="uint8", return_indices=True),
        case(function, "int8 at its end", image, window_shape=(2, 2), padding=1, dtype="int8"),
    ]  # fmt: skip


SLIDING = [
    *masked("max_pool", fill="ties"),
    *masked("min_pool", fill="ties"),
    *masked("sum_pool"),
    *masked("avg_pool", count_include_pad=False),
    *masked("lp_pool", norm_type=3.0),
    *(dataclasses.replace(c, what=f"{c.what} {p}") for p in (math.inf, -math.inf, -2.0) for c in masked("lp_pool",
        norm_type=p)),
    *masked("gem_pool", p=2.5),
    *masked("softmax_pool", temperature=0.7),
    *masked("top_k_pool", k=3),
    *masked("mixed_pool", alpha=0.3, fill="ties"),
    *(dataclasses.replace(c, arrays=(Array(c.arrays[0].shape, "positive"),)) for c in masked("stochastic_pool")),
    *(case(f"global_{name}_pool", "a padded batch", image, valid=Array(image[:-1], "valid")) for name in ("avg",
        "max")),
    *extremes("max_pool"),
    *extremes("min_pool"),
    *pools("avg_pool"),
    *padded("avg_pool"),
    *(case("avg_pool", f"no pads counted: {c.what}", *(a.shape for a in c.arrays), count_include_pad=False, **c.options)
      for c in padded("avg_pool")),
    case("avg_pool", "windows of padding only", (1, 3, 2, 1), window_shape=(2, 2), padding=((3, 2), (0, 3)),
         count_include_pad=False),
    case("avg_pool", "divisor", image, window_shape=(3, 2), padding=1, strides=2, divisor_override=-5, ceil_mode=True),
    case("avg_pool", "many ones in bfloat16", (1, 64, 64, 1), fill="ones", window_shape=(64, 64), dtype="bfloat16"),
    case("avg_pool", "many hundreds in float16", (1, 32, 32, 1), fill="hundreds", window_shape=(32, 32),
        dtype="float16"),
    case("avg_pool", "bright pixels of a byte", (1, 4, 4, 1), fill="hundreds", window_shape=(2, 2), dtype="uint8"),
    case("avg_pool", "an inf stays in its windows", image, fill="inf", window_shape=(2, 2)),
    case("avg_pool", "complex", image, window_shape=(2, 2), padding="SAME", dtype="complex64"),
    *pools("sum_pool"),
    *padded("sum_pool"),
    case("sum_pool", "a NaN stays in its windows", image, fill="nan", window_shape=(3, 3), strides=2),
    *pools("lp_pool", norm_type=3.0),
    *padded("lp_pool", norm_type=1.5),
    case("lp_pool", "largest", image, window_shape=(3, 2), norm_type=math.inf),
    case("lp_pool", "smallest", image, window_shape=(3, 2), padding=((0, 0), (3, 0)), norm_type=-math.inf),
    case("lp_pool", "a negative power", image, window_shape=(3, 2), padding=1, norm_type=-2.0),
    case("lp_pool", "a broken negative power, overhang", image, window_shape=(2, 2), strides=2, ceil_mode=True,
        norm_type=-1.5),
    case("lp_pool", "a negative power of zeros", image, window_shape=(2, 2), fill="ties", norm_type=-3.0),
    case("lp_pool", "of ones in bfloat16", (1, 32, 32, 1), fill="ones", window_shape=(32, 32), dtype="bfloat16"),
    *pools("gem_pool", p=2.5),
    case("gem_pool", "a learned power for each channel", image, window_shape=(3, 2), padding=1,
        p=Array((3,), "learned")),
    *pools("softmax_pool", temperature=0.7),
    case("softmax_pool", "a learned temperature", image, window_shape=(3, 2), padding="CIRCULAR",
        temperature=Array((), "learned")),
    case("softmax_pool", "a learned temperature, padded", image, window_shape=(3, 2), padding=1,
        temperature=Array((), "learned")),
    case("softmax_pool", "an inf", image, window_shape=(3, 2), fill="inf"),
    case("softmax_pool", "mostly -inf", image, window_shape=(3, 2), fill="mostly -inf"),
    *pools("top_k_pool", k=1),
    case("top_k_pool", "three of six", image, window_shape=(2, 3), k=3),
    case("top_k_pool", "all", image, window_shape=(2, 2), strides=2, k=4),
    *pools("mixed_pool", alpha=0.3),
    case("mixed_pool", "learned parts", image, window_shape=2, padding="REFLECT", alpha=Array((3,), "learned")),
    *(dataclasses.replace(c, arrays=tuple(Array(a.shape,
        "positive") for a in c.arrays)) for c in pools("stochastic_pool")),
    case("pool", "largest", image, init=-np.inf, reduce_fn="max", window_shape=(2, 3), strides=(2, 1), padding="SAME"),
    case("pool", "sum", image, init=0.0, reduce_fn="add", window_shape=(2, 2), padding=((1, 0), (0, 2))),
    case("pool", "product", (2, 5, 4, 1), init=1.0, reduce_fn="mul", window_shape=(2, 2), strides=(2, 1),
        padding="SAME"),
    case("blur_pool", "defaults", image),
    case("blur_pool", "wide, uneven", (7, 6, 2), window_shape=(5, 2), strides=(3, 1)),
    case("blur_pool", "a mode per axis", image, window_shape=(3, 2), strides=(1, 2), padding=((1, 2), (0, 1)),
         padding_mode=("replicate", "circular")),
    case("blur_pool", "one axis, zeros, bfloat16", (2, 9, 2), window_shape=(4,), padding_mode="zeros",
        dtype="bfloat16"),
]  # fmt: skip

# So many taps, or windows along an axis, that the program has gathers and loops instead of unrolled operations.
line = (2, 41, 2)
MANY = [
    case("unfold", "many taps, dilated", (2, 16, 7, 1), window_shape=(8, 5), strides=(3, 1), padding=((1, 0), (0, 2)),
        window_dilation=(2, 1)),
    case("unfold", "many taps that tile", (1, 64, 2), window_shape=(30,), strides=30),
    case("fold", "many taps", (1, 6, 30, 2), output_shape=(40,), strides=2),
    case("softmax_pool", "many taps, padded", line, window_shape=(30,), strides=2, padding=((4, 1),),
        temperature=Array((2,), "learned")),
    case("top_k_pool", "many taps", line, window_shape=(30,), padding=((0, 9),), k=4),
    case("top_k_pool", "most of many taps", line, window_shape=(28,), strides=3, k=17),
    case("gem_pool", "many taps, a learned power", line, window_shape=(29,), p=Array((2,), "learned")),
    case("lp_pool", "many taps", line, window_shape=(27,), norm_type=1.5, window_dilation=1, padding=((3, 0),)),
    case("lp_pool", "many taps, a negative power, tiles", line, window_shape=(13,), strides=13, norm_type=-2.5),
    case("lp_pool", "many taps, dilated", (1, 9, 41, 1), window_shape=(2, 11), norm_type=3.0, window_dilation=(1, 3),
        ceil_mode=True),
    case("stochastic_pool", "many taps", Array(line, "positive"), window_shape=(30,), strides=4),
    case("pool", "product of many taps", line, init=1.0, reduce_fn="mul", window_shape=(26,), strides=5,
        padding=((0, 3),)),
    case("blur_pool", "many taps", (1, 61, 2), window_shape=(27,), strides=(3,)),
    case("conv_local", "many taps", (2, 33, 2), (2, 60, 3), kernel_size=(30,), strides=3),
    case("conv_local", "many taps, two axes", (1, 7, 6, 2), (2, 2, 60, 1), kernel_size=(6, 5)),
    case("deform_conv", "many taps", (1, 40, 1), (1, 3, 30), (30, 1, 2), strides=5, padding="VALID"),
    case("adaptive_avg_pool", "many windows", (2, 61, 3, 1), output_shape=(28, 2)),
    case("adaptive_avg_pool", "many windows, repeated", (1, 4, 1), output_shape=(27,)),
    *(case("adaptive_max_pool", f"many windows, {fill}", (2, 61, 3, 1), fill=fill, output_shape=(28, 2),
        return_indices=True)
      for fill in ("distinct", "ties", "nans")),
    case("spatial_pyramid_pool", "many windows", (2, 41, 1), levels=(1, 29)),
    case("conv", "wrapped many times", (1, 2, 1), (57, 1, 1), padding="CIRCULAR"),
]  # fmt: skip

OTHERS = [
    case("max_unpool", "to a larger image", (2, 2, 3, 2), Array((2, 2, 3, 2), "indices"), output_shape=(4, 5)),
    case("adaptive_avg_pool", "sizes that do not divide", (2, 7, 5, 2), output_shape=(3, 4)),
    case("adaptive_avg_pool", "larger than the input, and None", (2, 3, 4, 2), output_shape=(5, None)),
    case("adaptive_avg_pool", "three axes, no batch axis", (4, 3, 5, 1), output_shape=(2, 3, 2)),
    case("adaptive_avg_pool", "an int, bytes", (2, 5, 4, 1), output_shape=2, dtype="uint8"),
    case("adaptive_avg_pool", "bfloat16", (1, 64, 32, 1), output_shape=1, fill="ones", dtype="bfloat16"),
    *(case("adaptive_max_pool", f"indices, {fill}", (2, 1, 7, 5, 2), fill=fill, output_shape=(3, 4),
        return_indices=True)
      for fill in ("distinct", "ties", "nan", "nans", "mostly -inf")),
    case("adaptive_max_pool", "larger than the input, and None", (2, 3, 4, 2), output_shape=(5, None)),
    case("adaptive_max_pool", "one axis, int32", (2, 5, 2), output_shape=3, dtype="int32"),
    case("adaptive_max_pool", "empty batch", (0, 5, 4, 2), output_shape=2),
    case("fractional_max_pool", "two axes", (2, 7, 6, 2), window_shape=(2, 3), output_shape=(3, 2),
         samples=Array((2, 2, 2), "samples"), return_indices=True),
    case("fractional_max_pool", "NaN", (2, 7, 6, 2), window_shape=(2, 3), output_shape=(3, 2), fill="nans",
         samples=Array((2, 2, 2), "samples"), return_indices=True),
    case("fractional_max_pool", "a ratio, one axis, no batch axis", (9, 2), window_shape=(2,), output_ratio=(0.5,),
         samples=Array((2, 1), "samples")),
    case("fractional_max_pool", "three axes", (1, 4, 5, 4, 1), window_shape=2, output_shape=2,
         samples=Array((1, 1, 3), "samples")),
    case("global_avg_pool", "two axes", image),
    case("global_avg_pool", "three axes, kept", (2, 3, 2, 2, 2), keepdims=True),
    case("global_avg_pool", "kept, bfloat16", (2, 64, 9, 2), fill="ones", keepdims=True, dtype="bfloat16"),
    case("global_avg_pool", "bytes", (1, 5, 5, 1), fill="hundreds", dtype="uint8"),
    case("global_avg_pool", "empty batch", (0, 5, 5, 1)),
    case("global_max_pool", "three axes, kept", (2, 3, 2, 2, 2), keepdims=True),
    case("global_max_pool", "a NaN", (2, 5, 2), fill="nan"),
    case("spatial_pyramid_pool", "defaults", (2, 5, 7, 2)),
    case("spatial_pyramid_pool", "one axis, averages", (2, 5, 3), levels=(3, 2), reduce="avg"),
    case("unfold", "int window", image, window_shape=2),
    case("unfold", "pads, strides and dilation", image, window_shape=(2, 3), strides=(2, 1), padding=((1, 0), (-1, 2)),
         window_dilation=(3, 1)),
    case("unfold", "three axes, no batch axis", (3, 2, 4, 2), window_shape=(2, 2, 2), padding="SAME"),
    case("unfold", "wrapped", image, window_shape=(2, 3), padding="CIRCULAR", strides=(1, 2)),
    case("unfold", "an inf stays in its windows", image, fill="inf", window_shape=(2, 2), strides=2),
    case("unfold", "int8", image, window_shape=(3, 2), padding=1, dtype="int8"),
    case("fold", "overlapping", (2, 5, 4, 2, 2, 3), output_shape=(6, 5)),
    case("fold", "pads, strides and dilation", (2, 2, 4, 2, 3, 1), output_shape=(6, 5), strides=(2, 1),
         padding=((1, 0), (-1, 2)), window_dilation=(3, 1)),
    case("fold", "one axis, no batch axis, int32", (4, 3, 2), output_shape=(4,), padding="SAME", dtype="int32"),
    case("fold", "mirrored", (2, 6, 3, 2, 3, 3), output_shape=(6, 5), padding="REFLECT", strides=(1, 2)),
    case("fold", "bool", (1, 3, 2, 1), output_shape=(4,), dtype="bool"),
    case("fold", "complex", (1, 2, 2, 2), output_shape=(4,), strides=2, dtype="complex64"),
    case("pad", "int, constant", image, padding=2, mode="constant", value=-1.5),
    case("pad", "a mode per axis", image, padding=((4, 5), (2, 3)), mode=("reflect", "circular")),
    case("pad", "replicated, cropped", image, padding=((7, -2), (-1, 9)), mode="replicate"),
    case("pad", "crop, then wrap", (6, 2), padding=((-2, 4),), mode="circular"),
    case("pad", "crop and reflect", (2, 6, 2), padding=((-2, 4),), mode="reflect"),
    case("pad", "crop", image, padding=(-1, -2)),
    case("pad", "int16, three axes", (1, 2, 3, 2, 1), padding=((1, 0), 2, (0, -1)),
         mode=("reflect", "circular", "zeros"), dtype="int16"),
    case("pad", "bool", (2, 3, 1), padding=1, dtype="bool"),
]  # fmt: skip

boxes = Array((3, 5), "boxes")
RESAMPLING = [
    *(case("resize", f"{method}, to a shape", (2, 5, 4, 2), output_shape=(7, 3), method=method)
      for method in ("nearest", "nearest-exact", "linear", "cubic", "area")),
    *(case("resize", f"{method}, a whole factor", (2, 3, 4, 2), scale=(2, 0.5), method=method)
      for method in ("nearest", "nearest-exact", "linear", "cubic", "area")),
    case("resize", "corners", (2, 5, 4, 2), output_shape=(9, 6), align_corners=True),
    case("resize", "corners, cubic, to one place", (2, 5, 4, 2), output_shape=(8, 1), align_corners=True,
        method="bicubic"),
    case("resize", "antialiased", (2, 9, 8, 2), output_shape=(4, 12), antialias=True),
    case("resize", "antialiased, cubic, one axis, no batch axis", (12, 2), scale=(0.5,), method="cubic",
        antialias=True),
    case("resize", "one place becomes several, corners aligned", (2, 1, 3, 2), output_shape=(2, 1), align_corners=True),
    case("resize", "the step of the factor", (2, 5, 2), scale=1.7),
    case("resize", "three axes, two batch axes", (2, 1, 2, 3, 2, 1), output_shape=(3, 4, 5), method="trilinear"),
    case("resize", "phases of three halves", (1, 6, 5, 1), scale=1.5),
    case("resize", "a NaN reaches its readers only", (2, 5, 4, 2), fill="nan", output_shape=(10, 8)),
    case("resize", "a NaN stays, by a matrix", (1, 13, 2), fill="nan", output_shape=(17,)),
    case("resize", "an inf stays, by a matrix", (1, 13, 2), fill="inf", output_shape=(17,), method="nearest"),
    case("resize", "bytes, nearest", (1, 13, 2), output_shape=(17,), method="nearest", dtype="uint8"),
    case("resize", "bool, nearest", (1, 13, 2), output_shape=(17,), method="nearest", dtype="bool"),
    case("resize", "bfloat16", (2, 13, 2), output_shape=(17,), dtype="bfloat16"),
    case("resize", "complex", (2, 5, 2), output_shape=(8,), dtype="complex64"),
    case("resize", "empty batch", (0, 5, 4, 2), output_shape=(7, 3)),
    case("pixel_shuffle", "an int", (2, 3, 2, 8), factor=2),
    case("pixel_shuffle", "three axes, no batch axis, int8", (2, 1, 3, 12), factor=(2, 1, 3), dtype="int8"),
    case("pixel_unshuffle", "an int", (2, 4, 6, 3), factor=2),
    case("pixel_unshuffle", "one axis, empty batch", (0, 6, 2), factor=(3,)),
    case("local_response_norm", "AlexNet", (2, 3, 7), size=5, alpha=0.3, beta=0.75, k=2.0),
    case("local_response_norm", "wider than the channels, an even size", (2, 3), size=20, alpha=1.0, beta=0.6),
    case("local_response_norm", "a wide window", (2, 40), size=19, beta=0.5, alpha=1.0),
    case("local_response_norm", "float16", (2, 6), size=3, dtype="float16", beta=1.0),
    case("local_response_norm", "int32", (2, 6), size=3, dtype="int32"),
    *(case("grid_sample", f"{method}, {mode}, corners {corners}", (2, 4, 5, 2), (2, 3, 4, 2), method=method,
        padding_mode=mode, align_corners=corners)
      for method, mode, corners in (
          ("linear", "zeros", False), ("linear", "border", True), ("linear", "reflection", False),
              ("nearest", "zeros", True),
          ("nearest", "reflection", False), ("cubic", "zeros", False), ("cubic", "border", False),
              ("cubic", "reflection", True))),
    case("grid_sample", "three axes", (1, 2, 3, 4, 1), (1, 2, 2, 3, 3)),
    case("grid_sample", "one axis, no batch axis", (5, 2), (4, 1), method="nearest"),
    case("grid_sample", "empty batch", (0, 4, 5, 2), (0, 3, 4, 2), method="cubic"),
    case("grid_sample", "a NaN reaches its readers only", (2, 4, 5, 2), (2, 3, 4, 2), fill="nan"),
    case("grid_sample", "bfloat16", (2, 4, 5, 2), (2, 3, 4, 2), dtype="bfloat16"),
    case("affine_grid", "two axes", (2, 2, 3), output_shape=(3, 4)),
    case("affine_grid", "three axes, corners, no batch axis", (3, 4), output_shape=(2, 1, 3), align_corners=True),
    case("roi_align", "adaptive", (2, 7, 6, 2), boxes, output_shape=2),
    case("roi_align", "two samples, aligned, scaled", (2, 7, 6, 2), boxes, output_shape=(2, 3), sampling_ratio=2,
        aligned=True, spatial_scale=0.8),
    case("roi_align", "a NaN reaches its readers only", (2, 7, 6, 2), boxes, output_shape=2, sampling_ratio=1,
        fill="nan"),
    case("roi_pool", "overlapping bins", (2, 7, 6, 2), boxes, output_shape=(2, 3)),
    case("roi_pool", "ties, scaled", (2, 7, 6, 2), boxes, output_shape=2, spatial_scale=0.7, fill="ties"),
]  # fmt: skip

CASES = CONVOLUTIONS + ALIKE + SLIDING + MANY + OTHERS + RESAMPLING
