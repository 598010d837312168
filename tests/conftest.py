"""Tests run on the CPU and keep no compiled program longer than their file."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402  after the platform is chosen
import pytest  # noqa: E402

# As large code bases set them: nothing is broadcast to another rank, or promoted to another dtype, unseen. Tests of programs that are not
# convlab's (Flax's layers, the examples) take the fixture `promoting`.
jax.config.update("jax_numpy_rank_promotion", os.environ.get("CONVLAB_TEST_RANK_PROMOTION", "raise"))
jax.config.update("jax_numpy_dtype_promotion", os.environ.get("CONVLAB_TEST_DTYPE_PROMOTION", "strict"))


@pytest.fixture
def promoting():
    """JAX promotes ranks and dtypes, as it does where nobody has set otherwise."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def x64():
    """JAX computes in 64 bits within the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forgetful():
    yield
    jax.clear_caches()
