"""Tools of JAX's ecosystem that dispatch on lax's primitives or functions; each test runs if its package is
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
    """Its kernels are special objects, which its replacement of lax's convolution takes."""
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


def test_onnx_exporters_know_the_primitives():
    """A LeNet with average pools and a residual block have the nodes of lax, and ONNX Runtime gives the same values."""
    jax2onnx, runtime = pytest.importorskip("jax2onnx"), pytest.importorskip("onnxruntime")
    of_size = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32) / 4
    k, narrow, wide, k1, k2 = (
        of_size(*s) for s in ((3, 3, 8, 8), (3, 3, 3, 8), (1, 1, 3, 8), (5, 5, 3, 6), (5, 5, 6, 8))
    )
    window = (1, 2, 2, 1)

    def average_of_lax(x):
        return lax.reduce_window(x, 0.0, lax.add, window, window, "VALID") / 4

    def block(conv, average):
        return lambda x: jax.nn.relu(conv(jax.nn.relu(conv(x, narrow, strides=2)), k) + conv(x, wide, strides=2))

    def lenet(conv, average):
        return lambda x: average(jax.nn.relu(conv(average(jax.nn.relu(conv(x, k1))), k2))).reshape(1, -1)

    for network in (block, lenet):
        ours = network(convlab.conv, lambda x: convlab.avg_pool(x, (2, 2), (2, 2)))
        exported, theirs = (jax2onnx.to_onnx(f, [X[:1].shape]) for f in (ours, network(of_lax, average_of_lax)))
        assert [n.op_type for n in exported.graph.node] == [n.op_type for n in theirs.graph.node]
        session = runtime.InferenceSession(exported.SerializeToString())
        (y,) = session.run(None, {session.get_inputs()[0].name: np.asarray(X[:1])})
        np.testing.assert_allclose(y, ours(X[:1]), rtol=1e-4, atol=1e-5)
