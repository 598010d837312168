"""Runs the tests on the CPU, and drops compiled programs after some files."""

import gc
import itertools
import os

from assertions import pytest_configure  # noqa: F401  registers the plugin
from compilation import FLAGS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The threads of PyTorch and NumPy keep a processor busy while they wait.
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")
os.environ.setdefault("XLA_FLAGS", FLAGS)  # with an empty XLA_FLAGS tests compile as users do

import jax  # noqa: E402  after the platform is chosen
import pytest  # noqa: E402

# convlab must work under the strict settings of large code bases, without implicit broadcasts to another rank and
# without implicit promotions. Programs that are not convlab's own, such as the examples and Flax's layers, are tested
# with JAX's default settings.
STRICT = {
    "test_derivatives", "test_explicit_sharding", "test_identities", "test_integers", "test_jax_tools", "test_linen",
    "test_masks", "test_messages", "test_modules", "test_nnx", "test_odd_sizes", "test_platforms", "test_regions",
    "test_resampling", "test_sampling", "test_values",
}  # fmt: skip


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Exclude imported modules and collected tests from garbage collection, because they stay until the end."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # tracing makes many objects and little garbage
    gc.enable()
    return result


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
    """Make JAX compute in 64 bits within the test."""
    with jax.enable_x64(True):
        yield


FILES_PER_CACHE = 8  # the small programs that many files share are compiled once for so many
files = itertools.count(1)


@pytest.fixture(autouse=True, scope="module")
def forgetful():
    yield
    if next(files) % FILES_PER_CACHE == 0:
        jax.clear_caches()
