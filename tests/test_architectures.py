"""Every network of the catalogue has the figures of its docstring, learns, and gives the results of Flax's layers."""

import math
import pathlib
import re
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
import run  # noqa: E402
from flax_layers import Missing, flax_layers  # noqa: E402

from convlab import analysis  # noqa: E402
from convlab import nnx as cn  # noqa: E402

PLATFORMS = ("cpu", "cuda", "tpu")
FASTEST_COMPILATION = {"xla_backend_optimization_level": 0}
every_network = pytest.mark.parametrize("name", catalogue.NETWORKS)


def small(name):
    given = catalogue.facts(name).input
    return jax.ShapeDtypeStruct(catalogue.NETWORKS[name].small or given.shape, given.dtype)


@pytest.mark.program
@every_network
def test_counts_are_the_published_ones(name):
    facts, shapes = catalogue.facts(name), catalogue.shapes(name)
    found = analysis.analyze(shapes, facts.input)
    assert found.parameters == catalogue.count(shapes) == facts.parameters.number
    assert found.macs_with_padding == pytest.approx(facts.multiply_adds.number, rel=0.01)
    y = nnx.eval_shape(lambda model, x: model(x), shapes, facts.input)
    assert jax.tree.leaves(y)[0].shape == facts.output
    if facts.field:
        (*_, last) = (layer for layer in found.layers if (layer.path + ".").startswith(facts.field_path + "."))
        assert last.field.size == facts.field_sizes * (len(last.field.size) // len(facts.field_sizes))


def test_the_lenet_of_1998_has_the_connections_of_its_paper():
    """The connections of its table, with biases and distances: "340,908 connections", section II.B."""
    found = analysis.analyze(catalogue.shapes("lenet5of1998"), catalogue.facts("lenet5of1998").input)
    connections = {
        "Conv": lambda row: row.macs + math.prod(row.output_shape),
        "SumPool": lambda row: 5 * math.prod(row.output_shape),
    }
    connections["Linear"] = connections["Conv"]
    assert sum(connections[row.kind](row) for row in found.layers if row.kind in connections) + 84 * 10 == 340_908


def test_it_lists_its_networks_when_a_name_is_none_of_them(capsys):
    with pytest.raises(SystemExit) as left:
        run.main(["lenet6"])
    printed = capsys.readouterr()
    assert left.value.code == 2 and not printed.out
    assert printed.err.count("\n") == 1 and all(name in printed.err for name in (*catalogue.NETWORKS, "'lenet6'"))


@pytest.mark.parametrize(
    "arguments", [[], ["lenet5", "--all"], ["lenet5", "--markdown", "README.md"], ["lenet5", "--seconds", "0"]]
)
def test_errors_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        run.main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_without_marks_is_left_alone(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("mine")
    with pytest.raises(SystemExit):
        run.main(["--all", "--markdown", str(page)])
    assert page.read_text() == "mine"


def test_it_shows_a_network_and_its_times(capsys):
    assert run.main(["lenet5", "--seconds", "0.01"]) == 0
    printed = capsys.readouterr().out
    assert "61,706; published 61,706" in printed
    assert re.search(r"^forward +[\d.]+ ms; with Flax's layers [\d.]+ ms$", printed, re.MULTILINE)
    assert re.search(r"^training step +[\d.]+ ms; with Flax's layers [\d.]+ ms$", printed, re.MULTILINE)


def test_the_table_goes_between_the_marks_of_a_page(tmp_path, capsys, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{run.BEGIN}\nold\n{run.END}\nafter\n")
    monkeypatch.setattr(catalogue, "NETWORKS", {"lenet5": catalogue.NETWORKS["lenet5"]})
    assert run.main(["--all", "--seconds", "0.01", "--markdown", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| [lenet5](#lenet5) | 1×28×28×1 | 61,706 | 61,706 |" in text
    assert capsys.readouterr().out.splitlines()[1].startswith("lenet5 ")


def test_a_layer_that_flax_lacks_is_named():
    layers = nnx.Sequential(cn.Conv(1, 2, (3, 3), padding_mode="reflect", rngs=nnx.Rngs(0)))
    with pytest.raises(Missing, match="Conv at layers.0: padding_mode='reflect'"):
        flax_layers(layers)
    with pytest.raises(Missing, match="AdaptiveMaxPool at layers.0"):
        flax_layers(nnx.Sequential(cn.AdaptiveMaxPool((2, 2))))


def worst(found, expected):
    """Return the largest difference, relative to the largest expected number."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.abs(f.astype(jnp.float32) - e).max() / jnp.abs(e).max()) for f, e in pairs)


@pytest.mark.slow
@every_network
def test_results_are_those_of_flax_and_close_in_bfloat16(name):
    model = measure.drawn(name, **catalogue.NETWORKS[name].narrow)
    apply, state = measure.forward(model)
    half, half_state = measure.forward(measure.cast(model, jnp.bfloat16))
    if name == "tcn":  # weight normalisation inside a causal layer
        with pytest.raises(Missing, match="weight_norm=True"):
            flax_layers(model)
        theirs = apply
    else:
        theirs, _ = measure.forward(flax_layers(model))
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
    model = measure.drawn(name, **catalogue.NETWORKS[name].narrow)
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
    lower = jax.tree.map(
        lambda p, g: p - 0.01 * loss / steepness * g, parameters, slopes
    )  # to first order by a hundredth
    assert compiled(lower, rest, x, targets)[0][0] < loss
