"""Analysis: receptive fields are compared with the gradient, multiply-adds with XLA's, rows with the models."""

import doctest
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import convlab
import convlab.linen
import convlab.nnx
from convlab.analysis import activations, analyze, influence, summary


def kernel(*size, i=1, o=1):
    return jnp.ones((*size, i, o))


def check_fields(function, x, path):
    """Check at every position that the gradient lies within the receptive field, and reaches both its ends if they are
    within the image."""
    spatial, found = x.shape[1:-1], analyze(function, x)[path]
    slopes = np.asarray(jax.jit(jax.jacrev(lambda x: function(x).sum((0, -1))))(x)).sum((-1, x.ndim - 2))
    last_place = tuple(n - 1 for n in found.output_shape[1:-1])
    influenced = jax.jit(lambda x: influence(function, x, last_place))(x)
    np.testing.assert_allclose(influenced, slopes[last_place], rtol=1e-5)
    reached = 0
    for position in itertools.product(*(range(n) for n in found.output_shape[1:-1])):
        measured = np.argwhere(slopes[position] > 0)
        theory = found.field.at(position, spatial)
        for axis, (pairs, p) in enumerate(zip(found.field.intervals, position)):
            first, last = pairs[p if len(pairs) > 1 else 0]
            if len(measured) == 0:
                assert first > last or first < 0 or last >= spatial[axis]
                continue
            influenced = measured[:, axis]
            assert theory[axis].start <= influenced.min() <= influenced.max() < theory[axis].stop, (position, axis)
            if first >= 0 and last < spatial[axis]:
                assert (influenced.min(), influenced.max()) == (first, last), (position, axis)
                reached += 1
    return found, reached


# Drawn steps of a network in one dimension, each a function of (n, length, 1).
def conv(window, stride, padding, mode, dilation):
    return lambda x: convlab.conv(
        x, kernel(window), strides=stride, padding=padding, padding_mode=mode, kernel_dilation=dilation
    )


def conv_transpose(window, stride):
    return lambda x: convlab.conv_transpose(x, kernel(window), strides=stride)


def pool(window, stride, padding, ceil_mode):
    return lambda x: convlab.avg_pool(x, window, stride, padding, ceil_mode=ceil_mode)


def residual(step):
    def run(x):
        y = step(x)
        size = min(x.shape[1], y.shape[1])
        return x[:, :size] + y[:, :size]

    return run


paddings, kernels, strides = st.sampled_from(["SAME", "VALID", 1, "CAUSAL"]), st.integers(1, 4), st.integers(1, 3)
steps = st.one_of(
    st.builds(conv, kernels, strides, paddings, st.just("zeros"), st.integers(1, 2)),
    st.builds(conv_transpose, st.integers(2, 4), st.integers(1, 2)),
    st.builds(pool, st.integers(1, 3), strides, st.sampled_from(["SAME", "VALID"]), st.booleans()),
    st.builds(residual, st.builds(conv, kernels, st.just(1), st.just("SAME"), st.just("zeros"), st.integers(1, 2))),
    st.sampled_from([jnp.flip, jax.nn.relu]),
)


@pytest.mark.program
@settings(max_examples=25, deadline=None)
@given(st.lists(steps, min_size=1, max_size=3))
def test_fields_are_what_the_gradient_measures(several):
    def network(x):
        for step in several:
            x = step(x)
        return convlab.conv(x, kernel(1))

    x = jnp.ones((1, 29, 1))
    found = analyze(network, x)
    check_fields(network, x, found.layers[-1].path)


BORDERS = {
    "reflect": lambda x: convlab.conv(x, kernel(5), padding_mode="reflect"),
    "circular": lambda x: convlab.conv(x, kernel(3), padding="CIRCULAR", strides=2),
    "replicate": lambda x: convlab.conv(convlab.pad(x, [(2, -1)], "replicate"), kernel(3)),
    "cropped": lambda x: convlab.conv(x[:, 2:-3], kernel(3)),
    "blurred": lambda x: convlab.conv(convlab.blur_pool(x), kernel(3)),
}


@pytest.mark.parametrize("name", BORDERS)
def test_fields_behind_borders_that_repeat_or_cut_the_image(name):
    function, x = BORDERS[name], jnp.ones((1, 20, 1))
    slopes = np.asarray(jax.jit(jax.jacrev(lambda x: function(x).sum((0, -1))))(x))[:, 0, :, 0]
    field = analyze(function, x)["conv"].field
    for position, row in enumerate(slopes):
        influenced, theory = np.flatnonzero(row), field.at((position,), (20,))[0]
        assert theory.start <= influenced.min() <= influenced.max() < theory.stop
        if position == len(slopes) // 2:
            assert (influenced.min(), influenced.max()) == (theory.start, theory.stop - 1)
            assert field.size == (len(influenced),)
            assert field.offset[0] + position * field.stride[0] == influenced.min()


def test_fields_on_two_axes():
    def network(x):
        x = convlab.conv(x, kernel(3, 5), strides=(2, 1), padding=(4, 2), kernel_dilation=(3, 1))
        x = convlab.sum_pool(x, (1, 2), (1, 2))
        return convlab.conv_transpose(x, kernel(2, 3), strides=(2, 1))

    found, reached = check_fields(network, jnp.ones((1, 20, 16, 1)), "conv_transpose")
    assert reached > 50
    assert found.field.stride == (1, 2)


def test_fields_of_branches_and_residuals():
    def inception(x):
        wide = convlab.conv(convlab.conv(x, kernel(3)), kernel(3))
        return jnp.concatenate([convlab.conv(x, kernel(1)), wide, convlab.max_pool(x, 3, padding="SAME")], -1)

    found = analyze(inception, jnp.ones((1, 20, 1)))
    assert [layer.path for layer in found.layers] == ["conv", "conv_1", "conv_2", "max_pool", "concatenate"]
    assert [layer.field.size for layer in found.layers] == [(3,), (5,), (1,), (3,), (5,)]
    assert found["concatenate"].field.offset == (-2,)


def test_a_gate_of_the_whole_image_has_the_whole_field_and_keeps_the_stride():
    def gated(x):
        y = convlab.conv(x, kernel(3), strides=2)
        return y * jax.nn.sigmoid(convlab.global_avg_pool(y) @ jnp.ones((1, 1)))[:, None, :]

    field = analyze(gated, jnp.ones((1, 20, 1)))["mul"].field
    assert field.at((3,), (20,)) == (slice(0, 20),)
    assert field.stride == (0,)


def test_upsampled_positions_have_half_the_stride():
    doubled = analyze(lambda x: convlab.conv(jnp.repeat(x, 2, 1), kernel(3), padding="VALID"), jnp.ones((1, 9, 1)))[
        "conv"
    ]
    assert (doubled.field.size, doubled.field.stride) == ((2,), (0.5,))


@pytest.mark.parametrize("size", [3, (2, 3)])
def test_adaptive_pools_and_their_uneven_windows(size):
    x = jnp.ones((1, 11, 1) if size == 3 else (1, 11, 7, 1))
    shape = (size,) if size == 3 else size
    ones = kernel(*(1,) * len(shape))
    check_fields(lambda x: convlab.conv(convlab.adaptive_avg_pool(x, shape), ones), x, "conv")


def test_a_computed_index_may_be_anywhere():
    found = analyze(lambda x: convlab.conv(x[:, x[0, :3, 0].astype(int)], kernel(1)), jnp.ones((1, 9, 1)))
    assert found["conv"].field.at((0,), (9,)) == (slice(0, 9),)


def test_a_known_index_is_followed():
    found = analyze(lambda x: convlab.conv(x[:, np.array([5, 6, 8])], kernel(2), padding="VALID"), jnp.ones((1, 9, 1)))
    assert found["conv"].field.intervals == (((5, 6), (6, 8)),)


def test_zeros_between_neighbours_keep_a_field_small():
    """A window of 3 on 1 0 2 0 3 ... contains two nonzero numbers or one."""

    def network(x):
        return convlab.conv(jax.lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0))), kernel(3), padding="VALID")

    found = analyze(network, jnp.ones((1, 5, 1)))["conv"].field
    assert [found.at((i,), (5,)) for i in range(3)] == [(slice(0, 2),), (slice(1, 2),), (slice(1, 3),)]


# --- multiply-adds ------------------------------------------------------------------------------------------------

CONVOLUTIONS = [
    dict(size=(3,), image=(1, 12, 4), padding="SAME"),
    dict(size=(3, 5), image=(2, 20, 16, 4), padding=((4, 4), (2, 2)), strides=(2, 1), kernel_dilation=(3, 1)),
    dict(size=(3, 3), image=(1, 9, 9, 4), padding="VALID", feature_group_count=2),
    dict(size=(4, 4), image=(1, 9, 9, 4), padding="SAME", input_dilation=2),
    dict(size=(3, 3, 3), image=(1, 6, 6, 6, 4), padding="SAME", strides=2),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_multiply_adds_are_half_of_what_xla_counts(case):
    case = dict(case)
    size, image = case.pop("size"), case.pop("image")
    k = jnp.ones((*size, image[-1] // case.get("feature_group_count", 1), 6))

    def network(x):
        y = convlab.conv(x, k, method="lax", **case)
        return y.reshape(len(y), -1) @ jnp.ones((y[0].size, 5))

    x = jnp.ones(image)
    cost = jax.jit(network).lower(x).cost_analysis()
    assert analyze(network, x).macs == cost["flops"] / 2


def test_a_model_costs_what_xla_counts():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Conv(1, 4, (3, 3), strides=2, use_bias=False, rngs=rngs),
        nnx.Conv(4, 8, (3, 3), feature_group_count=2, use_bias=False, rngs=rngs),
        convlab.nnx.Flatten(),
        nnx.Linear(8 * 8 * 8, 3, use_bias=False, rngs=rngs),
    )
    graph, state = nnx.split(model)
    cost = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, X).cost_analysis()
    assert analyze(model, X).macs == cost["flops"] / 2


def test_the_textbook_count_is_channels_times_kernel_times_output():
    found = analyze(lambda x: convlab.conv(x, kernel(3, 3, i=2, o=5)), jnp.ones((1, 7, 6, 2)))
    assert found.macs_with_padding == 2 * 5 * 3 * 3 * 7 * 6
    assert found.macs < found.macs_with_padding


@pytest.mark.parametrize("padding", ["VALID", "SAME", 1])
def test_the_textbook_count_of_a_transposed_convolution_is_that_of_its_input(padding):
    k, x = kernel(5, 5, i=2, o=3), jnp.ones((1, 7, 6, 2))
    found = analyze(lambda x: convlab.conv_transpose(x, k, strides=2, padding=padding), x)
    assert found.macs_with_padding == 2 * 3 * 5 * 5 * 7 * 6
    assert found.macs == found.macs_with_padding if padding == "VALID" else found.macs < found.macs_with_padding


def test_a_scan_counts_every_round():
    def network(x):
        return jax.lax.scan(lambda y, _: (convlab.conv(y, kernel(3)), None), x, length=4)[0]

    x = jnp.ones((1, 9, 1))
    assert analyze(network, x).macs == 4 * analyze(lambda x: convlab.conv(x, kernel(3)), x).macs


# --- models -------------------------------------------------------------------------------------------------------


class Block(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = convlab.nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(4))

    def __call__(self, x):
        return x + self.scale * nnx.relu(self.norm(self.conv1(x)))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.pool = convlab.nnx.MaxPool(2, 2)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x) if x.shape[-1] == 4 else block(self.stem(x))
        return self.head(convlab.global_avg_pool(self.pool(x)))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        y = convlab.linen.Conv(4, (3, 3), strides=2, name="stem")(x)
        y = linen.BatchNorm(use_running_average=not train, name="norm")(y)
        y = linen.Dropout(0.5, deterministic=not train)(y)
        y = linen.avg_pool(y, (2, 2), (2, 2))
        return linen.Dense(3, name="head")(y.reshape(len(y), -1))


X = jnp.ones((2, 16, 16, 1))


def test_the_rows_of_an_nnx_model():
    net = Net(nnx.Rngs(0))
    found = analyze(net, X)
    assert [(layer.path, layer.kind) for layer in found.layers] == [
        ("stem", "Conv"),
        ("blocks.0.conv1", "Conv"),
        ("blocks.0.norm", "BatchNorm"),
        ("blocks.0.add", "add"),
        ("blocks.1.conv1", "Conv"),
        ("blocks.1.norm", "BatchNorm"),
        ("blocks.1.add", "add"),
        ("pool", "MaxPool"),
        ("head", "Linear"),
        ("blocks.0", "parameters"),
        ("blocks.1", "parameters"),
    ]
    assert found.parameters == sum(p.size for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
    assert found["blocks.0"].parameters == 4
    assert found["blocks.1.add"].field.size == (11, 11)
    assert found["head"].output_shape == (2, 3)


def test_the_rows_of_a_linen_model():
    found = analyze(LinenNet(), X, train=False)
    assert [layer.path for layer in found.layers] == ["stem", "norm", "Dropout_0", "avg_pool", "head"]
    assert found["stem"].parameters == 3 * 3 * 4 + 4
    variables = LinenNet().init(jax.random.key(0), X)
    assert found.parameters == sum(p.size for p in jax.tree.leaves(variables["params"]))
    assert analyze(LinenNet(), X, variables=variables) == found


def test_statistics_of_a_batch_depend_on_the_whole_image():
    assert analyze(LinenNet(), X, train=True)["norm"].field.at((0, 0), (16, 16)) == (slice(0, 16), slice(0, 16))
    assert analyze(LinenNet(), X, train=False)["norm"].field.size == (3, 3)


def test_a_layer_called_twice_counts_its_parameters_once():
    layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

    class Twice(nnx.Module):
        def __init__(self):
            self.layer = layer

        def __call__(self, x):
            return self.layer(self.layer(x))

    found = analyze(Twice(), jnp.ones((1, 4)))
    assert [row.parameters for row in found.layers] == [20, 0]
    assert list(activations(Twice(), jnp.ones((1, 4)))) == ["layer", "layer#2"]


def test_tracing_leaves_the_classes_as_they_were():
    before = [nnx.Conv.__call__, Block.__call__, "__call__" in vars(convlab.nnx.Conv)]
    analyze(Net(nnx.Rngs(0)), X)
    assert [nnx.Conv.__call__, Block.__call__, "__call__" in vars(convlab.nnx.Conv)] == before


def test_a_shape_is_enough():
    net = Net(nnx.Rngs(0))
    assert analyze(net, jax.ShapeDtypeStruct(X.shape, X.dtype)) == analyze(net, X)


def test_an_abstract_model_is_enough():
    net = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    assert analyze(net, X) == analyze(Net(nnx.Rngs(0)), X)


def test_activations_are_what_the_layers_compute():
    net = Net(nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), X.shape)
    found = activations(net, x)
    np.testing.assert_allclose(found["stem"], net.stem(x), atol=1e-5)
    np.testing.assert_allclose(found["blocks.0.add"], net.blocks[0](net.stem(x)), atol=1e-5)
    np.testing.assert_allclose(found["head"], net(x), atol=1e-5)


def test_activations_of_linen():
    variables = LinenNet().init(jax.random.key(0), X)
    np.testing.assert_allclose(
        activations(LinenNet(), X, variables=variables)["head"], LinenNet().apply(variables, X), atol=1e-5
    )
    with pytest.raises(ValueError, match="`variables` must be given"):
        activations(LinenNet(), X)


def test_the_table_shows_every_layer_and_the_totals(capsys):
    found = summary(Net(nnx.Rngs(0)), X)
    printed = capsys.readouterr().out
    assert all(layer.path in printed and f"{layer.macs:,}" in printed for layer in found.layers)
    for number in (found.parameters, found.macs, found.macs_with_padding):
        assert f"{number:,}" in printed and f"{number:,}" in str(found)


def test_the_table_without_rich(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    found = summary(Net(nnx.Rngs(0)), X)
    assert capsys.readouterr().out == f"{found}\n"


@pytest.mark.parametrize("function", [analyze, activations, influence], ids=lambda f: f.__name__)
def test_examples_run(function):
    output = []
    for test in doctest.DocTestFinder(recurse=False).find(function, globs={"jnp": jnp, function.__name__: function}):
        doctest.DocTestRunner().run(test, out=output.append)
    assert not output, "".join(output)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: analyze(3, X), "`model` must be an NNX module, a Linen module or a function"),
        (lambda: analyze(jnp.sin, [1.0]), "`x` must be an array"),
        (lambda: analyze(jnp.sin, jnp.ones(3)), "`x` must have the axes"),
        (lambda: analyze(jnp.sin, X)["conv"], "`path` must be one of"),
        (lambda: influence(jnp.sin, X, (3,)), "`place` must be one int per axis of"),
    ],
)
def test_messages(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_importing_analysis_imports_no_flax():
    program = "import sys, convlab.analysis; print([m for m in ('flax', 'rich', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
