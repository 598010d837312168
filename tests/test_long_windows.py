"""Long windows that overlap: pools reduce them from windows half as long, in memory of a few images."""

import functools

import jax
import numpy as np
import pytest
import reference_pools

import convlab

TAPS = 272
POOLS = {
    "softmax_pool": dict(temperature=0.7),
    "top_k_pool": dict(k=3),
    "lp_pool": dict(norm_type=3.0),
    "max_pool": dict(return_indices=True),
}


@pytest.mark.parametrize("name", POOLS)
def test_long_windows_take_memory_of_a_few_images(name):
    """Values and gradients; a copy of every tap would be 272 images."""
    pool = functools.partial(getattr(convlab, name), window_shape=TAPS, **POOLS[name])

    def both(x):
        y, pull = jax.vjp(lambda x: pool(x)[0] if name == "max_pool" else pool(x), x)
        return pool(x), pull(y)[0]

    x = np.random.default_rng(0).normal(size=(1, 4000, 1)).astype(np.float32)
    compiled = jax.jit(both).lower(x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 100 * x.nbytes
    y, slope = compiled(x)
    if name == "max_pool":
        expected = reference_pools.max_pool(x, (TAPS,), return_indices=True)
        np.testing.assert_array_equal(y[1], expected[1])
        y, expected = y[0], expected[0]
    else:
        expected = getattr(reference_pools, name)(x, (TAPS,), **POOLS[name])
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    assert np.isfinite(slope).all()


def test_indices_of_long_windows_are_those_of_every_tap():
    """Equal values, NaN, padding and valid positions; strides and dilation."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, (2, 90, 2)).astype(np.float32)
    x[0, 40, 0], x[0, 47, 0], x[1, :, 1] = np.nan, np.nan, -np.inf
    valid = np.arange(90) < np.array([[90], [60]])

    @jax.jit
    def results(x):
        pools = functools.partial(convlab.max_pool, valid=valid), convlab.min_pool
        return [[pool(x, (30,), return_indices=True, **options) for pool in pools] for options in OPTIONS]

    for options, found in zip(OPTIONS, results(x)):
        for (y, at), real, sign in zip(found, (valid, np.ones_like(valid)), (1, -1)):
            check(np.asarray(y), np.asarray(at), x, real, sign, **options)


OPTIONS = (dict(padding=((7, 3),)), dict(strides=3, window_dilation=2))


def check(y, at, x, valid, sign, padding=((0, 0),), strides=1, window_dilation=1):
    for n, o, c in np.ndindex(y.shape):
        places = o * strides - padding[0][0] + window_dilation * np.arange(30)
        places = [p for p in places if 0 <= p < 90 and valid[n, p]]
        values = [sign * x[n, p, c] for p in places]
        nan = [p for p, v in zip(places, values) if np.isnan(v)]
        expected = -1 if not places else nan[-1] if nan else places[int(np.argmax(values))]
        assert at[n, o, c] == expected
        assert expected < 0 or np.array_equal(y[n, o, c], x[n, expected, c], equal_nan=True)
