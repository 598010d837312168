"""Linen: compact methods, collections, lifted transformations and the bridge to NNX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import convlab
import convlab.linen

X = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype(np.float32)
KEY = jax.random.key(0)
MASK = np.tril(np.ones((3, 2, 4, 6), np.float32))


class Network(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = convlab.linen.Conv(6, [3, 3])(x)
        x = convlab.linen.MaxPool([2, 2], strides=[2, 2])(x)
        x = convlab.linen.ConvTranspose(3, (2, 2), strides=(2, 2), name="up")(x)
        return convlab.linen.Flatten()(x)


def test_names_shapes_and_jit():
    y, variables = Network().init_with_output(KEY, X)
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "Conv_0": {"kernel": (3, 3, 4, 6), "bias": (6,)},
        "up": {"kernel": (2, 2, 6, 3), "bias": (3,)},
    }
    assert jax.eval_shape(Network().init, KEY, X)["params"]["up"]["bias"].shape == (3,)
    np.testing.assert_allclose(jax.jit(Network().apply)(variables, X), y, atol=1e-5)


def test_tabulate():
    table = Network().tabulate(KEY, X, console_kwargs={"width": 150, "force_terminal": False})
    assert "MaxPool_0" in table and "ConvTranspose" in table and "float32[2,72]" in table


def test_sequential():
    model = linen.Sequential([convlab.linen.Conv(6, (3, 2)), linen.relu, convlab.linen.GlobalAvgPool()])
    assert model.init_with_output(KEY, X)[0].shape == (2, 6)


def test_lifted_transformations():
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            return linen.remat(convlab.linen.Conv)(4, (3, 2))(x), None

    scanned = linen.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    (y, _), variables = jax.jit(scanned().init_with_output)(KEY, X, None)
    kernel, bias = (variables["params"]["CheckpointConv_0"][n] for n in ("kernel", "bias"))
    expected = X
    for i in range(3):
        expected = convlab.conv(expected, kernel[i], bias[i])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)

    mapped = linen.vmap(convlab.linen.Conv, in_axes=0, variable_axes={"params": 0}, split_rngs={"params": True})(
        6, (3, 2)
    )
    y, variables = jax.eval_shape(mapped.init_with_output, KEY, X[None])
    assert variables["params"]["kernel"].shape == (1, 3, 2, 4, 6) and y.shape == (1, 2, 6, 5, 6)
    compiled = linen.jit(convlab.linen.CausalConv)(6, (3, 2), strides=2)
    assert jax.jit(compiled.init_with_output)(KEY, X)[0].shape == (2, 3, 3, 6)


def test_a_mask_is_no_variable():
    layer = convlab.linen.Conv(6, (3, 2), mask=MASK)
    y, variables = layer.init_with_output(KEY, X)
    assert set(variables["params"]) == {"kernel", "bias"}
    np.testing.assert_allclose(y, convlab.conv(X, variables["params"]["kernel"] * MASK), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"`mask` must have the kernel's shape \(3, 2, 3, 6\), got \(3, 2, 4, 6\)"):
        layer.init(KEY, X[..., :3])


def test_output_shape_of_a_transposed_convolution():
    layer = convlab.linen.ConvTranspose(6, (3, 2), strides=(2, 2), use_consistent_padding=True, padding=0)
    assert layer.init_with_output(KEY, X, output_shape=(14, 11))[0].shape == (2, 14, 11, 6)


def test_random_pools_take_keys_from_their_collection():
    for layer in (convlab.linen.StochasticPool(2), convlab.linen.FractionalMaxPool(2, output_shape=(4, 3))):
        draw = jax.jit(lambda key, layer=layer: layer.apply({}, X, rngs={"pool": key}))
        draws = [np.asarray(draw(jax.random.key(seed))) for seed in (0, 0, 1, 2)]
        np.testing.assert_array_equal(*draws[:2])
        assert (draws[0] != draws[2]).any() or (draws[0] != draws[3]).any()
    fixed = convlab.linen.StochasticPool(2, deterministic=True)
    np.testing.assert_array_equal(*jax.jit(lambda x: (fixed.apply({}, x), convlab.stochastic_pool(x, 2)))(X))


class Stream(linen.Module):
    def setup(self):
        self.layers = [convlab.linen.CausalConv(4, 3), convlab.linen.CausalConv(5, 2, kernel_dilation=2)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def step(self, x):
        for layer in self.layers:
            x = layer.step(x)
        return x


def test_streams_in_networks():
    x = X[:, :, 0]
    variables = jax.jit(lambda x: Stream().init(KEY, x, method="step"))(x[:, :1])
    assert jax.tree.map(jnp.shape, variables["cache"]) == {
        "layers_0": {"inputs": (2, 2, 4)},
        "layers_1": {"inputs": (2, 2, 4)},
    }
    assert not any(np.any(kept) for kept in jax.tree.leaves(variables["cache"]))
    step, steps = jax.jit(lambda v, x: Stream().apply(v, x, method="step", mutable=["cache"])), []
    whole = jax.jit(Stream().apply)(variables, x)
    for part in np.split(x, 6, 1):
        y, cache = step(variables, part)
        variables, steps = variables | cache, [*steps, y]
    np.testing.assert_allclose(np.concatenate(steps, 1), whole, atol=1e-5)


def test_the_bridge_to_nnx():
    layer = nnx.bridge.ToNNX(convlab.linen.Conv(6, (3, 2)), rngs=nnx.Rngs(0)).lazy_init(X)
    assert layer.kernel.shape == (3, 2, 4, 6)
    np.testing.assert_allclose(layer(X), convlab.conv(X, layer.kernel[...], layer.bias[...]), rtol=1e-5, atol=1e-5)


def test_partitioned_parameters():
    init = linen.with_partitioning(linen.initializers.lecun_normal(), (None, None, None, "model"))
    y, variables = jax.eval_shape(convlab.linen.Conv(6, (3, 2), kernel_init=init).init_with_output, KEY, X)
    assert variables["params"]["kernel"].names == (None, None, None, "model")
    assert y.shape == (2, 6, 5, 6)
