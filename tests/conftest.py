"""Tests run on the CPU and keep no compiled program longer than their file."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Values are at stake and not the speed of programs that run once. An empty XLA_FLAGS optimises as users' programs are.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax  # noqa: E402  after the platform is chosen
import pytest  # noqa: E402

# What convlab computes passes as large code bases set JAX: nothing is broadcast to another rank, or promoted to another
# dtype, unseen.
# Programs that are not convlab's own, as the examples are and Flax's layers, are tested as JAX comes.
STRICT = {
    "test_derivatives", "test_explicit_sharding", "test_identities", "test_integers", "test_jax_tools", "test_linen",
    "test_masks", "test_messages", "test_modules", "test_nnx", "test_odd_sizes", "test_platforms", "test_regions",
        "test_resampling",
        "test_sampling",
    "test_values",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def promotions(request):
    strict = request.module.__name__.rpartition(".")[2] in STRICT
    with (
        jax.numpy_rank_promotion("raise" if strict else "allow"),
        jax.numpy_dtype_promotion("strict" if strict else "standard"),
    ):
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
