"""Identities that hold for every size, tested on geometries drawn by hypothesis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from reference import pad_pairs

import convlab
from convlab._backend import unpool

NAMES = ("VALID", "SAME", "SAME_LOWER", "CAUSAL", "FULL", "CIRCULAR", "REFLECT")


def laws(examples):
    """Set the number of draws, which are the same every time and are not stored."""
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@st.composite
def geometries(draw, ranks=(1, 2), names=NAMES, largest_stride=3):
    """Draw `(spatial, size, strides, padding, dilation)` with at least one window."""
    rank = draw(st.sampled_from(ranks))

    def several(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    size, strides, dilation = several(1, 3), several(1, largest_stride), several(1, 2)
    pairs = st.tuples(*[st.tuples(st.integers(-1, 2), st.integers(-1, 2))] * rank)
    padding = draw(st.one_of(st.sampled_from(names), st.integers(0, 2), pairs) if names else pairs)
    effective = tuple((k - 1) * d + 1 for k, d in zip(size, dilation))
    spatial = tuple(r + 2 + draw(st.integers(0, 2)) for r in effective)
    return spatial, size, strides, padding, dilation


def numbers(*shape, seed=0):
    return np.random.default_rng(seed + sum(shape)).normal(size=shape)


def inner(a, b):
    return float((np.asarray(a) * np.asarray(b)).sum())


@laws(200)
@given(geometries(ranks=(1, 2, 3, 4)), st.booleans())
def test_window_tells_the_pads_and_the_output(geometry, ceil_mode):
    spatial, size, strides, padding, dilation = geometry
    window = convlab.Window(size, strides, padding, dilation, ceil_mode=ceil_mode)
    declared = pad_pairs(padding, spatial, size, strides, dilation)
    starts = [
        [
            s
            for s in range(-lo, n + hi, stride)
            if s + effective <= n + hi or (ceil_mode and s < n and s - stride + effective < n + hi)
        ]
        for n, (lo, hi), stride, effective in zip(spatial, declared, strides, window.effective_size)
    ]
    assert window.effective_size == tuple((k - 1) * d + 1 for k, d in zip(size, dilation))
    assert window.out(spatial) == tuple(map(len, starts))
    for (lo, hi), (lo_, hi_), n, s, effective in zip(
        window.pads(spatial), declared, spatial, starts, window.effective_size
    ):
        assert (lo, hi) == (lo_, max(hi_, s[-1] + effective - n) if ceil_mode else hi_)


def test_windows_with_the_same_numbers_are_one():
    loose = convlab.Window([3, 3], np.int64(2), [[1, 1], 1], (1, 1))
    assert loose == convlab.Window((3, 3), (2, 2), 1)
    assert hash(loose) == hash(convlab.Window((3, 3), (2, 2), 1))


@laws(12)
@given(geometries(), st.integers(1, 2))
def test_conv_transpose_is_the_adjoint_of_conv(geometry, groups):
    spatial, size, strides, padding, dilation = geometry
    with jax.enable_x64(True):
        x, kernel = numbers(2, *spatial, 2 * groups), numbers(*size, 2, 3 * groups)
        options = dict(strides=strides, padding=padding, kernel_dilation=dilation, feature_group_count=groups)
        pairs = pad_pairs(padding, spatial, size, strides, dilation)
        mode = {"CIRCULAR": "circular", "REFLECT": "reflect"}.get(padding, "zeros")

        @jax.jit
        def both(x, kernel):
            y = convlab.conv(x, kernel, **options)
            dy = jnp.cos(jnp.arange(y.size)).reshape(y.shape)
            dx = convlab.conv_transpose(
                dy, kernel, **options | dict(padding=pairs, padding_mode=mode), output_shape=spatial,
                transpose_kernel=True, use_consistent_padding=True,
            )  # fmt: skip
            return y, dy, dx

        y, dy, dx = both(x, kernel)
        assert dx.shape == x.shape
        np.testing.assert_allclose(inner(y, dy), inner(x, dx), rtol=1e-10)


@laws(10)
@given(geometries(names=("VALID", "SAME", "FULL", "REFLECT", "CIRCULAR")), st.booleans())
def test_conv_is_a_matrix_and_linear_in_both(geometry, flip):
    spatial, size, strides, padding, dilation = geometry
    with jax.enable_x64(True):
        x, z, kernel, other = (
            numbers(*spatial, 2), numbers(*spatial, 2, seed=1), numbers(*size, 2, 3), numbers(*size, 2, 3, seed=1)
        )  # fmt: skip
        options = dict(strides=strides, padding=padding, kernel_dilation=dilation, flip_kernel=flip)
        conv = jax.jit(lambda x, kernel: convlab.conv(x, kernel, **options))

        @jax.jit
        def matrices(x, kernel):
            sparse = convlab.conv_matrix(kernel, (*spatial, 2), **options, sparse=True) @ x.ravel()
            return convlab.conv_matrix(kernel, (*spatial, 2), **options), sparse

        matrix, by_sparse = matrices(x, kernel)
        parts = [np.asarray(conv(a, b)) for a in (x, z) for b in (kernel, other)]
        assert matrix.shape == (parts[0].size, x.size)
        np.testing.assert_allclose(by_sparse, parts[0].ravel(), atol=1e-10)
        np.testing.assert_allclose(np.asarray(matrix) @ x.ravel(), parts[0].ravel(), atol=1e-10)
        combined = conv(2 * x - z, kernel + 3 * other)
        np.testing.assert_allclose(combined, 2 * parts[0] + 6 * parts[1] - parts[2] - 3 * parts[3], atol=1e-10)


@laws(12)
@given(geometries(ranks=(1, 2, 3), names=("VALID", "SAME", "SAME_LOWER", "FULL")))
def test_fold_is_the_adjoint_of_unfold(geometry):
    spatial, size, strides, padding, dilation = geometry
    with jax.enable_x64(True):
        x = numbers(2, *spatial, 2)
        options = dict(strides=strides, padding=padding, window_dilation=dilation)
        unfold = lambda x: convlab.unfold(x, size, **options)
        other = numbers(*jax.eval_shape(unfold, x).shape, seed=1)
        patches, folded = jax.jit(lambda x, other: (unfold(x), convlab.fold(other, spatial, **options)))(x, other)
        assert folded.shape == x.shape
        np.testing.assert_allclose(inner(patches, other), inner(x, folded), rtol=1e-10)


@laws(10)
@given(geometries(), st.sampled_from(["max", "min", "sum"]))
def test_pools_reduce_the_patches(geometry, name):
    spatial, size, strides, _, dilation = geometry
    x = numbers(2, *spatial, 2)

    @jax.jit
    def both(x):
        pool = getattr(convlab, f"{name}_pool")
        options = dict(window_dilation=dilation)
        return convlab.unfold(x, size, strides, **options), pool(x, size, strides, **options)

    patches, actual = both(x)
    taps = tuple(range(patches.ndim - 1 - len(size), patches.ndim - 1))
    expected = getattr(np, name)(np.asarray(patches), taps)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@laws(10)
@given(geometries(names=None, largest_stride=1), st.integers(1, 3))
def test_a_circular_convolution_commutes_with_rolling(geometry, step):
    spatial, size, _, _, dilation = geometry
    x, kernel = numbers(2, *spatial, 2), numbers(*size, 2, 3)
    axes = tuple(range(1, x.ndim - 1))

    conv = jax.jit(lambda x: convlab.conv(x, kernel, padding="CIRCULAR", kernel_dilation=dilation))
    rolled = conv(np.roll(x, (step,) * len(axes), axes))
    np.testing.assert_allclose(rolled, np.roll(conv(x), (step,) * len(axes), axes), rtol=1e-5, atol=1e-5)


@laws(10)
@given(geometries(names=None), st.integers(0, 2))
def test_padding_the_input_is_padding(geometry, which):
    spatial, size, strides, padding, dilation = geometry
    mode = ("zeros", "replicate", "constant")[which]
    value = 0.5 if mode == "constant" else 0
    x, kernel = numbers(2, *spatial, 2), numbers(*size, 2, 3)
    options = dict(strides=strides, kernel_dilation=dilation)

    @jax.jit
    def both(x):
        inside = convlab.conv(x, kernel, padding=padding, padding_mode=mode, padding_value=value, **options)
        return inside, convlab.conv(convlab.pad(x, padding, mode, value), kernel, padding="VALID", **options)

    inside, before = both(x)
    np.testing.assert_allclose(inside, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spatial, size", [((6,), (2,)), ((4, 6), (2, 3)), ((2, 4, 3), (2, 2, 1))])
def test_unpooling_puts_maxima_back(spatial, size):
    x = numbers(2, *spatial, 3).astype(np.float32)
    y, indices = jax.jit(lambda x: convlab.max_pool(x, size, size, return_indices=True))(x)
    back = np.asarray(jax.jit(lambda y, indices: convlab.max_unpool(y, indices, spatial))(y, indices))
    again = jax.jit(lambda x: convlab.max_pool(x, size, size))(np.where(back == 0, -np.inf, back))
    np.testing.assert_array_equal(again, y)
    assert ((back == x) | (back == 0)).all()
    assert (back != 0).sum() == y.size


@pytest.mark.parametrize("size, stride, pad", [(3, 2, 1), (2, 2, 0), (3, 1, 0)])
def test_unpooling_by_comparisons_is_unpooling(size, stride, pad):
    """A TPU compares if every index is near its window, and detects indices that are not."""
    spatial, x = (9, 8), numbers(2, 9, 8, 3).astype(np.float32)

    def both(x, dx):
        y, at = convlab.max_pool(x, (size,) * 2, (stride,) * 2, [(pad, pad)] * 2, return_indices=True)
        near, adding = unpool._are_near(at, spatial), [
            jax.vjp(lambda y, add=add: add(y, at, spatial, True), y) for add in (unpool._select_near, unpool._scatter)
        ]  # fmt: skip
        put = [put(y, at, spatial, False) for put in (unpool._select_near, unpool._scatter)]
        return near, unpool._are_near(at[::-1, ::-1], spatial), [put, *zip(*((z, pull(dx)[0]) for z, pull in adding))]

    near, turned, pairs = jax.jit(both)(x, numbers(2, 9, 8, 3).astype(np.float32))
    assert near and not turned
    for ours, scattered in pairs:
        np.testing.assert_allclose(ours, scattered, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spatial, out", [((6,), (3,)), ((4, 6), (2, 2)), ((7, 5), (7, None))])
def test_adaptive_pools_that_divide_are_plain_pools(spatial, out):
    x = numbers(2, *spatial, 3)
    size = tuple(n // (o or n) for n, o in zip(spatial, out))

    @jax.jit
    def pooled(x):
        averages = convlab.adaptive_avg_pool(x, out), convlab.avg_pool(x, size, size)
        return averages, (convlab.adaptive_max_pool(x, out), convlab.max_pool(x, size, size))

    averages, maxima = pooled(x)
    np.testing.assert_allclose(*averages, rtol=1e-6)
    np.testing.assert_array_equal(*maxima)


def test_special_pools_meet_the_plain_ones():
    x, window = np.abs(numbers(2, 6, 5, 3)) + 0.1, ((2, 3), (2, 1))
    calls = [
        ("gem_pool", {"p": 1.0}, "average"), ("lp_pool", {"norm_type": 1.0}, "sum"),
        ("top_k_pool", {"k": 6}, "average"),
        ("mixed_pool", {"alpha": 0.0}, "average"), ("softmax_pool", {"temperature": 1e7}, "average"),
        ("lp_pool", {"norm_type": np.inf}, "largest"), ("top_k_pool", {"k": 1}, "largest"),
        ("mixed_pool", {"alpha": 1.0}, "largest"), ("softmax_pool", {"temperature": 1e-4}, "largest"),
    ]  # fmt: skip

    @jax.jit
    def pooled(x):
        plain = {"average": convlab.avg_pool(x, *window), "largest": convlab.max_pool(x, *window)}
        return plain, [getattr(convlab, name)(x, *window, **options) for name, options, _ in calls]

    plain, results = pooled(x)
    plain["sum"] = 6 * np.asarray(plain["average"])
    for (name, _, expected), actual in zip(calls, results, strict=True):
        np.testing.assert_allclose(actual, plain[expected], rtol=2e-5, err_msg=name)


def test_a_deformed_convolution_without_offsets_is_a_convolution():
    x, kernel = numbers(2, 5, 6, 4), numbers(3, 2, 4, 3)
    options = dict(strides=(2, 1), padding=((1, 0), (0, 1)))

    @jax.jit
    def both(x, kernel):
        y = convlab.conv(x, kernel, **options)
        return convlab.deform_conv(x, jnp.zeros((*y.shape[:-1], 2 * 6 * 2)), kernel, **options), y

    np.testing.assert_allclose(*both(x, kernel), rtol=1e-5, atol=1e-5)


def test_a_local_convolution_of_one_kernel_is_a_convolution():
    x, kernel = numbers(2, 5, 6, 4), numbers(3, 2, 4, 3)
    local = np.broadcast_to(np.moveaxis(kernel, 2, 0).reshape(24, 3), (3, 5, 24, 3))
    both = jax.jit(
        lambda *a: (convlab.conv_local(a[0], a[2], kernel_size=(3, 2)), convlab.conv(*a[:2], padding="VALID"))
    )
    np.testing.assert_allclose(*both(x, kernel, local), rtol=1e-5, atol=1e-5)
