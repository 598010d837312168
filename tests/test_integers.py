"""Convolutions of bytes are exact in int32, for all operands and configurations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import convlab

CONFIGURATIONS = [
    ((9,), (3,), {}),
    ((9, 8), (3, 3), dict(strides=2)),
    ((9, 8), (3, 3), dict(kernel_dilation=2, feature_group_count=4)),
    ((9, 8), (3, 3), dict(feature_group_count=2, padding_mode="reflect")),
    ((9, 8), (3, 3), dict(padding_mode="constant", padding_value=7, flip_kernel=True)),
    ((5, 4, 6), (3, 2, 1), dict(input_dilation=2, padding="VALID")),
]


def drawn(rng, dtype, shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


@pytest.mark.parametrize("kinds", [("int8", "int8"), ("uint8", "int8"), ("int8", "uint8"), ("uint8", "uint8")], ids=str)
def test_bytes_are_summed_exactly(kinds):
    rng, calls, expected = np.random.default_rng(0), [], []
    preferred = {} if len(set(kinds)) == 2 else dict(preferred_element_type=jnp.int32)
    for spatial, size, options in CONFIGURATIONS:
        x = drawn(rng, kinds[0], (2, *spatial, 4))
        kernel = drawn(rng, kinds[1], (*size, 4 // options.get("feature_group_count", 1), 8))
        calls.append((x, kernel))
        expected.append(reference.conv(x, kernel, **options))
    actual = jax.jit(lambda calls: [convlab.conv(*c, **o, **preferred) for c, (_, _, o) in zip(calls, CONFIGURATIONS)])(
        calls
    )
    for y, e in zip(actual, expected):
        assert y.dtype == jnp.int32
        np.testing.assert_array_equal(y, e)


@pytest.mark.parametrize("kinds", [("uint8", "int8"), ("int8", "uint8")], ids=str)
def test_mixed_bytes_are_summed_exactly_by_every_convolution(kinds):
    """Strict dtype promotion, which refuses to mix them, allows the calls too."""
    rng = np.random.default_rng(0)
    x, kernel, local = drawn(rng, kinds[0], (2, 7, 4)), *(drawn(rng, kinds[1], of) for of in ((3, 4, 8), (5, 12, 8)))
    wide = [a.astype(np.int32) for a in (x, kernel, local)]
    ids = np.array([[0, 0, 1, 1, 1, 2, 2]] * 2)

    def results(x, kernel, local):
        options = dict(strides=2, feature_group_count=2, padding_mode="circular")
        return (
            convlab.conv_transpose(x, kernel),
            convlab.conv_transpose(x, kernel[:, :2], **options),
            convlab.conv_local(x, local, kernel_size=3),
            convlab.conv(x, kernel, padding="CAUSAL", segment_ids=ids),
        )

    with jax.numpy_dtype_promotion("strict"):
        actual = jax.jit(lambda: results(x, kernel, local))()
    for y, expected in zip(actual, jax.jit(lambda: results(*wide))()):
        assert y.dtype == jnp.int32
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("channels", [1024, 1025, 2000])
def test_the_largest_sums_are_exact(channels):
    """The sums are near the limit up to which float32 represents every integer."""
    x, kernel = np.full((1, 1, channels), -128, np.int8), np.full((1, channels, 1), -128, np.int8)
    x[..., 0] = kernel[:, 0] = 127
    y = jax.jit(lambda x, k: convlab.conv(x, k, preferred_element_type=jnp.int32))(x, kernel)
    assert int(y[0, 0, 0]) == 128 * 128 * (channels - 1) + 127 * 127


@pytest.mark.parametrize("groups", [1, 2])
def test_sums_over_parts_of_the_channels_are_exact(groups):
    """The sums of the largest products are too large for float32 to be exact."""
    x, kernel = np.full((1, 5, 5, 402), 255, np.uint8), np.full((3, 3, 402 // groups, 2), -128, np.int8)
    x[..., ::7] = 254
    y = jax.jit(lambda x, k: convlab.conv(x, k, feature_group_count=groups))(x, kernel)
    np.testing.assert_array_equal(y, reference.conv(x, kernel, feature_group_count=groups))


@pytest.mark.parametrize("kinds", [("int8", "int8"), ("uint8", "int8")], ids=str)
def test_a_convolution_of_bytes_is_one_equation_of_lax(kinds):
    """A CPU computes it in float32 if that represents every sum over a large part of the channels."""
    few, some, many = ((np.ones((1, 8, c), kinds[0]), np.ones((3, c, 4), kinds[1])) for c in (16, 500, 20000))
    conv = lambda x, k: convlab.conv(x, k, preferred_element_type=jnp.int32)
    names = [eqn.primitive.name for eqn in jax.make_jaxpr(conv)(*few).jaxpr.eqns]
    assert names.count("conv_general_dilated") == 1
    assert set(names) <= {"conv_general_dilated", "convert_element_type"}
    for operands in (few, some):
        assert [choice.formulation for choice in convlab.explain(conv, *operands, platform="cpu")] == ["floats"]
    assert [choice.formulation for choice in convlab.explain(conv, *many, platform="cpu")] == ["lax"]
    wide = [a.astype(np.int16) for a in few]
    assert [choice.formulation for choice in convlab.explain(conv, *wide, platform="cpu")] == ["lax"]
