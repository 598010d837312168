"""Tools of JAX's ecosystem that dispatch on lax's primitives or functions; each test runs where its package is
installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import convlab

RNG = np.random.default_rng(0)
X, K = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((2, 8, 8, 3), (3, 3, 3, 4)))


def of_lax(x, k, strides=1):
    return lax.conv_general_dilated(x, k, (strides,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_equinox_filters():
    eqx = pytest.importorskip("equinox")
    gradient = eqx.filter_jit(eqx.filter_grad(lambda k, f: (f(X, k) ** 2).sum()))
    np.testing.assert_allclose(gradient(K, convlab.conv), gradient(K, of_lax), rtol=1e-3, atol=1e-3)


def test_qwix_quantizes_a_model():
    qwix, nnx = pytest.importorskip("qwix"), pytest.importorskip("flax.nnx")
    import convlab.nnx

    class Net(nnx.Module):
        def __init__(self, layers):
            self.conv = layers.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.conv(x)

    rules = [qwix.QuantizationRule(weight_qtype=jnp.int8, act_qtype=jnp.int8)]
    ours, theirs = (qwix.quantize_model(Net(layers), qwix.QtProvider(rules), X)(X) for layers in (convlab.nnx, nnx))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    assert np.abs(ours - Net(nnx)(X)).max() > 0  # it did quantize


def test_qwix_serves_weights_quantized_after_training():
    """Its kernels are objects of its own, which its function in the place of lax's convolution takes."""
    qwix, nnx = pytest.importorskip("qwix"), pytest.importorskip("flax.nnx")
    import convlab.nnx

    class Net(nnx.Module):
        def __init__(self, layers):
            self.conv = layers.Conv(3, 8, (3, 3), strides=2, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.conv(x)

    rules = [qwix.QuantizationRule(weight_qtype=jnp.int8, act_qtype=jnp.int8)]
    ours, theirs = (qwix.quantize_model(Net(layers), qwix.PtqProvider(rules), X)(X) for layers in (convlab.nnx, nnx))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_kfac_tags_convolutions():
    kfac = pytest.importorskip("kfac_jax")

    def tags(conv):
        def loss(parameters, x, y):
            h = jax.nn.relu(conv(x, parameters["k"], strides=2)).reshape(2, -1) @ parameters["w"]
            kfac.register_squared_error_loss(h, y)
            return ((h - y) ** 2).mean()

        parameters = {"k": K, "w": jnp.ones((64, 2))}
        arguments = parameters, X, jnp.ones((2, 2))
        traced = jax.make_jaxpr(kfac.tag_graph_matcher.auto_register_tags(loss, arguments))(*arguments)
        return [str(eqn.params.get("meta", eqn.primitive)) for eqn in traced.jaxpr.eqns if "tag" in str(eqn.primitive)]

    found = tags(convlab.conv)
    assert found == tags(of_lax)
    assert any("conv" in tag.lower() for tag in found)
