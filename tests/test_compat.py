"""With a JAX that has moved an interface that convlab uses: at most one warning, right values, no exception."""

import subprocess
import sys

import pytest

# One process imports JAX; each removal is tried in a fork of it, before any device is used.
DRIVER = """
import os, sys, types, warnings
import jax, jax.numpy as jnp, numpy as np
import jax.experimental.xla_metadata, jax.extend
import jax._src.dispatch, jax._src.interpreters.mlir, jax._src.interpreters.ad, jax._src.interpreters.batching
from jax.interpreters import ad, batching, mlir
from jax import lax

def numpy_conv(x, k):
    out = np.zeros((*x.shape[:1], 4, 4, k.shape[-1]))
    for i in range(2):
        for j in range(2):
            out += np.asarray(x)[:, i : i + 4, j : j + 4] @ np.asarray(k)[i, j]
    return out

def program():
    import convlab
    x, k = jnp.arange(50.0).reshape(1, 5, 5, 2), jnp.linspace(-1, 1, 24).reshape(2, 2, 2, 3)
    np.testing.assert_allclose(jax.jit(lambda x, k: convlab.conv(x, k, padding="VALID"))(x, k), numpy_conv(x, k), rtol=1e-5, atol=1e-4)
    gradient = jax.jit(jax.grad(lambda k: (convlab.conv(x, k, padding="VALID") ** 2).sum()))(k)
    numeric = [(numpy_conv(x, k.at[i].add(1e-2)) ** 2).sum() - (numpy_conv(x, k.at[i].add(-1e-2)) ** 2).sum() for i in np.ndindex(2, 2, 2, 3)]
    np.testing.assert_allclose(gradient.ravel(), np.asarray(numeric) / 2e-2, rtol=1e-2, atol=1.0)
    for dilation in (1, 2):
        pool = lambda x: convlab.max_pool(x, 2, window_dilation=dilation)
        np.testing.assert_array_equal(jax.jit(pool)(x), x[:, dilation:, dilation:])
        slope = jax.jit(jax.grad(lambda x: (pool(x) ** 2).sum()))
        np.testing.assert_array_equal(slope(x)[0, dilation:, dilation:], 2 * x[0, dilation:, dilation:])
        curved = jax.jit(lambda x: jax.jvp(slope, (x,), (jnp.ones_like(x),))[1])
        assert curved(x).sum() == 2 * 2 * (5 - dilation) ** 2
    assert jax.jit(jax.vmap(jax.grad(lambda x: convlab.avg_pool(x[None], 2).sum())))(x).shape == x.shape
    y, at = jax.jit(lambda x: convlab.max_pool(x, 2, 2, return_indices=True))(x)
    np.testing.assert_array_equal(at[0, ..., 0], [[6, 8], [16, 18]])
    plain = lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    with convlab.accelerate():
        np.testing.assert_allclose(jax.jit(plain)(x, k), numpy_conv(x, k), rtol=1e-5, atol=1e-4)
    convlab.explain(pool, x)
    return convlab._backend.compat.missing

class Without(types.ModuleType):
    # A module of JAX as it would be without one name; JAX itself goes on with the real one.

    def __init__(self, module, name):
        super().__init__(module.__name__)
        vars(self).update({key: value for key, value in vars(module).items() if key != name})

def remove(where, name):
    if where == "sys.modules":
        sys.modules[name] = None
    elif where.startswith("jax._src"):
        parent, _, last = where.rpartition(".")
        sys.modules[where] = Without(sys.modules[where], name)
        setattr(sys.modules[parent], last, sys.modules[where])
    else:
        delattr(eval(where), name)

def attempt(where, name):
    if where != "sys.modules" and not hasattr(eval(where), name):
        return 3
    remove(where, name)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        missing = program()
    said = [str(w.message) for w in said if "convlab" in str(w.message)]
    assert len(said) == (missing is not None), (said, missing)
    assert all("no faster than lax" in message for message in said), said
    return 0 if missing else 2

for where, name in eval(sys.argv[1]):
    child = os.fork()
    if child == 0:
        try:
            code = attempt(where, name)
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(where, name, {0: "lax", 2: "ours", 3: "absent"}.get(code, "FAILED"), flush=True)
"""

NEEDED = [  # without these, lax computes everything
    ("sys.modules", "jax.experimental.xla_metadata"),
    ("jax.experimental.xla_metadata", "set_xla_metadata"),
    ("jax._src.dispatch", "apply_primitive"),
    ("jax._src.interpreters.mlir", "register_lowering"),
    ("jax._src.interpreters.mlir", "_lowerings"),
    ("jax._src.interpreters.mlir", "_platform_specific_lowerings"),
    ("jax._src.interpreters.mlir", "lower_fun"),
    ("jax._src.interpreters.mlir", "lower_with_sharding_in_types"),
    ("jax._src.interpreters.ad", "primitive_jvps"),
    ("jax._src.interpreters.batching", "primitive_batchers"),
    ("jax.sharding", "use_abstract_mesh"),
    ("lax", "ge_p"),
    ("lax", "reduce_window_max_p"),
    ("lax", "select_and_scatter_add_p"),
]
OPTIONAL = [  # which convlab no longer uses, or can do without
    ("mlir", "SPMDAxisContext"),
    ("mlir", "register_lowering"),
    ("ad", "defbilinear"),
    ("batching", "primitive_batchers"),
    ("jax", "make_user_context"),
    ("jax.stages.Lowered", "cost_analysis"),
]


def tried(accesses):
    done = subprocess.run([sys.executable, "-c", DRIVER, repr(accesses)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [line.rsplit(" ", 1)[1] for line in done.stdout.splitlines()], done.stderr


@pytest.mark.program
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_without_a_needed_interface_everything_is_laxs():
    answers, said = tried(NEEDED)
    assert answers == ["lax"] * len(NEEDED), (list(zip(NEEDED, answers)), said[-3000:])


@pytest.mark.program
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_without_an_optional_interface_nothing_changes():
    answers, said = tried(OPTIONAL)
    assert set(answers) <= {"ours", "absent"}, (list(zip(OPTIONAL, answers)), said[-3000:])
