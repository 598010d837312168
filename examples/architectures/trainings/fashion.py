"""A small residual network and LeNet-5 on Fashion-MNIST, with equal images, distortions, batches, passes and schedules.

The residual network is the smallest of those that He et al. train on CIFAR-10 (arXiv 1512.03385, section 4.2), with
twice the channels at half the height and width. The learning rates were chosen on 5,000 held-out training images.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from convlab import nnx as cn
from convlab.models import LeNet5
from convlab.models._blocks import ConvNormActivation
from convlab.models.resnet import BasicBlock

from . import loop, pictures

sys.path.append(str(pathlib.Path(__file__).parents[2] / "mnist"))
from lenet.data import FASHION, Data  # noqa: E402  from the folder
from lenet.distort import Distortion, distort, draw  # noqa: E402
from lenet.engine import normalise  # noqa: E402

EPOCHS, BATCH, WEIGHT_DECAY = 6, 128, 0.05
DISTORTION = Distortion(shift=0.7, flip=0.5)


class SmallResNet(nnx.Module):
    """A strided 3x3 convolution, three stages of one block each at 14x14, 7x7 and 4x4, and a classifier.

    A call maps `(n, 28, 28, 1)` to logits `(n, num_classes)`.
    """

    def __init__(self, num_classes: int = 10, *, widths: tuple[int, ...] = (32, 64, 128), rngs: nnx.Rngs):
        self.stem = ConvNormActivation(1, widths[0], 3, 2, rngs=rngs)
        pairs = zip((widths[0], *widths), widths, strict=False)
        self.blocks = nnx.List(BasicBlock(a, b, 1 if a == b else 2, rngs=rngs) for a, b in pairs)
        self.head = nnx.Sequential(cn.GlobalAvgPool(), nnx.Linear(widths[-1], num_classes, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


NETWORKS: dict[str, tuple[Callable[..., Any], float]] = {"ResNet-8": (SmallResNet, 5e-3), "LeNet-5": (LeNet5, 5e-3)}


def loss(network: nnx.Module, data: tuple[jax.Array, jax.Array], row: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return the mean cross entropy of the samples that `row` numbers, distorted by its key."""
    images, labels = data
    chosen, key = row
    x = normalise(distort(images[chosen], draw(key, len(chosen)), DISTORTION))
    return optax.softmax_cross_entropy_with_integer_labels(network(x), labels[chosen]).mean()


def rows(seed: int, count: int, epochs: int, batch: int) -> list[tuple[jax.Array, jax.Array]]:
    """Return for each epoch the shuffled samples, `(steps, batch)`, and the keys of their distortions."""

    @jax.jit
    def of(number: int) -> tuple[jax.Array, jax.Array]:
        shuffling, distorting = jax.random.split(jax.random.fold_in(loop.random_key(seed), number))
        order = jax.random.permutation(shuffling, count)[: count // batch * batch]
        return order.reshape(-1, batch), jax.random.split(distorting, count // batch)

    return [of(number) for number in range(epochs)]


def logits_of(network: nnx.Module, images: np.ndarray) -> np.ndarray:
    """Return the logits `(n, classes)` of undistorted images."""
    return loop.outputs(network, images, normalise, chunk=250)


def run(seed: int, epochs: int, say: loop.Say, samples: Data, networks: tuple[str, ...] = tuple(NETWORKS)) -> loop.Run:
    """Train both networks with one seed."""
    data = jnp.array(samples.train_images), jnp.array(samples.train_labels)
    batch = min(BATCH, len(samples.train_images))
    inputs = rows(seed, len(samples.train_images), epochs, batch)
    right = lambda network: float((logits_of(network, samples.test_images).argmax(-1) == samples.test_labels).mean())
    figures: dict[str, float] = {}
    courses, trained = {}, {}
    for name in networks:
        constructor, rate = NETWORKS[name]
        optimizer = loop.cosine(rate, epochs * len(inputs[0][0]), WEIGHT_DECAY)
        say_of = lambda line: say(f"{name}, {line}")
        start = constructor(rngs=nnx.Rngs(seed))
        say_of(loop.described(start, (*samples.train_images.shape[1:], 1)))
        trained[name], courses[name] = loop.train(start, loss, optimizer, inputs, right, say_of, data)
        figures |= {
            f"accuracy, {name}": courses[name].scores[-1],
            f"first epoch's loss, {name}": courses[name].losses[0],
            f"last epoch's loss, {name}": courses[name].losses[-1],
            f"seconds of training, {name}": courses[name].seconds,
        }
    best = networks[0]
    scores = {name: course.scores for name, course in courses.items()}
    found = lambda: logits_of(trained[best], samples.test_images)
    draw_it = lambda: pictures.fashion(scores, best, samples.test_images, samples.test_labels, found(), FASHION)
    return loop.Run(figures, draw_it)
