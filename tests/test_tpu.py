"""convlab with XLA's compiler for TPU, on a machine without a TPU: programs compile, and their estimates are within
bounds."""

import dataclasses
import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

if importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu, the compiler for TPU, is not installed", allow_module_level=True)
ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks" / "tpu"), str(ROOT / "examples" / "mnist")]

import cases  # noqa: E402
import compiler  # noqa: E402
import estimates  # noqa: E402
import flax  # noqa: E402
import operations  # noqa: E402
import suite  # noqa: E402
import test_modules  # noqa: E402
from flax import nnx  # noqa: E402
from lenet import engine, model  # noqa: E402

import convlab  # noqa: E402
import convlab.linen  # noqa: E402
import convlab.nnx  # noqa: E402
from convlab import sharding  # noqa: E402

P = jax.P
DTYPES = ("float32", "bfloat16")


def of_dtype(array, dtype):
    array = np.asarray(array)
    return jax.ShapeDtypeStruct(array.shape, dtype if jnp.issubdtype(array.dtype, jnp.floating) else array.dtype)


def with_gradients(function):
    """Return a function of the values and the gradients of all floating arguments, with a weight for each output."""

    def both(*args):
        floats = [i for i, a in enumerate(args) if jnp.issubdtype(a.dtype, jnp.floating)]

        def total(*chosen):
            outputs = function(*(dict(zip(floats, chosen)).get(i, a) for i, a in enumerate(args)))
            leaves = [y for y in jax.tree.leaves(outputs) if jnp.issubdtype(y.dtype, jnp.inexact)]
            return sum((y.astype(jnp.float32) ** 2).sum() for y in leaves), outputs

        return jax.value_and_grad(total, range(len(floats)), has_aux=True)(*(args[i] for i in floats))

    return both


def compile_both(function, arrays):
    """Compile one program for both dtypes."""
    shapes = [[of_dtype(a, dtype) for a in arrays] for dtype in DTYPES]
    return compiler.lower(lambda *given: [with_gradients(function)(*args) for args in given], *shapes).compile()


# --- operations ---------------------------------------------------------------------------------------------------


def option_kind(name, value):
    """Return the property of an option's value that makes another program."""
    if name == "padding" and not isinstance(value, str):
        return name, "negative" if "-" in str(value) else "pads"
    return name, value if isinstance(value, (str, bool)) or name == "norm_type" and math.isinf(value) else None


def family(function):
    """Return the family of a function; functions of one family have the same window reduction and options."""
    return {"max_pool": "extremes", "min_pool": "extremes"}.get(
        function, "sums" if function.endswith("_pool") else function
    )


def representatives():
    """Return the rows of the table with a function, or a kind of option, that no earlier row has."""
    covered = set()
    for case in cases.CASES:
        if case.dtype == np.float32 and case.smooth and 0 not in case.arrays[0].shape:
            kinds = {case.function} | {(family(case.function), *option_kind(k, v)) for k, v in case.options.items()}
            if kinds - covered:
                covered |= kinds
                yield case


REPRESENTATIVES = list(representatives())


def test_every_operation_has_a_representative():
    operations = set(convlab.__all__) - {
        "Window",
        "Tuning",
        "accelerate",
        "autotune",
        "explain",
        "freeze",
        "optimize",
        "conv_general_dilated",
        "nms",
    }
    assert {case.function for case in REPRESENTATIVES} == operations


@pytest.mark.parametrize("case", REPRESENTATIVES, ids=str)
def test_operations(case):
    compile_both(case.convlab, case.draw())


STATIC = [
    (convlab.resize, dict(scale=2)),
    (convlab.resize, dict(output_shape=17)),
    (convlab.resize, dict(output_shape=17, method="cubic", align_corners=True)),
    (convlab.resize, dict(scale=0.5, antialias=True)),
    (convlab.resize, dict(scale=1.5, method="nearest")),
    (convlab.pixel_shuffle, dict(factor=2)),
    (convlab.pixel_unshuffle, dict(factor=2)),
    (convlab.local_response_norm, dict(size=3)),
]


def test_static_geometry_needs_no_gather_and_no_scatter():
    """A TPU gathers one entry after another, so these operations avoid it. One program contains all of them."""
    image = jax.ShapeDtypeStruct((2, 12, 12, 16), "float32")
    calls = [lambda x, f=f, options=options: f(x, **options) for f, options in STATIC]
    text = compiler.lower(lambda x: [with_gradients(call)(x) for call in calls], image).compile().as_text()
    assert " gather(" not in text and " scatter(" not in text


def test_conv_general_dilated():
    def function(x, k):
        return convlab.conv_general_dilated(x, k, (2, 1), "SAME", rhs_dilation=(1, 2), feature_group_count=2)

    compile_both(function, [np.zeros((2, 8, 16, 17), np.float32), np.zeros((6, 4, 3, 3), np.float32)])


# --- modules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", test_modules.PARAMETRISED, ids=lambda row: row[0])
def test_layers_with_parameters(row):
    name, made, options, arrays = row
    layer = getattr(convlab.linen, name)(*made, **options)
    other = getattr(convlab.nnx, name)(arrays[0].shape[-1], *made, **options, rngs=flax.nnx.Rngs(0))
    other(*arrays)  # some have no parameters before
    graph, state, rest = flax.nnx.split(other, flax.nnx.Param, ...)
    leaves, structure = jax.tree.flatten(flax.nnx.to_pure_dict(state))

    def both_systems(*args):
        parameters, inputs = jax.tree.unflatten(structure, args[: len(leaves)]), args[len(leaves) :]
        flax.nnx.replace_by_pure_dict(state, parameters)
        return layer.apply({"params": parameters}, *inputs), flax.nnx.merge(graph, state, rest)(*inputs)

    compile_both(both_systems, [*leaves, *arrays])


@pytest.mark.parametrize("row", test_modules.OPERATIONS, ids=lambda row: row[0])
def test_layers_without_parameters(row):
    name, _, made, options, arrays, called = row
    linen, nnx = (getattr(system, name)(*made, **options) for system in (convlab.linen, convlab.nnx))
    key = called.get("key")
    rest = {n: v for n, v in called.items() if n != "key"}

    def both_systems(*arrays):
        rngs = ({}, {}) if key is None else ({"rng": key}, {"rngs": key})
        return linen.apply({}, *arrays, **rest, **rngs[0]), nnx(*arrays, **rest, **rngs[1])

    compile_both(both_systems, arrays)


# --- estimates ----------------------------------------------------------------------------------------------------

LAYERS = (
    "dense 3x3 stride 2 w3 s2 128 @56",
    "stem w7 s2 3-64 @224",
    "few channels w5 1-6 @28",
    "depthwise w3 dw 32 @112",
    "few channels w3 1 @512",
    "stem w4 s4 3-96 @224",
    "depthwise multiplier w3 dw 32-64 @56",
    "grouped w3 g32 128 @56",
    "grouped w3 s2 g32 256 @28",
    "sequence w3 d8 64 @4096",
    "volume w3 1-16 @64",
    "transposed w16 s8 256-128 @128",
    "max pool w3 s2 64 @112",
    "average pool w7 512 @7",
)


@pytest.mark.parametrize("mode", estimates.MODES)
@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_is_estimated_above_flaxs(name, mode):
    (case,) = (case for case in suite.cases() if f"{case['family']} {case['name']}".startswith(name))
    found = estimates.estimates(case, mode, "float32")
    ours, theirs = found["convlab"], found["flax"]
    assert ours.cycles <= estimates.WORSE * theirs.cycles
    assert ours.bytes <= 1.05 * theirs.bytes
    assert ours.temporary <= 1.05 * theirs.temporary + 2**16


def test_a_row_that_takes_too_long_ends_the_run_and_is_named(tmp_path):
    row, kept = {"layer": "w3 8", "mode": "forward", "dtype": "bfloat16", "flax": None}, tmp_path / "rows"
    program = (
        "import estimates, pathlib, sys\nwith estimates.at_most(0.1, eval(sys.argv[1]), pathlib.Path(sys.argv[2])):"
    )
    command = [sys.executable, "-c", program + "\n    while True: pass", repr(row), str(kept)]
    done = subprocess.run(command, cwd=pathlib.Path(estimates.__file__).parent, capture_output=True, text=True)
    assert done.returncode == estimates.LATE and "w3 8 forward: not compiled" in done.stdout
    (late,) = map(json.loads, kept.read_text().splitlines())
    assert late == row | {"late": 0.1}
    assert estimates.as_tables([late]) == "Not compiled within 0.1 seconds of the processors: w3 8 forward."
    with estimates.at_most(1e9, row, kept):
        pass
    assert len(kept.read_text().splitlines()) == 1


# The bytes that an operation may move, relative to the tiled bytes of its arguments and results.
MOVED = {
    ("max_pool with indices", "forward"): 7,
    ("max_pool dilated", "gradients"): 2,
    ("max_pool cropped", "gradients"): 6,
    ("top_k_pool of 3", "forward"): 7,
    ("top_k_pool of 3", "gradients"): 18,
    ("pad reflect", "forward"): 5,
}


def estimate_of(name, image, mode):
    (operation,) = (o for o in operations.OPERATIONS if o.name == name)
    return operations.estimates(dataclasses.replace(operation, plain=None), image, mode, "float32")["convlab"]


@pytest.mark.parametrize("image", operations.IMAGES)
@pytest.mark.parametrize("name, mode", MOVED)
def test_operations_of_our_own_are_tiled_well(name, mode, image):
    found = estimate_of(name, image, mode)
    assert found.bytes <= MOVED[name, mode] * found.operands
    assert found.temporary <= found.operands / 4


@pytest.mark.parametrize("mode", estimates.MODES)
def test_indices_of_a_pool_are_unpooled_without_a_scatter(mode):
    found = estimate_of("max_unpool", operations.IMAGES[0], mode)
    assert found.entries == 0
    assert found.temporary <= found.operands


def test_layer_normalization_between_products_is_no_dearer_than_flaxs():
    """Its sums are fused into the products beside it, which a barrier before them would prevent."""

    def estimated(layer):
        class Block(nnx.Module):
            def __init__(self, rngs):
                self.mix, self.wide = nnx.Linear(96, 96, rngs=rngs), nnx.Linear(96, 384, rngs=rngs)
                self.norm = layer(96, rngs=rngs)

            def __call__(self, x):
                return x + jax.nn.gelu(self.wide(self.norm(self.mix(x))))[..., :96]

        graph, state = nnx.split(Block(nnx.Rngs(0)))
        loss = lambda state, x: (nnx.merge(graph, state, copy=True)(x) ** 2).sum()
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
        x = jax.ShapeDtypeStruct((8, 28, 28, 96), jnp.float32)
        return compiler.estimate(jax.grad(loss, (0, 1)), shapes, x)

    ours, flaxs = estimated(convlab.nnx.LayerNorm), estimated(nnx.LayerNorm)
    assert ours.cycles <= 1.01 * flaxs.cycles and ours.bytes <= 1.01 * flaxs.bytes


# --- many chips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slice_name", ["v5e:2x2", "v5e:4x4", "v5e:8x8"])
def test_lenet_learns_on_all_chips(slice_name):
    """In the example's epoch each chip computes its part of every batch, and the chips exchange only means."""
    mesh, network = compiler.mesh(slice_name), model.NETWORKS["nnx"]()
    optimizer = engine.optimizer(1e-3, 0.9, 0.0, 4)
    epoch = engine.epoch_function(network.apply, optimizer, engine.Recipe(512), mesh)
    state = jax.eval_shape(lambda: engine.begin(network.init, optimizer, engine.random_key(0)))
    images, labels = jax.ShapeDtypeStruct((2048, 28, 28), "uint8"), jax.ShapeDtypeStruct((2048,), "int32")
    number = jax.ShapeDtypeStruct((), "uint32")
    text = epoch.lower(state, images, labels, number, number).compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text and "all-to-all" not in text


@pytest.mark.parametrize("slice_name", ["v5e:2x2", "v5e:4x4"])
def test_a_batch_split_by_the_partitioner_stays_where_it_is(slice_name):
    mesh, network = compiler.mesh(slice_name), model.NETWORKS["linen"]()
    params = jax.eval_shape(network.init, jax.random.key(0))
    images, labels = jax.ShapeDtypeStruct((512, 28, 28, 1), "float32"), jax.ShapeDtypeStruct((512,), "int32")

    def loss(params, images, labels):
        return engine.cross_entropy(network.apply(params, images), labels).mean()

    specs = (P(), P("data"), P("data"))
    text = compiler.lower(jax.value_and_grad(loss), params, images, labels, on=mesh, specs=specs).compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text and "all-to-all" not in text


@pytest.mark.parametrize("slice_name", ["v5e:2x2", "v5e:4x4"])
def test_images_split_in_bands_exchange_their_edges(slice_name):
    mesh = compiler.mesh(slice_name)

    def network(x, kernels):
        y = jax.nn.relu(sharding.conv(x, kernels[0], strides=2, axis_names=("data", None)))
        y = sharding.max_pool(y, 3, 2, "SAME", axis_names=("data", None))
        return sharding.conv_transpose(y, kernels[1], strides=2, axis_names=("data", None))

    bands = P(None, "data")
    split = jax.shard_map(network, mesh=mesh, in_specs=(bands, P()), out_specs=bands)
    x = jax.ShapeDtypeStruct((1, 512, 64, 3), "float32")
    kernels = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((5, 5, 3, 8), (3, 3, 8, 2))]
    gradient = jax.value_and_grad(lambda x, kernels: (split(x, kernels) ** 2).mean(), (0, 1))
    text = compiler.lower(gradient, x, kernels, on=mesh, specs=(bands, P())).compile().as_text()
    assert "collective-permute" in text and "all-gather" not in text and "all-to-all" not in text
