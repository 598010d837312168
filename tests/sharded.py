"""Tests for test_sharding.py on eight CPU devices: every split operation gives the results of one device."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convlab
from convlab import sharding

P = jax.P
CONVS = {
    "same": {},
    "strided": dict(strides=2),
    "wide": dict(kernel=(7, 7)),
    "further than a neighbour": dict(kernel=(11, 3)),
    "dilated": dict(kernel_dilation=(2, 3)),
    "depthwise": dict(feature_group_count=4),
    "grouped strided": dict(feature_group_count=2, strides=(2, 1)),
    "circular": dict(padding="CIRCULAR", kernel=(5, 5)),
    "reflect": dict(padding="REFLECT"),
    "replicate": dict(padding=1, padding_mode="replicate"),
    "constant": dict(padding_mode=("constant", "circular"), padding_value=2.5),
    "constant everywhere": dict(padding_mode="constant", padding_value=2.5),
    "causal": dict(padding="CAUSAL"),
    "patches": dict(kernel=(2, 2), strides=2, padding="VALID"),
    "cropped": dict(padding=((-1, 2), (1, 1)), strides=(2, 1), kernel=(2, 3)),
    "drifting": dict(kernel=(9, 9), padding="VALID"),
    "masked": dict(mask=True),
}
TRANSPOSES = {
    "same": dict(strides=2),
    "stride 1": {},
    "upsampling": dict(kernel=(2, 2), strides=2, padding="VALID"),
    "no overlap": dict(kernel=(2, 2), strides=3),
    "pytorch": dict(strides=2, padding=1, output_padding=1, transpose_kernel=True, use_consistent_padding=True),
    "flax pairs": dict(kernel=(4, 4), strides=2, padding=((2, 2), (2, 2))),
    "dilated": dict(strides=2, kernel_dilation=2, padding="SAME"),
    "wide": dict(kernel=(13, 3), strides=2),
    "causal": dict(strides=2, padding="CAUSAL"),
    "grouped": dict(strides=2, feature_group_count=2),
}
POOLS = {
    "max": ("max_pool", dict(window_shape=2, strides=2)),
    "max overlapping": ("max_pool", dict(window_shape=3, strides=2, padding="SAME")),
    "max dilated": ("max_pool", dict(window_shape=3, padding="SAME", window_dilation=2)),
    "min": ("min_pool", dict(window_shape=3, padding="SAME")),
    "avg": ("avg_pool", dict(window_shape=2, strides=2)),
    "avg padded": ("avg_pool", dict(window_shape=3, strides=2, padding=1)),
    "avg without padding": ("avg_pool", dict(window_shape=(5, 3), padding="SAME", count_include_pad=False)),
    "avg of padding only": (
        "avg_pool",
        dict(window_shape=1, strides=2, padding=((1, 15), (1, 15)), count_include_pad=False),
    ),
    "sum": ("sum_pool", dict(window_shape=3, padding="SAME")),
    "lp": ("lp_pool", dict(window_shape=3, strides=2, padding="SAME", norm_type=3.0)),
}


def split(function, mesh, names, args):
    """Return `function` with its first argument and its result split and its other arguments whole."""
    parts = P(None, *names)
    specs = (parts, *[P()] * (len(args) - 1))
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=parts)


def check(whole, part, args, sizes=(4, 2)):
    """Compare value and gradients of the split operation with those of the whole one."""
    names = ("rows", "columns")[: len(sizes)]
    axis_names = (*names, None)[:2]
    divided = split(functools.partial(part, axis_names=axis_names), mesh_of(*sizes, names=names), names, args)
    shape = jax.eval_shape(whole, *args)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=shape.shape), shape.dtype)

    def value_and_slopes(function):
        def total(*args):
            value = function(*args)
            return (value * weight).sum(), value

        return jax.jit(jax.grad(total, range(len(args)), has_aux=True))(*args)

    (slopes, value), (right_slopes, right_value) = value_and_slopes(divided), value_and_slopes(whole)
    np.testing.assert_allclose(value, right_value, rtol=2e-5, atol=2e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), slopes, right_slopes)


def mesh_of(*sizes, names):
    return jax.make_mesh(sizes, names, axis_types=(jax.sharding.AxisType.Auto,) * len(sizes))


def random(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def test_a_method_is_named_within_shard_map():
    """The kernel is cast there before the convolution."""
    x, k = jnp.ones((8, 5, 3)), jnp.ones((3, 3, 2))
    mesh = mesh_of(8, names=("batch",))
    split = jax.shard_map(
        lambda x, k: convlab.conv(x, k, method="taps"), mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch")
    )
    np.testing.assert_array_equal(jax.jit(split)(x, k), convlab.conv(x, k, method="lax"))


@pytest.mark.parametrize("case", CONVS)
def test_conv(case):
    options = dict(CONVS[case])
    size = options.pop("kernel", (3, 3))
    kernel = random(*size, 4 // options.get("feature_group_count", 1), 8)
    if options.pop("mask", False):
        options["mask"] = np.random.default_rng(0).random(kernel.shape) < 0.5
    args = random(2, 32 if case != "drifting" else 40, 16 if case != "drifting" else 24, 4), kernel, random(8)
    check(functools.partial(convlab.conv, **options), functools.partial(sharding.conv, **options), args)


@pytest.mark.parametrize("case", TRANSPOSES)
def test_conv_transpose(case):
    options = dict(TRANSPOSES[case])
    size, groups = options.pop("kernel", (3, 3)), options.get("feature_group_count", 1)
    kernel = random(*size, 4 // groups, 4)
    args = random(2, 16, 8, 4), kernel, random(4)
    whole, part = (functools.partial(f, **options) for f in (convlab.conv_transpose, sharding.conv_transpose))
    check(whole, part, args)


@pytest.mark.parametrize("case", POOLS)
def test_pools(case):
    name, options = POOLS[case]
    whole, part = (functools.partial(getattr(module, name), **options) for module in (convlab, sharding))
    check(whole, part, (random(2, 32, 16, 3),))


@pytest.mark.parametrize("dtype", ["int32", "bfloat16"])
@pytest.mark.parametrize("case", ["max overlapping", "avg padded", "avg without padding"])
def test_pools_of_other_dtypes(case, dtype):
    name, options = POOLS[case]
    x = (10 * random(2, 32, 16, 3)).astype(dtype)
    mesh = mesh_of(8, names=("rows",))
    got = split(functools.partial(getattr(sharding, name), **options, axis_names=("rows", None)), mesh, ("rows",), (x,))
    got = jax.jit(got)(x)
    want = getattr(convlab, name)(x, **options)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(np.float32(got), np.float32(want), rtol=1e-2 if dtype == "bfloat16" else 1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank):
    kernel, x = random(*(3,) * rank, 2, 2), random(2, 16, *(6,) * (rank - 1), 2)
    mesh, names = mesh_of(8, names=("i",)), ("i", None, None)[:rank]
    f = split(functools.partial(sharding.conv, axis_names=names, strides=2), mesh, ("i",), (x, kernel))
    np.testing.assert_allclose(jax.jit(f)(x, kernel), convlab.conv(x, kernel, strides=2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["wide", "further than a neighbour", "reflect"])
def test_conv_split_once(case):
    options = dict(CONVS[case])
    args = random(1, 64, 8, 2), random(*options.pop("kernel", (3, 3)), 2, 2), random(2)
    check(functools.partial(convlab.conv, **options), functools.partial(sharding.conv, **options), args, sizes=(8,))


def test_meshes_of_explicit_axes():
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Explicit,))
    x, kernel = random(2, 32, 8, 3), random(3, 3, 3, 4)
    f = split(functools.partial(sharding.conv, axis_names=("rows", None)), mesh, ("rows",), (x, kernel))
    y = jax.jit(f)(
        *jax.device_put((x, kernel), (jax.NamedSharding(mesh, P(None, "rows")), jax.NamedSharding(mesh, P())))
    )
    np.testing.assert_allclose(y, convlab.conv(x, kernel), rtol=1e-5, atol=1e-5)


def network(module, **option):
    def apply(x, params):
        y = jax.nn.relu(module.conv(x, params[0], strides=2, **option))
        y = module.max_pool(y, 3, 2, "SAME", **option)
        y = module.conv_transpose(y, params[1], strides=2, **option)
        return module.avg_pool(y, 2, 2, **option)

    return apply


def test_a_network_and_its_gradients():
    x, params = random(2, 64, 16, 3), (random(5, 5, 3, 4), random(3, 3, 4, 2))
    mesh = mesh_of(8, names=("rows",))
    whole, part = network(convlab), network(sharding, axis_names=("rows", None))
    divided = split(part, mesh, ("rows",), (x, params))
    np.testing.assert_allclose(jax.jit(divided)(x, params), jax.jit(whole)(x, params), rtol=1e-4, atol=1e-4)
    slopes = [jax.jit(jax.grad(lambda p, f=f: (f(x, p) ** 2).mean()))(params) for f in (divided, whole)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), *slopes)


def test_only_halos_are_exchanged():
    x, kernel = random(2, 64, 16, 3), random(5, 5, 3, 4)
    mesh = mesh_of(8, names=("rows",))
    f = split(functools.partial(sharding.conv, axis_names=("rows", None)), mesh, ("rows",), (x, kernel))
    text = jax.jit(f).lower(x, kernel).compile().as_text()
    assert "collective-permute" in text and "all-gather" not in text and "all-to-all" not in text
    sent = [
        line for line in text.splitlines() if " collective-permute(" in line or " collective-permute-start(" in line
    ]
    assert all("f32[2,2,16,3]" in line for line in sent)


REFUSALS = {
    "uneven output": (
        dict(padding="VALID"),
        "`padding` must make an output that 8 devices can share evenly for spatial axis 0",
    ),
    "uneven strides": (dict(strides=3), "of which it makes 11 from 32, got 'SAME'"),
    "names": (dict(axis_names=("rows",)), "`axis_names` must be one mesh axis or None per axis for 2 spatial axes"),
    "kernel": (dict(padding=-20), "`kernel` must fit into the padded input"),
    "reflect": (
        dict(kernel=(11, 3), padding="REFLECT"),
        "`kernel` must reach at most 3 places into the neighbouring part",
    ),
    "mode": (dict(padding_mode="mirror"), "`padding_mode` must be one of"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    options, message = REFUSALS[case]
    options = {"axis_names": ("rows", None)} | options
    x, kernel = random(2, 32, 16, 3), random(*options.pop("kernel", (3, 3)), 3, 4)
    f = split(functools.partial(sharding.conv, **options), mesh_of(8, names=("rows",)), ("rows",), (x, kernel))
    with pytest.raises(ValueError) as caught:
        f(x, kernel)
    assert message in str(caught.value)


def test_a_transposed_convolution_that_does_not_grow_by_its_stride_is_refused():
    x, kernel = random(2, 32, 16, 3), random(3, 3, 3, 4)
    part = functools.partial(sharding.conv_transpose, axis_names=("rows", None), strides=2, padding="VALID")
    f = split(part, mesh_of(8, names=("rows",)), ("rows",), (x, kernel))
    with pytest.raises(ValueError, match="`padding` must grow an axis that is split by its stride 2"):
        f(x, kernel)


def test_the_page_in_docs():
    page = (pathlib.Path(__file__).parents[1] / "docs" / "sharding.md").read_text()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, names)
    assert names["split"](names["x"], names["kernels"]).shape == (1, 256, 64, 2)
    assert names["loss"] > 0 and all(np.abs(g).max() > 0 for g in names["gradients"].values())
