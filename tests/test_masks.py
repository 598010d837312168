"""Packed sequences and padded batches give the results of single sequences, and masked values change no bit."""

import functools

import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convlab
import convlab.linen
import convlab.nnx

RNG = np.random.default_rng(0)
LENGTHS = np.array([[5, 1, 8, 6], [9, 4, 1, 6]])
IDS = np.stack([np.repeat([7, 0, 3, 1], lengths) for lengths in LENGTHS]).astype(np.int32)
X = RNG.normal(size=(2, 20, 6)).astype(np.float32)
VALID = np.arange(20) < np.array([[13], [20]])


def sequences(ids=IDS):
    return [(n, ids[n] == number) for n in range(len(ids)) for number in np.unique(ids[n])]


def close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max(initial=0))


WINDOWS = [  # taps, groups, features, options
    (2, 6, 6, dict(padding="CAUSAL")),
    (4, 6, 6, dict(padding="CAUSAL")),
    (3, 6, 12, dict(padding="SAME", kernel_dilation=2)),
    (5, 1, 4, dict(padding=((1, 3),))),
    (4, 2, 4, dict(padding="SAME_LOWER", flip_kernel=True)),
    (27, 6, 6, dict(padding="CAUSAL")),
    (26, 3, 3, dict(padding="SAME")),
]


@pytest.mark.parametrize("taps, groups, features, options", WINDOWS, ids=str)
def test_packed_sequences_are_the_sequences_alone(taps, groups, features, options):
    kernel = RNG.normal(size=(taps, 6 // groups, features)).astype(np.float32)
    bias, weight = (RNG.normal(size=of).astype(np.float32) for of in (features, (2, 20, features)))
    conv = functools.partial(convlab.conv, feature_group_count=groups, **options)

    def packed(x, kernel):
        return conv(x, kernel, bias, segment_ids=IDS)

    def apart(x, kernel):  # each sequence after the other, in one program
        alone = [conv(x[n][where], kernel, bias) for n, where in sequences()]
        return jnp.concatenate(alone)

    def both(x, kernel):
        (y, pull), (alone, pull_apart) = jax.vjp(packed, x, kernel), jax.vjp(apart, x, kernel)
        return y, pull(weight), alone, pull_apart(rows)

    order = np.concatenate([20 * n + np.flatnonzero(where) for n, where in sequences()])
    rows = weight.reshape(40, features)[order]
    y, gradients, expected, gradients_apart = jax.jit(both)(X, kernel)
    close(y.reshape(40, features)[order], expected, 1e-6)
    for actual, alone in zip(gradients, gradients_apart):
        close(actual, alone, 1e-5)


@pytest.mark.parametrize("taps, groups, features, options", WINDOWS[1:5], ids=str)
def test_another_sequence_changes_no_bit(taps, groups, features, options):
    kernel = RNG.normal(size=(taps, 6 // groups, features)).astype(np.float32)

    @jax.jit
    def results(x):
        y, pull = jax.vjp(lambda x: convlab.conv(x, kernel, segment_ids=IDS, feature_group_count=groups, **options), x)
        return y, pull(y)[0]

    for (n, where), odd in zip(sequences()[1::2], (np.nan, np.inf, -3e38)):
        changed = np.where((np.arange(2) == n)[:, None, None] & where[:, None], X, odd).astype(np.float32)
        for before, after in zip(results(X), results(changed)):
            np.testing.assert_array_equal(np.asarray(before)[n][where], np.asarray(after)[n][where])


def test_a_causal_convolution_with_strides_keeps_sequences_that_begin_at_multiples_of_it():
    kernel, ids = RNG.normal(size=(3, 6, 4)).astype(np.float32), np.repeat([[1, 2, 3]], [6, 4, 10], 1)

    @jax.jit
    def both(x):
        y = convlab.conv(x, kernel, segment_ids=ids, padding="CAUSAL", strides=2)
        alone = [convlab.conv(x[:, a:b], kernel, padding="CAUSAL", strides=2) for a, b in ((0, 6), (6, 10), (10, 20))]
        return y, jnp.concatenate(alone, 1)

    close(*both(X[:1]), 1e-6)


LAYERS = [
    ("Conv", (4, 3), dict(padding="CAUSAL")),
    ("DepthwiseConv", (4,), dict(multiplier=2)),
    ("WSConv", (4, 3), {}),
    ("SeparableConv", (5, 3), {}),
    ("CausalConv", (4, 3), dict(kernel_dilation=2, weight_norm=True)),
]


@pytest.mark.parametrize("name, made, options", LAYERS, ids=lambda value: value if isinstance(value, str) else "")
def test_layers_take_masks(name, made, options):
    layer = getattr(convlab.nnx, name)(6, *made, **options, rngs=flax.nnx.Rngs(0))
    other, both = getattr(convlab.linen, name)(*made, **options), dict(segment_ids=IDS, valid=VALID)
    variables = {"params": flax.nnx.to_pure_dict(flax.nnx.state(layer, flax.nnx.Param))}

    @jax.jit
    def results(x):
        alone = [layer(x[0, first:last]) for first, last in ((0, 5), (5, 6), (6, 14), (0, 13))]
        padded = layer(jnp.where(VALID[..., None], x, jnp.nan), valid=VALID)
        return layer(x, segment_ids=IDS), padded, alone, layer(x, **both), other.apply(variables, x, **both)

    packed, padded, (*alone, first), in_nnx, in_linen = results(X)
    close(packed[0, :14], np.concatenate(alone), 1e-5)
    close(padded[0, :13], first, 1e-5)
    np.testing.assert_allclose(in_linen, in_nnx, rtol=1e-5, atol=1e-5)


def test_hooks_of_layers_receive_zeros_and_no_segments():
    layer = convlab.nnx.Conv(6, 4, 3, conv_general_dilated=jax.lax.conv_general_dilated, rngs=flax.nnx.Rngs(0))
    expected = convlab.conv(X, layer.kernel[...], layer.bias[...], valid=VALID)
    np.testing.assert_allclose(layer(X, valid=VALID), expected, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"`segment_ids` must be None for a `conv_general_dilated` hook, got \(2, 20\)"
    ):
        layer(X, segment_ids=IDS)


STREAMS = [(1, 2, 6, (1, 3, 0, 16)), (2, 1, 2, (3, 1, 16)), (3, 2, 1, (0, 12, 8)), (5, 1, 1, (4, 16))]


@pytest.mark.parametrize("strides, dilation, groups, chunks", STREAMS)
def test_a_sequence_that_begins_in_a_chunk_reads_no_earlier_position(strides, dilation, groups, chunks):
    options = dict(kernel_dilation=dilation, feature_group_count=groups)
    layer = convlab.nnx.CausalConv(6, 12, 3, strides, **options, rngs=flax.nnx.Rngs(0))
    other = convlab.linen.CausalConv(12, 3, strides, **options)
    params = flax.nnx.to_pure_dict(flax.nnx.state(layer, flax.nnx.Param))

    @flax.nnx.jit
    def results(layer):
        parts = [jnp.split(jnp.asarray(a), np.cumsum(chunks)[:-1], 1) for a in (X, IDS, VALID)]
        layer.init_cache(X.shape, packed=True)
        steps = [layer.step(x, segment_ids=ids, valid=valid) for x, ids, valid in zip(*parts)]
        variables, others = {"params": params, "cache": other.init_cache(X.shape, packed=True)}, []
        for x, ids, valid in zip(*parts):
            y, cache = other.apply(variables, x, segment_ids=ids, valid=valid, method="step", mutable=["cache"])
            variables, others = variables | cache, [*others, y]
        return layer(X, segment_ids=IDS, valid=VALID), jnp.concatenate(steps, 1), jnp.concatenate(others, 1)

    whole, steps, others = results(layer)
    np.testing.assert_allclose(steps, whole, atol=1e-5)
    np.testing.assert_allclose(others, whole, atol=1e-5)


def test_a_cache_is_for_packed_sequences_or_not():
    layer, other = convlab.nnx.CausalConv(6, 4, 3, rngs=flax.nnx.Rngs(0)), convlab.linen.CausalConv(4, 3)
    params = other.init(jax.random.key(0), X)
    for packed, given, text in ((False, IDS, r"be None for a cache without segments, got \(2, 20\)\. `init_cache"),
                                (True, None, "be given for a cache of packed sequences, got None")):  # fmt: skip
        layer.init_cache(X.shape, packed=packed)
        with pytest.raises(ValueError, match="`segment_ids` must " + text):
            layer.step(X, segment_ids=given)
        variables = params | {"cache": other.init_cache(X.shape, packed=packed)}
        with pytest.raises(ValueError, match="`segment_ids` must " + text):
            other.apply(variables, X, segment_ids=given, method="step", mutable=["cache"])


IMAGES = RNG.normal(size=(2, 7, 6, 3)).astype(np.float32)
SIZES = [(5, 6), (7, 4)]  # of the images in it
INSIDE = np.stack([(np.arange(7)[:, None] < h) & (np.arange(6) < w) for h, w in SIZES])
POOLS = [
    ("max_pool", {}), ("min_pool", {}), ("sum_pool", {}), ("avg_pool", dict(count_include_pad=False)),
    ("lp_pool", dict(norm_type=1.5)), ("lp_pool", dict(norm_type=-2.0)), ("softmax_pool", {}),
        ("top_k_pool", dict(k=5)),
    ("stochastic_pool", {}), ("pool", dict(init=1.0, reduce_fn=jnp.multiply)),
]  # fmt: skip
UNPADDED = [
    ("lp_pool", dict(ceil_mode=True, strides=2)),
    ("gem_pool", {}),
    ("mixed_pool", {}),
    ("avg_pool", {}),
]  # equal without padding only


@pytest.mark.parametrize(
    "name, options, padding", [*((*p, 1) for p in POOLS), *((*p, 0) for p in (*POOLS, *UNPADDED))], ids=str
)
def test_padded_batches_are_the_images_alone(name, options, padding):
    """Values and gradients agree, also if the padding contains NaN."""
    pool = functools.partial(getattr(convlab, name), window_shape=(3, 2), padding=padding, **options)

    def slopes(function, *arrays):
        y, pull = jax.vjp(function, *arrays)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    @jax.jit
    def results(x):
        batch, pull = jax.vjp(lambda x: pool(jnp.where(INSIDE[..., None], x, jnp.nan), valid=INSIDE), x)
        alone = [slopes(pool, x[n : n + 1, :h, :w]) for n, (h, w) in enumerate(SIZES)]
        sent = jnp.stack([jnp.zeros(batch.shape[1:])] * 2)
        for n, (y, _) in enumerate(alone):
            direction = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape[1:])
            sent = sent.at[n, : y.shape[1], : y.shape[2]].set(direction)
        return batch, pull(sent)[0], alone

    y, slope, alone = results(IMAGES)
    for n, ((h, w), (expected, (expected_slope,))) in enumerate(zip(SIZES, alone)):
        close(y[n, : expected.shape[1], : expected.shape[2]], expected[0], 1e-6)
        close(slope[n, :h, :w], expected_slope[0], 1e-5)
        assert not np.any(np.asarray(slope[n])[~INSIDE[n]])


@pytest.mark.parametrize("name", ["max_pool", "min_pool"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_indices_are_those_of_valid_positions(name, dtype):
    """If the smallest value is the maximum of the valid positions, no invalid position is chosen."""
    least = (
        {"max_pool": -np.inf, "min_pool": np.inf}[name]
        if dtype == np.float32
        else {"max_pool": 0, "min_pool": 255}[name]
    )
    x, valid = np.full((1, 6, 1), least, dtype), np.array([[False, True, True, False, False, False]])
    y, indices = jax.jit(lambda x: getattr(convlab, name)(x, 2, return_indices=True, valid=valid))(x)
    assert indices[0, :, 0].tolist() == [1, 1, 2, -1, -1] and (np.asarray(y) == least).all()


def test_global_pools_of_padded_batches():
    x = np.where(INSIDE[..., None], IMAGES, np.nan)
    for name in ("avg", "max"):
        function = getattr(convlab, f"global_{name}_pool")
        for n, (h, w) in enumerate(SIZES):
            close(function(x, valid=INSIDE)[n], function(IMAGES[n : n + 1, :h, :w])[0], 1e-6)
    none = np.zeros((2, 7, 6), bool)
    assert not np.any(convlab.global_avg_pool(x, valid=none)) and np.all(
        convlab.global_max_pool(x, valid=none) == -np.inf
    )


@pytest.mark.parametrize("name", ["MaxPool", "AvgPool", "GeMPool", "StochasticPool"])
def test_pool_layers_take_valid_positions(name):
    function = getattr(convlab, "".join(f"_{c.lower()}" if c == "P" else c.lower() for c in name).strip("_"))
    expected, options = function(IMAGES, (2, 2), valid=INSIDE), dict(deterministic=True) if name[0] == "S" else {}
    np.testing.assert_array_equal(getattr(convlab.nnx, name)((2, 2), **options)(IMAGES, valid=INSIDE), expected)
    layer = getattr(convlab.linen, name)((2, 2), **options)
    np.testing.assert_array_equal(layer.apply({}, IMAGES, valid=INSIDE), expected)


def test_kernel_gradients_of_packed_depthwise_convolutions_are_products():
    """A CPU computes a product with ones many times faster than a sum over all axes but the last."""

    def gradient(kernel, segment_ids):
        conv = functools.partial(convlab.conv, padding="CAUSAL", feature_group_count=6, segment_ids=segment_ids)
        return jax.vjp(lambda kernel: conv(X, kernel), kernel)[1](X)

    names = str(jax.make_jaxpr(gradient)(np.ones((3, 1, 6), np.float32), IDS))
    assert names.count("dot_general[") >= 3 and "reduce_sum[" not in names


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the compiled text of a CPU")
@pytest.mark.parametrize("taps", [2, 4])
def test_a_packed_depthwise_convolution_is_one_loop(taps):
    """One fusion of the result's size, and nothing else of that size is stored."""
    x, ids, kernel = (
        np.zeros((2, 512, 64), np.float32),
        np.zeros((2, 512), np.int32),
        np.ones((taps, 1, 64), np.float32),
    )
    conv = functools.partial(convlab.conv, padding="CAUSAL", feature_group_count=64)
    layer = convlab.nnx.CausalConv(64, 64, taps, feature_group_count=64, use_bias=False, rngs=flax.nnx.Rngs(0))
    for function in (lambda x, ids: conv(x, kernel, segment_ids=ids), lambda x, ids: layer(x, segment_ids=ids)):
        compiled = jax.jit(function).lower(x, ids).compile()
        entry = compiled.as_text().split("ENTRY ")[1]
        whole = [line for line in entry.splitlines() if " = f32[2,512,64]" in line and "parameter(" not in line]
        assert len(whole) == 1 and " fusion(" in whole[0]
        assert compiled.memory_analysis().temp_size_in_bytes < x.nbytes / 8
