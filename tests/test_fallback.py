"""A JAX that has moved what convlab's primitives hook into: it says so once, and everything works as lax has it."""

import subprocess
import sys

PROGRAM = """
import warnings
import jax, jax.numpy as jnp, numpy as np
from jax.interpreters import {module}
del {module}.{hook}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import convlab
said = [str(w.message) for w in said if "convlab" in str(w.message)]
assert len(said) == 1 and "no faster than lax" in said[0], said
x, k = jnp.arange(50.0).reshape(1, 5, 5, 2), jnp.ones((2, 2, 2, 3))
assert convlab.conv(x, k, padding="VALID").shape == (1, 4, 4, 3)
pool = lambda x: convlab.max_pool(x, 2, window_dilation=2)
slope = jax.grad(lambda x: (pool(x) ** 2).sum())
np.testing.assert_array_equal(slope(x)[0, 2:, 2:], 2 * x[0, 2:, 2:])
assert jax.hessian(lambda x: (pool(x) ** 2).sum())(x).sum() == 2 * 18
assert jax.vmap(jax.grad(lambda x: convlab.avg_pool(x[None], 2).sum()))(x).shape == x.shape
with convlab.accelerate():
    assert jax.jit(pool)(x).shape == (1, 3, 3, 2)
assert not convlab.explain(pool, x)
"""


def test_works_without_hooks():
    for module, hook in (("ad", "defbilinear"), ("mlir", "register_lowering"), ("batching", "primitive_batchers")):
        program = PROGRAM.format(module=module, hook=hook)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
