"""Every case gives the oracle's values in the expected dtype, up to the rounding of that dtype."""

import jax
import numpy as np
import pytest
from cases import CASES, EXACT
from jax import lax
from reference import wide

import convlab


def rounding(dtype):
    """Return the tolerance: sums of 16-bit numbers are accumulated in float32 and rounded once or twice; others add the
    errors of their terms."""
    return jax.numpy.finfo(dtype).eps * (2 if dtype.itemsize == 2 else 16)


def assert_equal(actual, expected, dtype, exact=False):
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    if exact or dtype.kind in "iub":
        np.testing.assert_array_equal(np.asarray(actual), expected.astype(dtype))
    else:
        largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
        np.testing.assert_allclose(
            wide(actual), expected, rtol=rounding(dtype), atol=float(rounding(dtype) * largest), equal_nan=True
        )


def check(case, function):
    arrays = case.draw()
    actual, expected = function(*arrays), case.oracle(*arrays)
    if case.options.get("return_indices"):
        (actual, indices), (expected, positions) = actual, expected
        assert indices.dtype.kind == "i"
        np.testing.assert_array_equal(indices, positions)
    exact = case.function in EXACT and case.options.get("reduce") != "avg"
    assert_equal(actual, expected, case.out_dtype, exact)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case):
    check(case, jax.jit(case.convlab))


@pytest.mark.program
@pytest.mark.parametrize("case", [*{case.function: case for case in reversed(CASES)}.values()], ids=str)
def test_values_without_jit(case):
    check(case, case.convlab)


@pytest.mark.parametrize(
    "numbers", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("HWNC", "HIOW", "NCHW"), None], ids=str
)
@pytest.mark.parametrize(
    "options",
    [
        dict(window_strides=(2, 1), padding="SAME", feature_group_count=2),
        dict(window_strides=(1, 2), padding=((1, 2), (0, -1)), lhs_dilation=(2, 1), rhs_dilation=(1, 2)),
        dict(window_strides=(1, 1), padding="VALID", batch_group_count=2),
    ],
    ids=lambda options: ", ".join(options),
)
def test_conv_general_dilated_is_laxs(numbers, options):
    rng = np.random.default_rng(0)
    sizes = {"N": 4, "C": 4, "H": 6, "W": 5, "O": 4, "I": 4 // options.get("feature_group_count", 1)}
    image, kernel, _ = numbers or ("NCHW", "OIHW", "NCHW")
    x = rng.normal(size=[sizes[s] for s in image]).astype(np.float32)
    k = rng.normal(size=[{**sizes, "H": 3, "W": 2}[s] for s in kernel]).astype(np.float32)
    expected = lax.conv_general_dilated(x, k, dimension_numbers=numbers, **options)
    actual = convlab.conv_general_dilated(x, k, dimension_numbers=numbers, **options)
    assert_equal(actual, np.asarray(expected, np.float64), expected.dtype)


def test_a_weak_type_and_a_list_are_arrays():
    x = [[[1.0], [3.0], [2.0]]]
    np.testing.assert_array_equal(convlab.max_pool(jax.numpy.asarray(x), 2), [[[3.0], [3.0]]])


@pytest.mark.parametrize("window_shape", [(3, 2), (64,)])
def test_stochastic_pool_draws_elements_in_proportion(window_shape):
    x = np.abs(np.random.default_rng(0).normal(size=(400, *window_shape, 1))).astype(np.float32)
    drawn = jax.jit(lambda x: convlab.stochastic_pool(x, window_shape, key=jax.random.key(1)).ravel())(x)
    drawn, elements = np.asarray(drawn), x.reshape(400, -1)
    assert (elements == drawn[:, None]).any(1).all()
    expected = (elements**2).sum(1) / elements.sum(1)
    spread = ((elements**3).sum(1) / elements.sum(1) - expected**2).sum() ** 0.5
    assert abs((drawn - expected).sum()) < 4 * spread


@pytest.mark.parametrize("function", [convlab.conv, convlab.conv_transpose])
def test_a_bias_does_not_change_the_dtype(function):
    x, kernel, bias = (
        jax.ShapeDtypeStruct(*of) for of in (((1, 5, 2), "bfloat16"), ((3, 2, 4), "bfloat16"), ((4,), "float32"))
    )
    assert jax.eval_shape(function, x, kernel, bias).dtype == "bfloat16"


@pytest.mark.parametrize("length, positions", [(4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_window_that_hangs_over_begins_before_the_end(length, positions):
    """As in PyTorch, a window of 2 with strides of 4 that would begin behind the image is left out."""
    assert convlab.Window(2, 4, ceil_mode=True).out((length,)) == (positions,)
    assert jax.eval_shape(lambda x: convlab.max_pool(x, 2, 4, ceil_mode=True), np.ones((1, length, 1))).shape == (
        1,
        positions,
        1,
    )
