"""JAX's own tools treat convlab's convolutions and pools as lax's; each test uses a tool as a user would."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import print_saved_residuals
from jax.experimental import checkify, jet, serialize_executable, sparse

import convlab
from convlab._backend import engine

NHWC = ("NHWC", "HWIO", "NHWC")
RNG = np.random.default_rng(0)
X, K = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((2, 8, 8, 16), (3, 3, 16, 16)))


def of_lax(x, k):
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=NHWC)


def test_a_program_reads_like_one_of_lax():
    ours = jax.make_jaxpr(jax.grad(lambda x, k: (convlab.conv(x, k) ** 2).sum(), (0, 1)))(X, K)
    theirs = jax.make_jaxpr(jax.grad(lambda x, k: (of_lax(x, k) ** 2).sum(), (0, 1)))(X, K)
    assert str(ours) == str(theirs)


POOLS = {
    "conv": lambda x: convlab.conv(x, K),
    "max_pool": lambda x: convlab.max_pool(x, 2),
    "min_pool": lambda x: convlab.min_pool(x, 3, 2, "SAME"),
    "dilated": lambda x: convlab.max_pool(x, 2, window_dilation=2),
    "indices": lambda x: convlab.max_pool(x, 2, return_indices=True)[1].astype(jnp.float32),
    "sum_pool": lambda x: convlab.sum_pool(x, 2),
    "avg_pool": lambda x: convlab.avg_pool(x, 2),
}


@pytest.mark.parametrize("name", POOLS)
def test_disable_jit_gives_the_same_result(name):
    f = lambda x: jax.value_and_grad(lambda x: (POOLS[name](x) ** 2).sum())(x)
    with jax.disable_jit():
        debugged = f(X)
    for a, b in zip(jax.tree.leaves(debugged), jax.tree.leaves(jax.jit(f)(X))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


LAX = {
    "conv": lambda x: of_lax(x, K),
    "max_pool": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID"),
    "sum_pool": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID"),
}


@pytest.mark.parametrize("name", LAX)
def test_checkify_reports_a_nan_as_for_lax(name):
    def said(f, x):
        error, _ = checkify.checkify(jax.jit(f), errors=checkify.float_checks)(x)
        return (error.get() or "").split("\n")[0].partition(" at ")[0]

    bad = X.at[0, 3, 3, 0].set(jnp.nan)
    assert said(POOLS[name], bad) == said(LAX[name], bad)
    assert said(POOLS[name], X) == ""
    assert "nan generated" in said(POOLS["conv"], bad)


@pytest.mark.parametrize("policy", ["dots_saveable", "everything_saveable", "nothing_saveable"])
def test_checkpoint_policies_save_what_they_save_of_lax(policy):
    def chain(conv):
        block = lambda x: jnp.sin(conv(jnp.sin(conv(jnp.sin(conv(x, K)), K)), K)).sum()
        return jax.checkpoint(block, policy=getattr(jax.checkpoint_policies, policy))

    def convolutions(conv):
        text = str(jax.make_jaxpr(jax.grad(chain(conv)))(X))
        with redirect_stdout(io.StringIO()) as said:
            print_saved_residuals(chain(conv), X)
        return text.count("conv_general_dilated["), len(said.getvalue().splitlines())

    assert convolutions(convlab.conv) == convolutions(of_lax)


def test_jet_and_sparsify():
    series = jet.jet(lambda k: convlab.conv(X, k), (K,), ((K, jnp.zeros_like(K)),))
    np.testing.assert_allclose(series[1][0], of_lax(X, K), rtol=1e-3, atol=1e-3)
    total = sparse.sparsify(lambda x, k: convlab.conv(x, k).sum())(X, K)
    np.testing.assert_allclose(total, of_lax(X, K).sum(), rtol=1e-3)


def network(conv, max_pool, avg_pool):
    def f(x, k):
        y = jnp.maximum(conv(x, k), 0)
        return (avg_pool(max_pool(y)) ** 2).sum()

    return f


OURS = network(
    convlab.conv, lambda x: convlab.max_pool(x, (2, 2), (2, 2)), lambda x: convlab.avg_pool(x, (2, 2), (2, 2))
)  # fmt: skip
WINDOW = (1, 2, 2, 1)
THEIRS = network(
    of_lax,
    lambda x: lax.reduce_window(x, -jnp.inf, lax.max, WINDOW, WINDOW, "VALID"),
    lambda x: lax.reduce_window(x, 0.0, lax.add, WINDOW, WINDOW, "VALID") / 4,
)


@pytest.mark.parametrize("which", ["forward", "gradient"])
def test_operations_are_counted_as_laxs(which):
    """This also holds under `accelerate()`, and in a program with the engine's call, which XLA itself cannot count."""
    derived = (lambda f: f) if which == "forward" else (lambda f: jax.grad(f, (0, 1)))
    count = lambda f: jax.jit(derived(f)).lower(X, K).cost_analysis()["flops"]
    assert count(OURS) == count(THEIRS) > 4e5
    with convlab.accelerate():
        assert count(OURS) == count(THEIRS) > 4e5


def test_a_program_without_the_engine_is_counted_and_serialized():
    former = engine.switch(False)
    try:
        f = jax.jit(lambda x, k: OURS(x + 1, k))
        compiled = f.lower(X, K).compile()
        assert compiled.cost_analysis()["flops"] > 2 * 8 * 8 * 16 * 16 * 9  # at least the inner positions
        payload, in_tree, out_tree = serialize_executable.serialize(compiled)
        again = serialize_executable.deserialize_and_load(payload, in_tree, out_tree)
        np.testing.assert_allclose(again(X, K), compiled(X, K), rtol=1e-6)
    finally:
        engine.switch(former)


def test_tabulate_counts_as_flax_does():
    nnx = pytest.importorskip("flax.nnx")
    import re

    import convlab.nnx

    class Net(nnx.Module):
        def __init__(self, layers, rngs):
            self.conv = layers.Conv(3, 8, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs, use_running_average=True)
            self.depthwise = layers.Conv(8, 8, (3, 3), feature_group_count=8, strides=2, rngs=rngs)

        def __call__(self, x):
            return self.depthwise(nnx.relu(self.norm(self.conv(x))))

    def numbers(layers):
        table = nnx.tabulate(
            Net(layers, nnx.Rngs(0)), jnp.ones((1, 16, 16, 3)), compute_flops=True, compute_vjp_flops=True,
            console_kwargs=dict(width=300, force_terminal=False),
        )  # fmt: skip
        return [re.findall(r"│ (\d+)\s+│ (\d+)\s+│", line) for line in table.splitlines()]

    ours, theirs = numbers(convlab.nnx), numbers(nnx)
    assert ours == theirs
    assert sum(map(bool, ours)) >= 3


# --- plain programs -----------------------------------------------------------------------------------------------

PLAIN = """
import re, sys
import jax, jax.numpy as jnp
from jax import export, lax

x, k, d = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 16)), jnp.ones((3, 3, 1, 16))
def net(x, k, d):
    y = lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = lax.conv_general_dilated(y, d, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=16)
    y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return (lax.reduce_window(y, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID") ** 2).sum()
gradient = jax.grad(net, (0, 1, 2))
def texts():
    (b,) = export.symbolic_shape("b")
    for f in (net, gradient):
        for platforms in (("cpu",), ("cuda",), ("tpu",), ("cpu", "cuda", "tpu")):
            yield export.export(jax.jit(f), platforms=platforms)(x, k, d).mlir_module()
    yield jax.jit(gradient).lower(x, k, d).as_text()
    yield export.export(jax.jit(gradient))(jax.ShapeDtypeStruct((b, 8, 8, 16), jnp.float32), k, d).mlir_module()
def bare(text):
    lines = re.sub(r"loc\\([^\\n]*", "", text).splitlines()
    return "\\n".join(line for line in lines if not line.startswith("#loc"))
before = [bare(t) for t in texts()]
import convlab
jax.clear_caches()
after = [bare(t) for t in texts()]
assert len(before) == 10 and before == after, [a == b for a, b in zip(before, after)]
with convlab.accelerate():
    accelerated = [bare(t) for t in texts()]
same = [a == b for a, b in zip(before, accelerated)]
assert same == [False, True, True, True, False, True, True, True, False, True], same
def ours(x, k, d):
    y = convlab.conv(convlab.conv(x, k), d, strides=(2, 1), feature_group_count=16)
    return (convlab.sum_pool(convlab.max_pool(y, (2, 2), (2, 2)), (2, 2)) ** 2).sum()
for f, g in ((net, ours), (gradient, jax.grad(ours, (0, 1, 2)))):
    g.__name__ = f.__name__
    theirs, mine = (bare(export.export(jax.jit(h), platforms=("cuda",))(x, k, d).mlir_module()) for h in (f, g))
    assert "convlab" in mine
    mine = re.sub(r"mhlo.frontend_attributes = {convlab = \\"auto\\"}, ", "", mine)
    mine = re.sub(r", mhlo.frontend_attributes = {convlab = \\"auto\\"}", "", mine)
    mine = re.sub(r" {mhlo.frontend_attributes = {convlab = \\"auto\\"}}", "", mine)
    clean = lambda t: re.sub(r"jit_\\w+|@\\w+", "", t)
    assert clean(mine) == clean(theirs), "\\n".join(a + "\\n" + b for a, b in zip(clean(mine).splitlines(), clean(theirs).splitlines()) if a != b)
"""


def test_plain_programs_lower_to_the_same_text():
    """The texts are equal byte for byte on every platform; convlab's own equals lax's except for the mark, where the table
    chooses lax."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", ["cumsum", "cumprod", "cummax", "cumlogsumexp"])
def test_accelerate_leaves_cumulative_operations_alone(name):
    operation = getattr(lax, name)
    x = jnp.linspace(0.9, 1.1, 10_000)
    lowered = lambda: jax.jit(lambda x: operation(x)).lower(x).as_text()
    before = lowered()
    with convlab.accelerate():
        assert lowered() == before


def test_programs_do_not_grow_with_the_window():
    """Long windows are loops: each of these programs has fewer lines than its windows have elements."""
    sequence, image = (
        jax.ShapeDtypeStruct((1, 16_000, 1), jnp.float32),
        jax.ShapeDtypeStruct((1, 300, 300, 1), jnp.float32),
    )
    gradient = lambda f: jax.grad(lambda x: f(x).sum())
    programs = {
        "unfold": (lambda x: convlab.unfold(x, 1024, 256), sequence),
        "softmax_pool": (gradient(lambda x: convlab.softmax_pool(x, 1000, 1)), sequence),
        "lp_pool": (gradient(lambda x: convlab.lp_pool(x, 1000, 1)), sequence),
        "max_pool": (gradient(lambda x: convlab.max_pool(x, 1000, 1)), sequence),
        "adaptive_max_pool": (gradient(lambda x: convlab.adaptive_max_pool(x, 997)), sequence),
        "max_pool's indices": (lambda x: convlab.max_pool(x, (100, 100), (100, 100), return_indices=True), image),
    }
    lines = {name: len(jax.jit(f).lower(x).as_text().splitlines()) for name, (f, x) in programs.items()}
    assert max(lines.values()) < 1000, lines
    with pytest.raises(ValueError, match="must leave fewer than 2\\*\\*31 positions"):
        convlab.adaptive_avg_pool(jnp.ones((1, 16, 1)), 9132760301568586890)
