"""The window reductions of the CPU compared with a loop over windows and taps: cropped, tiling, overlapping, dilated,
strided, padded."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import convlab
from convlab._backend import window_sum
from convlab._backend.pooling import axis, operations, tpu, windows
from convlab._backend.tables import Target


@st.composite
def axes(draw):
    """Draw (size, window, stride, low, high, base dilation, window dilation) with at least one output."""
    while True:
        size, window = draw(st.integers(1, 9)), draw(st.integers(1, 5))
        stride, base, dilation = (
            draw(st.sampled_from([1, 1, 2, 3, 5])),
            draw(st.sampled_from([1, 1, 2, 3])),
            draw(st.integers(1, 3)),
        )
        low, high = draw(st.integers(-1, 6)), draw(st.integers(-1, 6))
        kept = size + min(low, 0) + min(high, 0)
        if kept > 0 and positions(size, window, stride, low, high, base, dilation).size:
            return size, window, stride, low, high, base, dilation


def positions(size, window, stride, low, high, base, dilation):
    """Return `(out, window)`: the input position that each tap of each window reads, -1 for padding."""
    dilated = (size - 1) * base + 1
    out = max(0, (dilated + low + high - (window - 1) * dilation - 1) // stride + 1)
    position = np.arange(out)[:, None] * stride + np.arange(window) * dilation - low
    return np.where((position >= 0) & (position < dilated) & (position % base == 0), position // base, -1)


def loop(x, dx, dy, spec, kind):
    """Return the maximum or minimum, its argmax, tangent and cotangent; the sum and its transpose."""
    taps = [positions(*one) for one in spec]
    shape = tuple(len(t) for t in taps)
    never = -np.inf if kind == "max" else np.inf
    best, argmax, tangent, total = np.full(shape, never), np.full(shape, -1), np.zeros(shape), np.zeros(shape)
    cotangent, sum_gradient = np.zeros(x.shape), np.zeros(x.shape)
    for out in np.ndindex(*shape):
        for number, tap in enumerate(itertools.product(*(range(t.shape[1]) for t in taps))):
            position = tuple(int(t[o, k]) for t, o, k in zip(taps, out, tap))
            if min(position) < 0:
                continue
            total[out] += x[position]
            sum_gradient[position] += dy[out]
            better = x[position] > best[out] if kind == "max" else x[position] < best[out]
            if argmax[out] < 0 or better or np.isnan(x[position]):
                best[out], argmax[out], tangent[out], won = x[position], number, dx[position], position
        if argmax[out] >= 0:
            cotangent[won] += dy[out]
    return best, argmax, tangent, cotangent, total, sum_gradient


def params(spec, lead=(1,), last=1):
    columns = list(zip(*spec))
    whole = lambda values: (1,) * len(lead) + tuple(values) + (1,)
    return dict(
        window_dimensions=whole(columns[1]),
        window_strides=whole(columns[2]),
        padding=((0, 0),) * len(lead) + tuple(zip(columns[3], columns[4])) + ((0, 0),),
        base_dilation=whole(columns[5]),
        window_dilation=whole(columns[6]),
    )


def check(spec, lead, channels, kind, odds, seed):
    """Compare with the loop the reductions of integers, of which a fifth is replaced by each of `odds` in turn."""
    window = params(spec, lead)

    @jax.jit
    def reductions(x, dx, dy):
        add = functools.partial(window_sum, params=window)
        axes = axis.axes_of(x.shape, window)
        return (
            windows.window_max(x, axes, reducer=kind),
            windows.window_argmax(x, axes, reducer=kind),
            windows.max_tangent(x, dx, axes, reducer=kind),
            windows.max_cotangent(x, dy, axes, reducer=kind),
            add(x),
            jax.linear_transpose(add, jax.ShapeDtypeStruct(x.shape, x.dtype))(dy)[0],
            tpu.window_argmax(x, window, reducer=kind),
            tpu.max_cotangent(x, dy, window, reducer=kind),
        )

    for odd in odds:
        check_numbers(reductions, spec, lead, channels, kind, odd, np.random.default_rng(seed))


def check_numbers(reductions, spec, lead, channels, kind, odd, rng):
    sizes, outs = [one[0] for one in spec], [len(positions(*one)) for one in spec]
    draw = lambda shape: rng.integers(-3, 4, (*lead, *shape, channels)).astype(np.float32)
    x, dx, dy = draw(sizes), draw(sizes), draw(outs)
    x[rng.random(x.shape) < 0.2] = odd
    index = [*np.ndindex(*lead)]
    wanted = [
        [loop(x[i][..., c], dx[i][..., c], dy[i][..., c], spec, kind) for c in range(channels)] for i in index
    ]  # fmt: skip
    gather = lambda n: np.stack([np.stack([one[n] for one in row], -1) for row in wanted]).reshape(
        *lead, *wanted[0][0][n].shape, -1
    )
    best, argmax, tangent, cotangent, total, sum_gradient = map(gather, range(6))

    got = [np.asarray(a) for a in reductions(x, dx, dy)]
    np.testing.assert_array_equal(got[0], best)
    np.testing.assert_array_equal(got[1][argmax >= 0], argmax[argmax >= 0])
    np.testing.assert_array_equal(got[2], tangent)
    np.testing.assert_array_equal(got[3], cotangent)
    np.testing.assert_array_equal(got[4], total)
    np.testing.assert_array_equal(got[5], sum_gradient)
    np.testing.assert_array_equal(got[6][argmax >= 0], argmax[argmax >= 0])
    if odd == 0:  # lax's own instruction treats NaN differently, and on the CPU its pads are chosen in ties
        np.testing.assert_array_equal(got[7], cotangent)


ODD = st.sampled_from([0, np.nan, -np.inf, np.inf])
SLOW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@SLOW
@given(
    st.lists(axes(), min_size=1, max_size=2),
    st.sampled_from([(), (1,), (2,), (2, 1)]),
    st.sampled_from(["max", "min"]),
    ODD,
)
def test_any_window(spec, lead, kind, odd):
    check(spec, lead, 2, kind, [odd], seed=0)


@pytest.mark.parametrize("kind", ["max", "min"])
def test_tiles_of_many_channels_are_taken_at_once(kind):
    spec = [(7, 2, 3, 0, -1, 1, 1), (6, 2, 2, 0, 0, 1, 1)]
    x = jnp.zeros((2, 7, 6, 16))
    assert len(windows._stages(x, axis.axes_of(x.shape, params(spec, (2,))))) == 1
    check(spec, (2,), 16, kind, [0, np.nan, -np.inf], seed=1)


@pytest.mark.parametrize("kind", ["max", "min"])
def test_tiles_of_few_channels_fill_vectors_with_images(kind):
    spec = [(7, 2, 3, 0, -1, 1, 1), (6, 2, 2, 0, 0, 1, 1)]
    window = params(spec, (32,))
    rng = np.random.default_rng(4)
    x, dx = (rng.integers(-3, 4, (32, 7, 6, 3)).astype(np.float32) for _ in range(2))
    some = rng.random(x.shape) < 0.2
    dy = rng.integers(-3, 4, (32, 2, 3, 3)).astype(np.float32)
    for name, others in (("window_max", ()), ("max_tangent", (dx,)), ("max_cotangent", (dy,))):
        formulation, _, body = operations.choose(name, False, x.shape, window, Target(), reducer=kind)
        assert formulation == "batch_vectorized"
        axes = axis.axes_of(x.shape, window)
        reduced = functools.partial(getattr(windows, name), reducer=kind)
        both = jax.jit(lambda *arrays: (body(*arrays), reduced(*arrays, axes)))
        for odd in (0, np.nan, -np.inf):
            np.testing.assert_array_equal(*both(np.where(some, np.float32(odd), x), *others))


@pytest.mark.parametrize("kind", ["max", "min"])
@pytest.mark.parametrize(
    "spec", [(90, 40, 1, 3, 5, 1, 1), (50, 35, 2, 0, 40, 2, 2), (90, 40, 40, 0, 0, 1, 1), (40, 70, 1, 69, 0, 1, 1)]
)
def test_long_windows_are_loops(spec, kind):
    """More elements than are unrolled: overlapping, dilated, tiling, and wider than the image."""
    check([spec], (2,), 2, kind, [0, np.nan, -np.inf], seed=5)


def test_many_runs_are_one_padded_copy():
    spec = [(12, 9, 1, 4, 4, 1, 1)]
    assert axis.Axis(0, *spec[0]).runs is None
    check(spec, (2,), 2, "max", [np.nan], seed=2)
    check(spec, (1,), 2, "min", [-np.inf], seed=3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("strides", [1, 2])
def test_the_gradient_of_a_window_of_one_has_the_inputs_dtype(dtype, strides):
    x = jnp.arange(2 * 3 * 5, dtype=dtype).reshape(2, 3, 5, 1)
    for pool in (convlab.max_pool, convlab.min_pool):
        gradient = jax.jit(jax.grad(lambda x: (3 * pool(x, (1, 1), strides)).sum().astype(jnp.float32)))(x)
        expected = np.zeros(x.shape, np.float32)
        expected[:, ::strides, ::strides] = 3
        assert gradient.dtype == dtype
        np.testing.assert_array_equal(gradient.astype(jnp.float32), expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_window_over_all_positions_is_xlas_reduction(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 5)), dtype)
    wide = np.asarray(x, np.float64)
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    for strides in (1, (7, 6)):
        (step,) = convlab.explain(lambda x: convlab.avg_pool(x, (7, 6), strides), x, platform="cpu")
        assert step.formulation == "lax" and "all positions" in step.reason
        average = convlab.avg_pool(x, (7, 6), strides)
        np.testing.assert_allclose(np.asarray(average, np.float64)[:, 0, 0], wide.mean((1, 2)), rtol=0, atol=tolerance)
        np.testing.assert_array_equal(np.asarray(convlab.max_pool(x, (7, 6), strides))[:, 0, 0], x.max((1, 2)))
    (step,) = convlab.explain(lambda x: convlab.avg_pool(x, (4, 4)), x[:, :4, :4], platform="cpu")  # few elements
    assert step.formulation == "windows"
