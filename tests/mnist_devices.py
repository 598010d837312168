"""Tests for test_mnist_devices.py on eight CPU devices: the LeNet trainer computes the same as on one."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mnist_program import program

import convlab

from lenet import data, devices, engine, model, training  # isort: skip  mnist_program extends the path

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (192, 28, 28), np.uint8), RNG.integers(0, 10, 192).astype(np.int32)
SAMPLES = data.Data(IMAGES, LABELS, IMAGES[:50], LABELS[:50])


def config(*options):
    everything = "--shift 1 --rotate 5 --elastic 0.5 --flip 0.1 --average 0.9 --smoothing 0.1 --batch-size 64"
    given = program.parser().parse_args(["train", "--data", "idx", *everything.split(), *options])
    return program.configuration(given)


def smooth(params, images):
    """Compute smooth logits, because the argmax of a max pool and the sign at a ReLU may depend on rounding."""
    x = jnp.tanh(convlab.avg_pool(convlab.conv(images, params["kernel"], strides=2), 3, 3))
    return x.reshape(x.shape[0], -1) @ params["dense"]


def begin(key):
    one, other = jax.random.split(key)
    return {"kernel": jax.random.normal(one, (5, 5, 1, 8)) / 5, "dense": jax.random.normal(other, (128, 10)) / 11}


@functools.cache
def trained(count):
    """Return the state, the losses and the test score after two epochs with every option."""
    mesh = devices.mesh(str(count))
    # Adam divides by the gradient's size: a large eps keeps it from amplifying the rounding of gradients near 0.
    optimizer = optax.adamw(1e-2, eps=1e-2)
    recipe = training.recipe(config())
    epoch, score = engine.epoch_function(smooth, optimizer, recipe, mesh), engine.score_function(smooth, mesh)
    state = jax.jit(functools.partial(engine.begin, begin, optimizer))(engine.random_key(0))
    state, samples, losses = devices.place(state, mesh), devices.place(SAMPLES, mesh), []
    for number in (1, 2):
        state, found = epoch(state, *samples[:2], np.int32(0), np.int32(number))
        losses.append(found)
    return devices.fetch((state, losses, score(state.average, *samples[2:])))


@pytest.mark.parametrize("count", [2, 8])
def test_the_same_parameters_as_on_one_device(count):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), trained(count), trained(1))


def grouped(params, images):
    """Compute logits by a grouped convolution, whose batch XLA's partitioner would gather."""
    x = convlab.conv(jnp.tile(images, 8), params["kernel"], strides=4, feature_group_count=8)
    return x.mean((1, 2)) @ params["dense"]


def compiled(apply, params, count, batch, steps=3):
    mesh = devices.mesh(str(count))
    optimizer = optax.adam(1e-3)
    state = engine.State(params, optimizer.init(params), params)
    epoch = engine.epoch_function(apply, optimizer, engine.Recipe(batch), mesh)
    shapes = np.zeros((batch * steps, 28, 28), np.uint8), np.zeros(batch * steps, np.int32)
    return epoch.lower(state, *shapes, np.int32(0), np.int32(1)).compile()


NETWORKS = {
    "lenet": lambda: (model.nnx_network().apply, model.nnx_network().init(jax.random.key(0))),
    "grouped": lambda: (grouped, {"kernel": jnp.ones((3, 3, 1, 16)), "dense": jnp.ones((16, 10))}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_gradients_are_exchanged(name):
    apply, params = NETWORKS[name]()
    text = compiled(apply, params, 8, 64).as_text()
    assert "all-gather" not in text and "all-to-all" not in text and "collective-permute" not in text
    reduced = re.findall(r"= \(?f32\[([\d,]*)\][^=]* all-reduce(?:-start)?\(", text)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert reduced == [str(count + 1)]  # the gradients and the loss, in one exchange for each step


def test_weak_scaling():
    """Twice the devices with twice the batch have the same work and the same memory traffic on each device."""
    apply, params = NETWORKS["lenet"]()
    costs = {count: compiled(apply, params, count, 32 * count).cost_analysis() for count in (2, 4, 8)}
    for name, slack in (("flops", 0.01), ("bytes accessed", 0.05)):
        figures = [cost[name] for cost in costs.values()]
        assert figures[0] > 1e6 and max(figures) <= (1 + slack) * min(figures), figures


def test_refusals():
    with pytest.raises(Exception, match="`--devices` must be at most 8, the devices that JAX finds here, got 9"):
        devices.mesh("9")
    with pytest.raises(Exception, match="`--batch-size` must be a multiple of 8, the devices, got 60"):
        training.Training(config("--batch-size", "60"), SAMPLES, devices.mesh("all"))
