"""Every network of examples/architectures is what its docstring says, learns, and gives what Flax's layers give."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")

from flax import nnx  # noqa: E402  after it is known to be here

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "architectures"
sys.path.insert(0, str(FOLDER))

import catalogue  # noqa: E402  from the folder
import measure  # noqa: E402
from flax_layers import Missing, flax_layers  # noqa: E402

from convlab import analysis  # noqa: E402

PLATFORMS = ("cpu", "cuda", "tpu")
FASTEST_COMPILATION = {"xla_backend_optimization_level": 0}
every_network = pytest.mark.parametrize("name", catalogue.NETWORKS)


def small(name):
    given = catalogue.facts(name).input
    return jax.ShapeDtypeStruct(catalogue.NETWORKS[name].small or given.shape, given.dtype)


@every_network
def test_counts_are_the_published_ones(name):
    facts, shapes = catalogue.facts(name), catalogue.shapes(name)
    found = analysis.analyze(shapes, facts.input)
    assert found.parameters == catalogue.count(shapes) == facts.parameters.number
    assert found.macs_with_padding == pytest.approx(facts.multiply_adds.number, rel=0.01)
    y = nnx.eval_shape(lambda model, x: model(x), shapes, facts.input)
    assert facts.output in (None, jax.tree.leaves(y)[0].shape)
    if facts.field:
        (*_, last) = (layer for layer in found.layers if (layer.path + ".").startswith(facts.field_path + "."))
        assert last.field.size == facts.field_sizes * (len(last.field.size) // len(facts.field_sizes))


def worst(found, expected):
    """The largest difference, in units of the largest number expected."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.abs(f.astype(jnp.float32) - e).max() / jnp.abs(e).max()) for f, e in pairs)


@pytest.mark.slow
@every_network
def test_it_gives_what_flax_gives_and_nearly_so_in_bfloat16(name):
    model = catalogue.build(name, **catalogue.NETWORKS[name].narrow)
    apply, state = measure.forward(model)
    half, half_state = measure.forward(measure.cast(model, jnp.bfloat16))
    try:
        theirs, _ = measure.forward(flax_layers(model))
    except Missing:
        theirs = apply
    x = measure.draw(small(name), seed=1)
    narrow = x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x
    together = lambda state, half_state, x, narrow: (apply(state, x), theirs(state, x), half(half_state, narrow))
    compiled = jax.jit(together).lower(state, half_state, x, narrow).compile(FASTEST_COMPILATION)
    y, of_flax, in_half = compiled(state, half_state, x, narrow)
    assert worst(of_flax, y) < 1e-5
    assert worst(in_half, y) < 0.1
    assert {leaf.dtype for leaf in jax.tree.leaves(in_half)} == {jnp.dtype("bfloat16")}


@pytest.mark.slow
@every_network
def test_gradients_reach_every_parameter_a_step_lowers_the_loss_and_it_lowers_everywhere(name):
    model = catalogue.build(name, **catalogue.NETWORKS[name].narrow)
    x = measure.draw(small(name), seed=1)
    gradients, parameters, rest = measure.training(model)
    merged = nnx.merge(nnx.graphdef(model), parameters, rest)
    targets = measure.draw(nnx.eval_shape(lambda model, x: model(x), merged, x), seed=2)
    traced = jax.jit(gradients).trace(parameters, rest, x, targets)
    assert traced.lower(lowering_platforms=PLATFORMS).as_text()
    compiled = traced.lower().compile(FASTEST_COMPILATION)
    (loss, _), slopes = compiled(parameters, rest, x, targets)
    dead = ["/".join(map(str, path)) for path, g in nnx.to_flat_state(slopes) if not np.any(np.asarray(g[...]))]
    assert not dead
    steepness = sum(float(jnp.vdot(g, g)) for g in jax.tree.leaves(slopes))
    lower = jax.tree.map(lambda p, g: p - 0.1 * loss / steepness * g, parameters, slopes)  # to first order by a tenth
    assert compiled(lower, rest, x, targets)[0][0] < loss
