"""NNX: layers with lazy shapes, masks, randomness, caches, and every way to pass modules."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import convlab
import convlab.nnx

X = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype(np.float32)


def rngs():
    return nnx.Rngs(0)


def make(channels=4, **options):
    return convlab.nnx.Conv(channels, 6, (3, 2), **options, rngs=rngs())


def loss(layer, x):
    return (layer(x) ** 2).sum()


# --- lazy shapes --------------------------------------------------------------------------------------------------


def build_by_call(layer):
    layer(X)


def build_by_jit(layer):
    nnx.jit(lambda layer, x: layer(x))(layer, X)


def build_by_initialize(layer):
    assert layer.initialize(jax.ShapeDtypeStruct(X.shape, X.dtype)) is layer


def build_by_bridge(layer):
    nnx.bridge.lazy_init(layer, X)


@pytest.mark.parametrize("build", [build_by_call, build_by_jit, build_by_initialize, build_by_bridge])
def test_a_layer_without_in_features_becomes_the_layer_with_them(build):
    lazy = nnx.List([make(None, kernel_metadata={"note": 1}), make(None, use_bias=False)])
    known = nnx.List([make(kernel_metadata={"note": 1}), make(use_bias=False)])
    for layer in lazy:
        build(layer)
    assert nnx.graphdef(lazy) == nnx.graphdef(known)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(lazy)), nnx.to_pure_dict(nnx.state(known)))


def test_keys_are_drawn_in_order_of_construction():
    lazy, known = nnx.Rngs(3), nnx.Rngs(3)
    layers = [convlab.nnx.Conv(None, 4, 3, rngs=lazy), convlab.nnx.Conv(4, 4, 3, rngs=lazy)]
    expected = [convlab.nnx.Conv(4, 4, 3, rngs=known), convlab.nnx.Conv(4, 4, 3, rngs=known)]
    for layer, other in zip(layers[::-1], expected[::-1]):
        layer(X[0])
        np.testing.assert_array_equal(layer.kernel[...], other.kernel[...])


def test_uninitialized_parameters_raise():
    layer = make(None)
    for name in ("kernel", "bias", "kernel_shape"):
        text = rf"`in_features` must be known for `{name}`, got None\. Call the layer, or its `initialize\(inputs\)`, first\."
        with pytest.raises(AttributeError, match=text):
            getattr(layer, name)
    with pytest.raises(AttributeError, match="'Conv' object has no attribute 'weight'"):
        layer.weight  # noqa: B018


def test_a_lazy_layer_is_whole_and_has_no_gradient():
    layer = make(None)
    assert list(nnx.to_pure_dict(nnx.state(layer))) == ["pending"]
    text = (
        r"`in_features` must be known for a gradient, got None\. Call the layer, or its `initialize\(inputs\)`, first\."
    )
    for gradient in (
        nnx.grad(loss),
        nnx.jit(nnx.grad(loss)),
        nnx.grad(nnx.jit(loss)),
        nnx.value_and_grad(loss),
        jax.grad(loss),
    ):
        with pytest.raises(ValueError, match=text):
            gradient(layer, X)
        assert list(nnx.to_pure_dict(nnx.state(layer))) == ["pending"]
    for copied in (copy.deepcopy(layer), nnx.clone(layer), nnx.merge(*nnx.split(layer))):
        np.testing.assert_array_equal(copied(X), make()(X))
    assert layer.in_features is None


def test_a_refused_input_leaves_a_lazy_layer_unchanged():
    layer = make(None, feature_group_count=3)
    with pytest.raises(
        ValueError, match="`feature_group_count` must divide the input channels for 4 input channels, got 3"
    ):
        layer(X)
    assert layer.in_features is None
    assert layer(X[..., :3]).shape == (2, 6, 5, 6)


def test_lazy_layers_in_eval_shape_and_tabulate():
    abstract = nnx.eval_shape(lambda: make(None))
    assert abstract.in_features is None
    made = nnx.eval_shape(lambda: make(None).initialize(X))
    assert made.kernel.shape == (3, 2, 4, 6)
    model = nnx.Sequential(make(None), convlab.nnx.MaxPool(2, strides=2), convlab.nnx.Flatten())
    table = nnx.tabulate(model, X, console_kwargs={"width": 150, "force_terminal": False})
    assert "MaxPool" in table and "float32[2,3,2,6]" in table and "Flatten" in table


def test_conv_local_takes_the_size_of_the_image_from_the_first_call():
    lazy = convlab.nnx.ConvLocal(4, 3, (3, 2), rngs=rngs())
    known = convlab.nnx.ConvLocal(4, 3, (3, 2), spatial_shape=(6, 5), rngs=rngs())
    np.testing.assert_array_equal(lazy(X), known(X))
    assert known.kernel_shape == (6, 5, 24, 3)


# --- masks --------------------------------------------------------------------------------------------------------

MASK = np.tril(np.ones((3, 2, 4, 6), np.float32))


def test_a_mask_is_no_part_of_the_state():
    for mask in (MASK, jnp.asarray(MASK)):
        layer = make(mask=mask)
        assert set(nnx.to_pure_dict(nnx.state(layer))) == {"kernel", "bias"}
        gradient = jax.grad(loss)(layer, X)
        assert len(jax.tree.leaves(gradient)) == 2
        assert (np.asarray(gradient.kernel[...])[MASK == 0] == 0).all()
        np.testing.assert_array_equal(layer.mask, MASK)
        np.testing.assert_allclose(
            layer(X), convlab.conv(X, layer.kernel[...] * MASK, layer.bias[...]), rtol=1e-5, atol=1e-5
        )
    assert nnx.graphdef(make(mask=MASK)) == nnx.graphdef(make(mask=jnp.asarray(MASK)))
    assert nnx.graphdef(make(mask=MASK)) != nnx.graphdef(make(mask=1 - MASK))


def test_a_mask_made_while_tracing_works_as_in_flax():
    y = nnx.jit(lambda x: make(mask=jnp.tril(jnp.ones((3, 2, 4, 6))))(x))(X)
    np.testing.assert_allclose(y, make(mask=MASK)(X), rtol=1e-5, atol=1e-5)


def test_masks_are_checked():
    with pytest.raises(ValueError, match=r"`mask` must have the kernel's shape \(3, 2, 4, 6\), got \(3, 2, 4, 1\)"):
        make(mask=MASK[..., :1])
    with pytest.raises(TypeError, match="`mask` must be an array"):
        make(mask=[1.0])
    layer = make(None, mask=MASK)
    with pytest.raises(ValueError, match=r"`mask` must have the kernel's shape \(3, 2, 3, 6\)"):
        layer(X[..., :3])


# --- randomness and caches ----------------------------------------------------------------------------------------


def test_stochastic_pool_is_random_as_dropout_is():
    layer = convlab.nnx.StochasticPool(2, rngs=nnx.Rngs(pool=1))
    call = nnx.jit(lambda layer, x, **options: layer(x, **options), static_argnames="deterministic")
    first, second = call(layer, X), call(layer, X)
    assert np.any(first != second)
    np.testing.assert_array_equal(call(convlab.nnx.StochasticPool(2, rngs=nnx.Rngs(pool=1)), X), first)
    key = jax.random.key(2)
    np.testing.assert_array_equal(call(convlab.nnx.StochasticPool(2), X, rngs=key), call(layer, X, rngs=key))
    model, expected = nnx.Sequential(layer), jax.jit(lambda x: convlab.stochastic_pool(x, 2))(X)
    model.eval()
    np.testing.assert_array_equal(call(model, X), expected)
    np.testing.assert_array_equal(call(layer, X, deterministic=True), expected)
    model.train()
    assert np.any(call(layer, X) != call(layer, X))
    with pytest.raises(ValueError, match="`rngs` must be given to the layer or to its call, got None"):
        convlab.nnx.StochasticPool(2)(X)


def test_fractional_max_pool_draws_at_each_call():
    layer = convlab.nnx.FractionalMaxPool(2, output_ratio=0.7, rngs=rngs())
    call = nnx.jit(lambda layer, x: layer(x))
    assert any(np.any(call(layer, X) != call(layer, X)) for _ in range(4))
    assert not jax.tree.leaves(nnx.state(layer, nnx.Param))


def test_a_cache_goes_through_jit_and_scan():
    layer = convlab.nnx.CausalConv(4, 6, 3, kernel_dilation=2, rngs=rngs())
    x = X[:, :, 0]
    with pytest.raises(ValueError, match="`cache` must be made by `init_cache`, got None"):
        layer.step(x)
    layer.init_cache(x.shape)
    assert set(nnx.to_pure_dict(nnx.state(layer, nnx.Cache))) == {"cache"}
    assert set(nnx.to_pure_dict(nnx.state(layer, nnx.Param))) == {"kernel", "bias"}
    step = nnx.jit(lambda layer, x: layer.step(x))
    whole = layer(x)
    np.testing.assert_allclose(np.concatenate([step(layer, part) for part in np.split(x, 3, 1)], 1), whole, atol=1e-5)
    layer.init_cache(x.shape)
    steps = nnx.scan(lambda layer, x: (layer, layer.step(x)), in_axes=(nnx.Carry, 0))(
        layer, x.swapaxes(0, 1)[:, :, None]
    )[1]
    np.testing.assert_allclose(steps[:, :, 0].swapaxes(0, 1), whole, atol=1e-5)


# --- passing modules ----------------------------------------------------------------------------------------------


class Network(nnx.Module):
    def __init__(self, rngs):
        self.conv = convlab.nnx.Conv(4, 6, (3, 3), mask=np.ones((3, 3, 4, 6), np.float32), rngs=rngs)
        self.pool = convlab.nnx.AvgPool([2, 2], strides=[2, 2])
        self.up = convlab.nnx.ConvTranspose(6, 3, (2, 2), (2, 2), use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.up(self.pool(jax.nn.relu(self.conv(x))))


def test_transformations_of_nnx_and_of_jax_agree():
    model = Network(rngs())
    expected = model(X)
    for transformed in (nnx.jit(Network.__call__), nnx.jit(Network.__call__, graph=False), jax.jit(Network.__call__)):
        np.testing.assert_allclose(transformed(model, X), expected, atol=1e-5)
    for mapped in (nnx.vmap(Network.__call__, in_axes=(None, 0)), jax.vmap(Network.__call__, in_axes=(None, 0))):
        np.testing.assert_allclose(mapped(model, X), expected, atol=1e-5)
    gradients = [
        nnx.to_pure_dict(nnx.jit(nnx.grad(loss))(model, X)),
        nnx.to_pure_dict(nnx.state(jax.jit(jax.grad(loss))(model, X))),
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *gradients)
    assert len(jax.tree.leaves(gradients)) == 6
    np.testing.assert_allclose(nnx.remat(Network.__call__)(model, X), expected, atol=1e-5)


def test_copies_compute_the_same():
    model = Network(rngs())
    expected = model(X)
    for copied in (
        nnx.merge(*nnx.split(model)),
        nnx.clone(model),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        np.testing.assert_array_equal(copied(X), expected)


def test_layers_stacked_by_vmap_run_under_scan():
    @nnx.vmap(in_axes=0, out_axes=0)
    def stack(key):
        return convlab.nnx.Conv(4, 4, (3, 3), rngs=nnx.Rngs(key))

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def forward(x, layer):
        return layer(x)

    layers = stack(jax.random.split(jax.random.key(0), 3))
    assert layers.kernel.shape == (3, 3, 3, 4, 4)

    @jax.jit
    def one_by_one(x, kernels, biases):
        for kernel, bias in zip(kernels, biases):
            x = convlab.conv(x, kernel, bias)
        return x

    expected = one_by_one(X, layers.kernel[...], layers.bias[...])
    np.testing.assert_allclose(forward(X, layers), expected, rtol=1e-4, atol=1e-4)


def test_eval_shape_tabulate_and_the_bridge_to_linen():
    abstract = nnx.eval_shape(lambda: Network(rngs()))
    assert abstract.conv.kernel.shape == (3, 3, 4, 6) and abstract.up.bias is None
    table = nnx.tabulate(Network(rngs()), X, compute_flops=True, console_kwargs={"width": 150, "force_terminal": False})
    assert "pool " in table and "AvgPool" in table and "float32[2,3,2,6]" in table
    bridged = nnx.bridge.to_linen(convlab.nnx.Conv, 4, 6, (3, 2))
    y, variables = bridged.init_with_output(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, variables["params"]) == {"kernel": (3, 2, 4, 6), "bias": (6,)}
    assert y.shape == (2, 6, 5, 6)


def test_training():
    model = Network(rngs())
    optimizer = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x):
        value, gradient = nnx.value_and_grad(loss)(model, x)
        optimizer.update(model, gradient)
        return value

    values = [step(model, optimizer, X) for _ in range(3)]
    assert values[0] > values[1] > values[2]


def test_out_sharding_is_passed_on():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, jax.sharding.NamedSharding(mesh, jax.P("data")))
        y = make()(x, out_sharding=jax.P("data"))
    assert y.sharding.spec[0] == "data"
