"""What type checkers know of the functions: read by mypy in `make lint`, never run."""

from typing import assert_type

import jax

import convlab
from convlab import Window


def winners(x: jax.Array) -> jax.Array:
    y, places = convlab.max_pool(x, 2, return_indices=True)
    assert_type(places, jax.Array)
    assert_type(convlab.min_pool(y, 2, strides=2), jax.Array)
    assert_type(convlab.adaptive_max_pool(y, 2, return_indices=True), tuple[jax.Array, jax.Array])
    assert_type(convlab.fractional_max_pool(y, 2, output_shape=3, key=jax.random.key(0)), jax.Array)
    return convlab.max_pool(y, (2, 2), (2, 2), "SAME")


def results(x: jax.Array, kernel: jax.Array) -> jax.Array:
    assert_type(Window((3, 3), strides=2).out((8, 8)), tuple[int, ...])
    assert_type(convlab.conv(x, kernel), jax.Array)
    return convlab.avg_pool(convlab.conv_transpose(x, kernel), 2)
