"""Tests run on the CPU and keep no compiled program longer than their file."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402  after the platform is chosen
import pytest  # noqa: E402


@pytest.fixture
def x64():
    """JAX computes in 64 bits within the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forgetful():
    yield
    jax.clear_caches()
