"""Checks of the faults in reports to JAX, XLA and Flax.

Each check computes one result with plain JAX ("jax") or with convlab ("convlab"), compares it with NumPy or with the
report's expectation, and raises an error if they differ. docs/upstream.md shows the results, and tests/test_upstream.py
runs the checks with convlab. A process has `DEVICES` devices: see upstream.py."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import convlab

DEVICES = 4
NHWC = ("NHWC", "HWIO", "NHWC")
NWC = ("NWC", "WIO", "NWC")
CHECKS: dict[str, Callable[[str], None]] = {}


def check(function: Callable[[str], None]) -> Callable[[str], None]:
    CHECKS[function.__name__] = function
    return function


def draw(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def near(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape} where {expected.shape} is right"
    error = np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)
    assert error <= tolerance, "wrong numbers"


def refused(call: Callable[[], Any], *words: str) -> None:
    """Check that the call raises a ValueError or TypeError whose text has these words."""
    try:
        got = call()
    except (ValueError, TypeError) as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"{type(error).__name__} does not name {missing[0]}: {str(error).splitlines()[0][:90]}"
        return
    raise AssertionError(f"no error: an array of shape {jax.tree.leaves(got)[0].shape}")


def windows(x: np.ndarray, size: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> np.ndarray:
    """Return the windows, `(n, *out, *size, c)`, of a padded image."""
    out = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(x.shape[1:-1], size, strides, dilation)]
    taps = []
    for tap in itertools.product(*map(range, size)):
        cut = [slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in zip(tap, dilation, out, strides)]
        taps.append(x[(slice(None), *cut)])
    return np.stack(taps, -2).reshape(x.shape[0], *out, *size, x.shape[-1])


def padded(x: np.ndarray, pads: Sequence[tuple[int, int]], value: float = 0.0) -> np.ndarray:
    """Pad an image; negative pads crop first."""
    for axis, (before, after) in enumerate(pads, 1):
        cut = [slice(None)] * x.ndim
        cut[axis] = slice(max(-before, 0), x.shape[axis] - max(-after, 0))
        x = x[tuple(cut)]
    return np.pad(x, [(0, 0), *((max(b, 0), max(a, 0)) for b, a in pads), (0, 0)], constant_values=value)


def convolved(x: np.ndarray, kernel: np.ndarray, strides: Any, pads: Any, dilation: Any, groups: int = 1) -> np.ndarray:
    """Compute the convolution by its definition, in float64."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    rank = x.ndim - 2
    taps = windows(padded(x, pads), kernel.shape[:rank], strides, dilation)
    out = taps.shape[1 : 1 + rank]
    taps = taps.reshape(len(x), *out, -1, groups, x.shape[-1] // groups)
    weights = kernel.reshape(-1, kernel.shape[rank], groups, kernel.shape[-1] // groups)
    return np.einsum("...tgi,tigo->...go", taps, weights).reshape(len(x), *out, kernel.shape[-1])


# --- wrong results, and processes that end --------------------------------------------------------------------------


@check
def negative_low_padding(library: str) -> None:
    x, kernel, pads = draw(2, 7, 6, 8), draw(1, 1, 8, 8, seed=1), [(0, 0), (-5, 1)]
    if library == "jax":
        y = jax.jit(lambda x, k: lax.conv_general_dilated(x, k, (1, 1), pads, dimension_numbers=NHWC))(x, kernel)
    else:
        y = jax.jit(lambda x, k: convlab.conv(x, k, padding=pads))(x, kernel)
    near(y, convolved(x, kernel, (1, 1), pads, (1, 1)))


@check
def base_dilation(library: str) -> None:
    x = draw(2, 32, 32, 8)
    expected = np.full((2, 16, 63, 8), -np.inf, np.float32)
    expected[:, :, ::2] = x.reshape(2, 16, 2, 32, 8).max(2)
    window = dict(window_dimensions=(1, 2, 1, 1), window_strides=(1, 2, 1, 1), base_dilation=(1, 1, 2, 1))
    f = lambda x: lax.reduce_window(x, np.float32(-np.inf), lax.max, padding="VALID", **window)
    if library == "jax":
        y = jax.jit(f)(x)
    else:
        with convlab.accelerate():
            y = jax.jit(lambda x: f(x))(x)
    assert np.array_equal(y, expected), "values where zeros should be"


@check
def crop_before_padding(library: str) -> None:
    x, kernel = draw(1, 8, 8, 3), draw(2, 2, 3, 4, seed=1)
    crop, pads = [(-2, 0), (0, -1)], [(1, 0), (0, 2)]
    cut = x[:, 2:, :-1]
    if library == "jax":
        steps = lambda x: lax.pad(x, np.float32(0), [(0, 0, 1), (-2, 0, 0), (0, -1, 0), (0, 0, 0)])
        window = dict(window_dimensions=(1, 2, 2, 1), window_strides=(1,) * 4, padding=[(0, 0), *pads, (0, 0)])
        total = jax.jit(lambda x: lax.reduce_window(steps(x), np.float32(0), lax.add, **window))(x)
        conv = lambda x, k: lax.conv_general_dilated(steps(x), k, (1, 1), pads, dimension_numbers=NHWC)
        y = jax.jit(conv)(x, kernel)
    else:
        total = jax.jit(lambda x: convlab.sum_pool(convlab.pad(x, crop), 2, padding=pads))(x)
        y = jax.jit(lambda x, k: convlab.conv(convlab.pad(x, crop), k, padding=pads))(x, kernel)
    near(y, convolved(cut, kernel, (1, 1), pads, (1, 1)))
    near(total, windows(padded(cut, pads), (2, 2), (1, 1), (1, 1)).sum((3, 4)))


@check
def window_of_one_that_crops(library: str) -> None:
    x = draw(2, 8, 3)
    if library == "jax":
        f = lambda x: lax.reduce_window(x, np.float32(0), lax.add, (1, 1, 1), (1, 1, 1), ((0, 0), (-2, 0), (0, 0)))
    else:
        f = lambda x: convlab.sum_pool(x, 1, padding=[(-2, 0)])
    near(jax.jit(f)(x), x[:, 2:])


@check
def mapped_dilated_groups(library: str) -> None:
    """Compute the gradients of a convolution that is mapped over images and kernels, in float64."""
    with jax.enable_x64(True):
        x, k = draw(2, 16, 28, 3, 32, dtype=np.float64), draw(2, 2, 4, 2, 32, seed=1, dtype=np.float64)
        options = dict(
            window_strides=(2, 2), padding=((1, 1), (2, 2)), lhs_dilation=(1, 2), dimension_numbers=NHWC,
            feature_group_count=16,
        )  # fmt: skip
        conv = convlab.conv_general_dilated if library == "convlab" else lax.conv_general_dilated
        f = lambda x, k: jax.vmap(lambda x, k: conv(x, k, **options))(x, k)
        y = jax.eval_shape(f, x, k)
        dy = draw(*y.shape, seed=2, dtype=np.float64)
        dx, dk = jax.jit(lambda x, k, dy: jax.vjp(f, x, k)[1](dy))(x, k, dy)
        member = lambda i: lax.conv_general_dilated(x[i], k[i], **options)
        near(sum((np.asarray(member(i)) * dy[i]).sum() for i in range(2)), (np.asarray(dx) * x).sum(), 1e-10)
        near((np.asarray(dk) * k).sum(), (np.asarray(dx) * x).sum(), 1e-10)


@check
def infinity_in_patches(library: str) -> None:
    x = np.ones((1, 5, 5, 2), np.float32)
    x[0, 0, 0, 0] = np.inf
    if library == "jax":
        y = jax.jit(lambda x: lax.conv_general_dilated_patches(x, (3, 3), (1, 1), "VALID", dimension_numbers=NHWC))(x)
        y = np.asarray(y).reshape(1, 3, 3, 2, 3, 3).transpose(0, 1, 2, 4, 5, 3)
    else:
        y = jax.jit(lambda x: convlab.unfold(x, 3))(x)
    assert np.array_equal(y, windows(x, (3, 3), (1, 1), (1, 1))), "NaN beside an infinity"


# --- derivatives ----------------------------------------------------------------------------------------------------


def largest(x: np.ndarray, size: int, stride: int, dilation: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute maxima along the width of `(n, w, c)`, and their gradient where every cotangent is one."""
    taps = windows(x, (size,), (stride,), (dilation,))
    where = taps.argmax(2) * dilation + stride * np.arange(taps.shape[1])[:, None]
    slope = np.zeros_like(x)
    for n, o, c in np.ndindex(*where.shape):
        slope[n, where[n, o, c], c] += 1
    return taps.max(2), slope


@check
def dilated_maximum(library: str) -> None:
    x = draw(2, 13, 3)
    if library == "jax":
        window = dict(window_dimensions=(1, 3, 1), window_strides=(1, 2, 1), window_dilation=(1, 2, 1))
        f = lambda x: lax.reduce_window(x, -np.inf, lax.max, padding="VALID", **window)
    else:
        f = lambda x: convlab.max_pool(x, (3,), (2,), window_dilation=2)
    y, dx = jax.jit(lambda x: (f(x), jax.grad(lambda x: f(x).sum())(x)))(x)
    expected = largest(x, 3, 2, 2)
    near(y, expected[0])
    near(dx, expected[1])


@check
def any_reducer(library: str) -> None:
    x = np.exp(0.1 * draw(2, 9, 3))
    if library == "jax":
        f = lambda x: lax.reduce_window(x, np.float32(1), lax.mul, (1, 3, 1), (1, 2, 1), "VALID")
    else:
        f = lambda x: convlab.pool(x, 1.0, lax.mul, (3,), (2,))
    y, dx = jax.jit(lambda x: (f(x), jax.grad(lambda x: f(x).sum())(x)))(x)
    taps = windows(x, (3,), (2,), (1,))
    slope = np.zeros_like(x)
    for o, t in np.ndindex(4, 3):
        slope[:, 2 * o + t] += taps[:, o].prod(1) / taps[:, o, t]
    near(y, taps.prod(2))
    near(dx, slope)


@check
def indices_and_gradient(library: str) -> None:
    x = draw(2, 12, 3)
    if library == "jax":

        def f(x):
            places = lax.broadcasted_iota(jnp.int32, x.shape, 1)
            better = lambda a, b: a[0] >= b[0]
            pick = lambda a, b: (jnp.where(better(a, b), a[0], b[0]), jnp.where(better(a, b), a[1], b[1]))
            start = (np.float32(-np.inf), np.int32(-1))
            return lax.reduce_window((x, places), start, pick, (1, 3, 1), (1, 3, 1), "VALID")
    else:
        f = lambda x: convlab.max_pool(x, (3,), (3,), return_indices=True)
    y, at = jax.jit(f)(x)
    expected = largest(x, 3, 3, 1)
    near(y, expected[0])
    assert np.array_equal(np.take_along_axis(x, np.asarray(at), 1), y)
    near(jax.jit(jax.grad(lambda x: f(x)[0].sum()))(x), expected[1])
    near(jax.jit(lambda x, v: jax.jvp(lambda x: f(x)[0], (x,), (v,))[1].sum())(x, x), (expected[1] * x).sum(), 1e-4)


# --- more than one device -------------------------------------------------------------------------------------------


def mesh_of(kind: Any) -> Any:
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(kind,), devices=jax.devices()[:DEVICES])


@check
def groups_over_devices(library: str) -> None:
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = mesh_of(AxisType.Auto)
    x, kernel = draw(8, 9, 9, 8), draw(3, 3, 4, 16, seed=1)
    if library == "jax":
        f = lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=2)
    else:
        f = lambda x, k: convlab.conv(x, k, feature_group_count=2)
    split = jax.device_put(x, NamedSharding(mesh, P("data"))), jax.device_put(kernel, NamedSharding(mesh, P()))
    compiled = jax.jit(f, out_shardings=NamedSharding(mesh, P("data"))).lower(*split).compile()
    near(compiled(*split), convolved(x, kernel, (1, 1), [(1, 1), (1, 1)], (1, 1), 2))
    assert "all-gather" not in compiled.as_text(), "every device gathers the whole batch"


@check
def explicit_sharding(library: str) -> None:
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = mesh_of(AxisType.Explicit)
    x, kernel = draw(8, 12, 3), draw(3, 3, 4, seed=1)
    if library == "jax":
        f = lambda x, k: lax.conv_general_dilated(x, k, (1,), [(2, 0)], dimension_numbers=NWC)
    else:
        f = lambda x, k: convlab.conv(x, k, padding="CAUSAL")
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, P("data"))), jax.device_put(kernel, NamedSharding(mesh, P()))
        y = jax.jit(f)(*split)
        dx, dk = jax.jit(jax.grad(lambda x, k: f(x, k).sum(), (0, 1)))(*split)
    near(y, convolved(x, kernel, (1,), [(2, 0)], (1,)))
    assert dx.sharding.spec[0] == "data" and dk.shape == kernel.shape


# --- whole numbers --------------------------------------------------------------------------------------------------


@check
def whole_numbers(library: str) -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.integers(-128, 128, (2, 6, 6, 4), np.int8), rng.integers(-128, 128, (3, 3, 4, 5), np.int8)
    if library == "jax":
        options = dict(dimension_numbers=NHWC, preferred_element_type=jnp.int32)
        y = jax.jit(lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "VALID", **options))(x, kernel)
    else:
        y = jax.jit(lambda x, k: convlab.conv(x, k, padding="VALID", preferred_element_type=jnp.int32))(x, kernel)
    expected = convolved(x, kernel, (1, 1), [(0, 0), (0, 0)], (1, 1))
    assert y.dtype == jnp.int32 and np.array_equal(y, expected.astype(np.int64))


@check
def mixed_bytes(library: str) -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.integers(0, 256, (2, 6, 6, 4), np.uint8), rng.integers(-128, 128, (3, 3, 4, 5), np.int8)
    if library == "jax":
        options = dict(dimension_numbers=NHWC, preferred_element_type=jnp.int32)
        y = jax.jit(lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "VALID", **options))(x, kernel)
    else:
        y = jax.jit(lambda x, k: convlab.conv(x, k, padding="VALID", preferred_element_type=jnp.int32))(x, kernel)
    expected = convolved(x, kernel, (1, 1), [(0, 0), (0, 0)], (1, 1))
    assert y.dtype == jnp.int32 and np.array_equal(y, expected.astype(np.int64))


# --- instructions for a GPU -----------------------------------------------------------------------------------------


def for_cuda(function: Callable, *args: Any) -> str:
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


@check
def bfloat16_sequences_on_a_gpu(library: str) -> None:
    x, kernel = jnp.ones((2, 16, 4), jnp.bfloat16), jnp.ones((3, 4, 16), jnp.bfloat16)
    if library == "jax":
        f = lambda x, k: lax.conv_general_dilated(x, k, (2,), "SAME", rhs_dilation=(2,), dimension_numbers=NWC)
    else:
        f = lambda x, k: convlab.conv(x, k, strides=2, kernel_dilation=2)
    text = for_cuda(lambda *a: jax.vjp(f, *a)[1](f(*a)), x, kernel)
    assert not re.search(r"stride = \[\d+\]", text), "a 1-D convolution in bfloat16"


@check
def whole_numbers_on_a_gpu(library: str) -> None:
    x, kernel = jnp.ones((2, 6, 6, 4), jnp.int8), jnp.ones((3, 3, 4, 5), jnp.int8)
    if library == "jax":
        options = dict(dimension_numbers=NHWC, preferred_element_type=jnp.int32)
        f = lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "VALID", **options)
    else:
        f = lambda x, k: convlab.conv(x, k, preferred_element_type=jnp.int32, method="gemm")
    assert "stablehlo.convolution" not in for_cuda(f, x, kernel), "a convolution of integers, which cuDNN does not have"


@check
def transposed_gradients_on_a_gpu(library: str) -> None:
    x, kernel = jnp.ones((1, 8, 8, 4, 8)), jnp.ones((3, 3, 3, 8, 1))
    if library == "jax":
        f = lambda x, k: lax.conv_transpose(x, k, (2, 2, 2), "SAME").sum()
    else:
        f = lambda x, k: convlab.conv_transpose(x, k, strides=2, method="subpixel").sum()
    text = for_cuda(jax.grad(f, (0, 1)), x, kernel)
    assert "lhs_dilate = [2" not in text, "zeros between the pixels (`lhs_dilation`)"


@check
def grouped_gradients_on_a_gpu(library: str) -> None:
    x, kernel = jnp.ones((32, 1024, 8)), jnp.ones((5, 1, 8))
    if library == "jax":
        f = lambda x, k: lax.conv_general_dilated(
            x, k, (1,), "SAME", dimension_numbers=NWC, feature_group_count=8
        ).sum()
    else:
        f = lambda x, k: convlab.conv(x, k, feature_group_count=8).sum()
    text = for_cuda(jax.grad(f, (0, 1)), x, kernel)
    assert "batch_group_count = 8" not in text, "a convolution with `batch_group_count`"


@check
def large_strided_windows_on_a_gpu(library: str) -> None:
    x, kernel = jnp.ones((2, 64, 64, 3)), jnp.ones((16, 16, 3, 24))
    if library == "jax":
        f = lambda x, k: lax.conv_general_dilated(x, k, (16, 16), "VALID", dimension_numbers=NHWC)
    else:
        f = lambda x, k: convlab.conv(x, k, strides=16, padding="VALID")
    assert "stablehlo.convolution" not in for_cuda(f, x, kernel), "a convolution with windows of 16 x 16"


@check
def dilated_depthwise_on_a_gpu(library: str) -> None:
    x, kernel = jnp.ones((32, 1024, 8)), jnp.ones((5, 1, 8))
    if library == "jax":
        f = lambda x, k: lax.conv_general_dilated(
            x, k, (1,), "SAME", rhs_dilation=(8,), dimension_numbers=NWC, feature_group_count=8
        )
    else:
        f = lambda x, k: convlab.conv(x, k, feature_group_count=8, kernel_dilation=8)
    text = for_cuda(lambda *a: jax.vjp(f, *a)[1](f(*a)), x, kernel)
    assert "stablehlo.convolution" not in text, "convolutions with dilated kernels in groups"


@check
def mapped_filter_on_a_gpu(library: str) -> None:
    x, kernel = jnp.ones((3, 40, 44)), jnp.ones((30, 30))
    options = {"dimension_numbers": NHWC} if library == "jax" else {"method": "fft"}
    conv = (lambda x, k, **o: lax.conv_general_dilated(x, k, (1, 1), "SAME", **o)) if library == "jax" else convlab.conv
    f = jax.vmap(lambda x, k: conv(x[None, ..., None], k[..., None, None], **options)[0, ..., 0], (0, None))
    assert "stablehlo.convolution" not in for_cuda(f, x, kernel), "a convolution with windows of 30 x 30"
