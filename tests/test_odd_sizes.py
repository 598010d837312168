"""Extreme sizes: empty batches, no axis, windows of many taps, more positions than 32 bits hold; and extreme
numbers."""

import functools
import inspect

import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bad_calls import BAD_CALLS
from cases import CASES, MANY

import convlab
import convlab.linen
import convlab.nnx

BATCHED = {"x", "indices", "offset", "patches", "samples", "grid", "theta", "boxes", "valid", "segment_ids"}


def output(result):
    return result[0] if isinstance(result, tuple) else result


def emptied(case):
    """Return the case's arrays with an empty batch: their first axis, or a new one if the image has no batch axis."""
    names = [*inspect.signature(getattr(convlab, case.function)).parameters][: len(case.arrays)] + [*case.named]
    per_image = BATCHED | ({"mask"} if case.function == "deform_conv" else set())
    return [array[:0] if name in per_image else array for name, array in zip(names, case.draw())]


def with_batch_axis(case):
    return case.arrays[0].shape[0] in (0, 1, 2) and "no batch axis" not in case.what and len(case.arrays[0].shape) > 2


EMPTY = [
    *{
        case.function: case for case in reversed(CASES) if case.function != "conv_matrix" and with_batch_axis(case)
    }.values(),
    *(case for case in MANY if with_batch_axis(case)),
    *(case for case in CASES if case.function == "conv_transpose" and case.what in ("CIRCULAR", "adjoint of wrapping")),
]


def test_every_function_is_tested_with_an_empty_batch():
    without = {
        "Tuning",
        "Window",
        "accelerate",
        "autotune",
        "conv_general_dilated",
        "conv_matrix",
        "explain",
        "freeze",
        "nms",
        "optimize",
    }  # nms has no batch; see below
    assert {case.function for case in EMPTY} == set(convlab.__all__) - without


@pytest.mark.parametrize("case", EMPTY, ids=str)
def test_an_empty_batch_gives_an_empty_result(case):
    arrays, whole = emptied(case), jax.eval_shape(case.convlab, *case.draw())
    empty = jax.eval_shape(case.convlab, *arrays)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(empty)):
        assert other.shape == (0, *one.shape[1:]) and other.dtype == one.dtype
    if case.dtype.kind == "f":

        def loss(x):
            return output(case.convlab(x, *arrays[1:])).astype(jnp.float32).sum()

        assert jax.eval_shape(jax.grad(loss), arrays[0]).shape == arrays[0].shape


@pytest.mark.parametrize(
    "function", ["max_unpool", "conv_transpose", "softmax_pool", "stochastic_pool", "adaptive_max_pool", "deform_conv"]
)
def test_an_empty_batch_runs(function):
    case = next(case for case in EMPTY if case.function == function)
    assert output(jax.jit(case.convlab)(*emptied(case))).shape[0] == 0


def test_nms_of_no_boxes_keeps_none():
    indices, count = convlab.nms(jnp.zeros((0, 4)), jnp.zeros(0), iou_threshold=0.5, max_outputs=2)
    assert indices.tolist() == [-1, -1] and count == 0


def test_regions_of_no_image_and_no_regions():
    x, boxes = np.ones((2, 4, 4, 3), np.float32), np.array([[0, 0, 0, 2, 2]], np.float32)
    both = convlab.roi_align, convlab.roi_pool
    no_image = jax.jit(lambda x, boxes: [pooled(x, boxes, (2, 1)) for pooled in both])
    average, maximum = no_image(x[:0], boxes)
    assert np.isnan(average).all() and not np.any(maximum)
    assert average.shape == maximum.shape == (1, 2, 1, 3)
    assert {y.shape for y in no_image(x, boxes[:0])} == {(0, 2, 1, 3)}


def test_layers_of_an_empty_batch():
    x = np.ones((0, 4, 4, 2), np.float32)
    layers = convlab.nnx.Flatten(), convlab.nnx.GlobalMaxPool(), convlab.nnx.SpatialPyramidPool()
    for y in jax.jit(lambda x: [layer(x) for layer in layers])(x):
        assert y.shape[0] == 0
    assert convlab.linen.Flatten().apply({}, x).shape == (0, 32)
    for name in ("Conv", "ConvTranspose", "DepthwiseConv", "ConvLocal", "WSConv"):
        made = (2, (3, 3)) if name == "DepthwiseConv" else (2, 5, (3, 3))
        make = jax.jit(lambda x: getattr(convlab.nnx, name)(*made, rngs=flax.nnx.Rngs(0))(x))
        assert make(x).shape[:3] == (0, 4, 4)


# --- no axis ------------------------------------------------------------------------------------------------------


def test_every_size_refuses_to_be_empty():
    sizes = {"window_shape", "output_shape", "kernel_size", "levels"}
    wanted = {
        name
        for name in convlab.__all__
        if name not in ("accelerate", "explain", "conv_transpose")
        and sizes & inspect.signature(getattr(convlab, name)).parameters.keys()
    }
    assert wanted <= {row.function for row in BAD_CALLS if () in [row.options.get(size) for size in sizes]}


@pytest.mark.parametrize(
    "name", ["Conv", "ConvTranspose", "ConvLocal", "DepthwiseConv", "WSConv", "CausalConv", "DeformConv"]
)
def test_a_kernel_has_an_axis(name):
    text = r"`kernel_size` must have a number for at least one spatial axis, got \(\)\."
    first = () if name == "DepthwiseConv" else (4,)
    for sequence in ((), []):
        with pytest.raises(ValueError, match=text.replace(r"\(\)", r"(\(\)|\[\])")):
            getattr(convlab.nnx, name)(3, *first, sequence, rngs=flax.nnx.Rngs(0))
        with pytest.raises(ValueError, match=text.replace(r"\(\)", r"(\(\)|\[\])")):
            getattr(convlab.linen, name)(*first, sequence)


# --- many taps ----------------------------------------------------------------------------------------------------


def lines(function, *arrays):
    """Return the number of lines of the program of the function and of its gradient."""

    def loss(*arrays):
        return (output(function(*arrays)) ** 2).sum()

    def both(*arrays):
        return function(*arrays), jax.grad(loss)(*arrays)

    return jax.jit(both).lower(*arrays).as_text().count("\n")


def program(name, **options):
    """Return the length of a pool's program as a function of the number of taps."""

    def of(size):
        strides = {"strides": size} if options.get("strides") == "window" else {}
        given = {k: v for k, v in options.items() if k != "strides" or v != "window"} | strides
        return lines(lambda x: getattr(convlab, name)(x, size, **given), jnp.ones((1, 600, 1)))

    return of


KEY = jax.random.key(0)
PROGRAMS = [
    ("unfold", dict(strides=7)),
    ("softmax_pool", {}),
    ("softmax_pool", dict(strides="window")),
    ("top_k_pool", dict(k=3)),
    ("top_k_pool", dict(k=30)),
    ("stochastic_pool", dict(key=KEY)),
    ("lp_pool", dict(strides="window", norm_type=2.5)),
    ("gem_pool", dict(strides="window")),
    ("blur_pool", dict(padding="VALID")),
    ("pool", dict(init=1.0, reduce_fn=jnp.multiply)),
]


@pytest.mark.parametrize(
    "name, options", PROGRAMS, ids=lambda value: value if isinstance(value, str) else ", ".join(value)
)
def test_programs_grow_at_most_with_the_logarithm_of_the_window(name, options):
    if name == "pool":
        lengths = [
            lines(lambda x: convlab.pool(x, 1.0, jnp.multiply, size), jnp.ones((1, 600, 1))) for size in (100, 400)
        ]
    else:
        lengths = [program(name, **options)(size) for size in (100, 200, 400)]
    by_halves = name in ("softmax_pool", "top_k_pool") and "strides" not in options and options.get("k", 1) < 30
    if by_halves:  # the same few operations for each doubling of the window, so its logarithm counts
        assert 0 < lengths[1] - lengths[0] == lengths[2] - lengths[1] <= 125 and lengths[2] < 1400
    else:
        assert len(set(lengths)) == 1 and lengths[0] < 800


def test_programs_do_not_grow_with_the_number_of_windows():
    x = jnp.ones((1, 600, 1))
    for name in ("adaptive_avg_pool", "adaptive_max_pool", "spatial_pyramid_pool"):
        sizes = [((31,),), ((401,),)] if name == "spatial_pyramid_pool" else [(31,), (401,)]
        lengths = [lines(lambda x: getattr(convlab, name)(x, *size), x) for size in sizes]
        assert lengths[0] == lengths[1] < 200, name
    unpooled = [
        lines(lambda x: convlab.max_unpool(x, jnp.zeros((1, 3, 1), jnp.int32), n), jnp.ones((1, 3, 1)))
        for n in (3000, 9000)
    ]
    assert unpooled[0] == unpooled[1]


def test_programs_of_local_and_deformed_convolutions_do_not_grow_with_the_window():
    x, offset = jnp.ones((1, 600, 1)), jnp.ones((1, 1, 1))
    local, deformed = [], []
    for taps in (100, 400):
        kernel = jnp.ones((600 - taps + 1, taps, 1))
        local.append(lines(lambda x: convlab.conv_local(x, kernel, kernel_size=taps), x))
        kernel, wide = jnp.ones((taps, 1, 1)), jnp.broadcast_to(offset, (1, 600 - taps + 1, taps))
        deformed.append(lines(lambda x: convlab.deform_conv(x, wide, kernel, padding="VALID"), x))
    assert local[0] == local[1] < 200 and deformed[0] == deformed[1] < 600


def test_indices_of_many_taps_are_one_program():
    counts = [
        jax.jit(lambda x: convlab.max_pool(x, size, size, return_indices=True)[1])
        .lower(jnp.ones((1, 40, 40, 1)))
        .as_text()
        .count("\n")
        for size in (10, 20)
    ]
    assert counts[0] == counts[1] < 200


# --- more positions than 32 bits hold -----------------------------------------------------------------------------

WIDE = jax.ShapeDtypeStruct((1, 131072, 32768, 1), jnp.float32)
INDEXED = {
    "max_pool": lambda x: convlab.max_pool(x, (2, 2), (2, 2), return_indices=True),
    "min_pool": lambda x: convlab.min_pool(x, (2, 2), (2, 2), return_indices=True),
    "max_pool, many taps": lambda x: convlab.max_pool(x, (64, 64), (64, 64), return_indices=True),
    "adaptive_max_pool": lambda x: convlab.adaptive_max_pool(x, (4, 4), return_indices=True),
    "fractional_max_pool": lambda x: convlab.fractional_max_pool(
        x, (2, 2), output_shape=(4, 4), key=KEY, return_indices=True
    ),
}


@pytest.mark.parametrize("name", INDEXED)
def test_indices_that_32_bits_do_not_hold_are_refused_or_have_64(name):
    text = (
        r"`x` must have fewer than 2\*\*31 positions for indices of 32 bits, got \(131072, 32768\)\. Set jax_enable_x64"
    )
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(INDEXED[name], WIDE)
    with jax.enable_x64(True):
        assert jax.eval_shape(INDEXED[name], WIDE)[1].dtype == jnp.int64
        small = jax.ShapeDtypeStruct((1, 128, 128, 1), jnp.float32)
        assert jax.eval_shape(INDEXED[name], small)[1].dtype == jnp.int32
    assert jax.eval_shape(lambda x: convlab.max_pool(x, (2, 2)), WIDE).shape == (1, 131071, 32767, 1)


def test_rows_of_deformed_convolutions_that_32_bits_do_not_hold():
    x = jax.ShapeDtypeStruct((64, 8192, 8192, 1), jnp.float32)
    offset = jax.ShapeDtypeStruct((64, 1, 1, 2), jnp.float32)
    call = lambda x, offset: convlab.deform_conv(x, offset, jnp.ones((1, 1, 1, 1), jnp.float32), strides=8192)
    with pytest.raises(ValueError, match=r"`x` must have fewer than 2\*\*31 positions"):
        jax.eval_shape(call, x, offset)
    with jax.enable_x64(True):
        assert jax.eval_shape(call, x, offset).shape == (64, 1, 1, 1)


def test_indices_of_64_bits_are_right():
    with jax.enable_x64(True):
        index = jax.eval_shape(lambda x: convlab.max_pool(x, (2**30 + 2, 1), return_indices=True)[1],
                               jax.ShapeDtypeStruct((1, 2**30 + 2, 2, 1), jnp.int8))  # fmt: skip
        assert index.dtype == jnp.int64
        y = convlab.max_unpool(jnp.ones((1, 1, 1)), jnp.array([[[-1]]]), 4)
        np.testing.assert_array_equal(y, np.zeros((1, 4, 1)))


# --- extreme numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [2, 5, 40])
def test_power_means_neither_overflow_nor_underflow(taps):
    powers = (0.5, 2.0, 3.0, 7.5, -2.0)

    def of_power(x, p, learned):
        norm = jax.value_and_grad(lambda x: convlab.lp_pool(x, taps, norm_type=p).sum())(x)
        return *norm, *(convlab.gem_pool(x, taps, p=power) for power in (p, learned) if p > 0)

    @jax.jit
    def means(x, learned):
        drawn = convlab.stochastic_pool(x, taps), convlab.stochastic_pool(x, taps, key=KEY)
        return [of_power(x, *both) for both in zip(powers, learned)], drawn

    for size in (1e-30, 1e-25, 1.0, 1e25, 1e30):
        x = (np.linspace(0.5, 1, taps) * size).astype(np.float32).reshape(1, taps, 1)
        values = x.astype(np.float64).ravel()
        by_power, (expectation, drawn) = means(x, [np.full(1, p, np.float32) for p in powers])
        for p, (norm, slope, *generalized) in zip(powers, by_power, strict=True):
            np.testing.assert_allclose(norm.item(), (values**p).sum() ** (1 / p), rtol=1e-5)
            expected = (values**p).sum() ** (1 / p - 1) * values ** (p - 1)
            np.testing.assert_allclose(slope.ravel(), expected, rtol=1e-4)
            assert len(generalized) == 2 * (p > 0)
            for mean in generalized:
                np.testing.assert_allclose(mean.item(), (values**p).mean() ** (1 / p), rtol=1e-5)
        np.testing.assert_allclose(expectation.item(), (values**2).sum() / values.sum(), rtol=1e-5)
        assert drawn.item() in x


@pytest.mark.parametrize("taps", [3, 40])
def test_a_nan_or_an_infinity_is_always_drawn(taps):
    """This holds for every key, and only in its own windows."""
    x = np.abs(np.random.default_rng(0).normal(size=(1, 3 * taps, 1))).astype(np.float32) + 1
    x[0, 0], x[0, taps] = np.nan, np.inf
    drawn = jax.jit(lambda x, key: [convlab.stochastic_pool(x, taps, taps, key=k).ravel() for k in (None, key)])
    for y in (*drawn(x, KEY), drawn(x, jax.random.key(7))[1]):
        assert np.isnan(y[0]) and np.isposinf(y[1]) and np.isfinite(y[2])
    pair = np.array([np.nan, 1], np.float32).reshape(1, 2, 1)
    assert np.isnan(jax.jit(lambda x, key: convlab.stochastic_pool(x, 2, key=key))(pair, KEY).item())


def test_nonpositive_values_are_never_drawn():
    x = jnp.array([1.0, 0.0, -1.0]).reshape(1, 3, 1)
    drawn = jax.jit(jax.vmap(lambda key: convlab.stochastic_pool(x, 3, key=key)))(jax.random.split(KEY, 200))
    np.testing.assert_array_equal(drawn, np.ones_like(drawn))


def test_the_gradient_of_a_learned_temperature_is_finite():
    """It is `-sum w (x - y)^2 / T^2`, also with padding or -inf."""
    x = np.array([1.0, 2.0, 3.0])

    @functools.partial(jax.jit, static_argnames="padding")
    def of_temperature(t, x, padding):
        return jax.grad(lambda t: convlab.softmax_pool(x, 3, temperature=t, padding=padding).sum())(t)

    def slope(x, padding="VALID"):
        return of_temperature(1.0, np.array(x, np.float32).reshape(1, -1, 1), padding)

    def expected(*windows):
        total = 0
        for w in map(np.asarray, windows):
            weight = np.exp(w) / np.exp(w).sum()
            total -= (weight * (w - (weight * w).sum()) ** 2).sum()
        return total

    np.testing.assert_allclose(slope(x, padding="SAME"), expected(x[:2], x, x[1:]), rtol=1e-5)
    np.testing.assert_allclose(slope(x, padding="SAME"), -0.8176, atol=1e-4)
    np.testing.assert_allclose(slope([1.0, -np.inf, 3.0]), expected([1.0, 3.0]), rtol=1e-5)
    assert np.isfinite(slope([1.0, np.inf, 3.0])) and slope([-np.inf] * 3) == 0


def test_an_index_of_padding_only_is_ignored():
    x = np.array([0, 1, 1, 0], np.float32).reshape(1, 4, 1)
    image = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)

    @jax.jit
    def unpooled(x, image):
        y, at = convlab.max_pool(x, 2, 1, [(2, 0)], return_indices=True)
        of_image = convlab.max_pool(image, (2, 2), 1, [(2, 2), (2, 2)], return_indices=True)
        return at, convlab.max_unpool(y, at, 4), convlab.max_unpool(*of_image, (3, 3))

    at, back, back_in_image = unpooled(x, image)
    np.testing.assert_array_equal(at.ravel(), [-1, 0, 1, 1, 2])
    np.testing.assert_array_equal(back.ravel(), [0, 1, 1, 0])
    assert np.isfinite(back_in_image).all()


@pytest.mark.parametrize(
    "spatial, kernel, options",
    [
        ((7, 7), (3, 3, 4, 6), {}),
        ((9, 5), (3, 2, 2, 6), dict(kernel_dilation=7, strides=(2, 1), feature_group_count=2)),
        ((4, 5), (3, 3, 4, 6), dict(padding=((5, 1), (-1, 4)), strides=3)),  # pads with outputs that read only padding
        ((3,), (9, 2, 3), {}),
        ((2, 2), (3, 3, 2, 3), dict(padding=9, strides=4)),
        ((6, 6), (3, 3, 2, 3), dict(padding=((-2, 0), (3, -3)))),
    ],
)
def test_products_of_the_taps_inside(spatial, kernel, options):
    """`gemm` leaves out what falls on padding; lax's own says what is right, for the values and both gradients."""
    rng = np.random.default_rng(0)
    channels = kernel[-2] * options.get("feature_group_count", 1)
    arrays = [rng.normal(size=s).astype(np.float32) for s in ((2, *spatial, channels), kernel)]

    def results(method, x, k):
        y, backward = jax.vjp(lambda x, k: convlab.conv(x, k, method=method, **options), x, k)
        return y, *backward(y)

    both = jax.jit(lambda *arrays: [results(method, *arrays) for method in ("gemm", "lax")])
    for got, expected in zip(*jax.device_get(both(*arrays))):
        np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    "spatial, window, options",
    [
        ((9, 8), (3, 3), {}),
        ((19, 18), (3, 3), dict(strides=2)),
        ((19, 18), (3, 2), dict(kernel_dilation=2)),
        ((9,), (3,), {}),
        ((5, 6, 4), (3, 1, 2), {}),
        ((9, 8), (3, 3), dict(padding=((0, 1), (-1, 2)))),
        ((30, 8), (7, 1), dict(strides=3)),
        ((40,), (5,), dict(padding=[(9, 1)], strides=2, kernel_dilation=2)),  # outputs that read padding only
        ((2, 8), (3, 3), dict(padding=2)),  # nothing inside: the padded copy serves
        ((4, 6, 5), (3, 3, 3), {}),  # three axes: likewise
    ],
)
def test_large_depthwise_images_are_computed_by_regions(spatial, window, options, monkeypatch):
    """The border apart from the inside, without a padded copy; lax's own says what is right, gradients too."""
    from convlab._backend.formulations import taps

    monkeypatch.setattr(taps, "_LARGE", 1)
    rng = np.random.default_rng(0)
    x, k = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, *spatial, 4), (*window, 1, 4)))

    def results(method):
        y, backward = jax.vjp(lambda x, k: convlab.conv(x, k, feature_group_count=4, method=method, **options), x, k)
        return y, *backward(y)

    lowered = jax.jit(lambda: results("taps")[0]).lower().as_text()
    apart = spatial not in ((2, 8), (4, 6, 5), (5, 6, 4))
    assert ("stablehlo.concatenate" in lowered) == apart
    for got, expected in zip(jax.jit(lambda: results("taps"))(), jax.jit(lambda: results("lax"))()):
        np.testing.assert_allclose(got, expected, atol=2e-6 * float(jnp.abs(expected).max()))
