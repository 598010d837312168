"""A small U-Net finds circles, rectangles and triangles: a class for every pixel.

The images are drawn on the device during the training, from a seed. No image occurs twice, and the test
images do not occur in the training.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from convlab.models import UNet

from . import loop, pictures

EPOCHS, STEPS, BATCH, RATE = 20, 100, 16, 4e-3
TESTED = 500
CHANNELS = (8, 16, 32, 64)

SIZE = 64
SHAPES = 5  # from back to front; each may be missing
NAMES = ("background", "circle", "rectangle", "triangle")


def draw(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Return grey images `(count, 64, 64, 1)` of overlapping shapes in noise, and the class of every pixel, `(count,
    64, 64)`."""
    keys = jax.random.split(key, 5)
    kinds = jax.random.randint(keys[0], (SHAPES, count, 1, 1), 0, len(NAMES))
    positions = jax.random.uniform(keys[1], (SHAPES, 6, count, 1, 1))
    greys = jax.random.uniform(keys[2], (SHAPES, count, 1, 1), minval=0.5)
    slope = jax.random.uniform(keys[3], (3, count, 1, 1), minval=-0.2, maxval=0.2)
    labels = jnp.zeros((count, SIZE, SIZE), jnp.int32)
    images = slope[0] + slope[1] * jnp.linspace(-1, 1, SIZE)[:, None] + slope[2] * jnp.linspace(-1, 1, SIZE)
    for kind, position, grey in zip(kinds, positions, greys, strict=True):
        hit = _inside(kind, position)
        labels, images = jnp.where(hit, kind, labels), jnp.where(hit, grey, images)
    return 2 * (images + 0.2 * jax.random.normal(keys[4], images.shape))[..., None], labels


def _inside(kind: jax.Array, position: jax.Array) -> jax.Array:
    """Return the pixels in each shape, `(count, SIZE, SIZE)`; `position` is `(6, count, 1, 1)` from 0 to 1."""
    top, left, size, width, height, turn = position
    row, column = jnp.indices((SIZE, SIZE)) + 0.5
    y, x = row - SIZE * (0.1 + 0.8 * top), column - SIZE * (0.1 + 0.8 * left)
    angle, radius = 2 * jnp.pi * turn, SIZE * (0.12 + 0.12 * size)
    u, v = jnp.cos(angle) * x + jnp.sin(angle) * y, jnp.cos(angle) * y - jnp.sin(angle) * x
    sides = [jnp.cos(a) * u + jnp.sin(a) * v for a in 2 * np.pi / 3 * np.arange(3)]
    circle = jnp.hypot(u, v) <= radius
    rectangle = (abs(u) <= radius * (0.5 + 0.6 * width)) & (abs(v) <= radius * (0.5 + 0.6 * height))
    triangle = jnp.max(jnp.stack(sides), 0) <= 0.65 * radius
    return jnp.select([kind == 1, kind == 2, kind == 3], [circle, rectangle, triangle], False)


def build(seed: int) -> UNet:
    """Return a U-Net with an eighth of the channels, four levels in place of five, and results as large as the
    images."""
    return UNet(1, len(NAMES), channels=CHANNELS, padding="SAME", batch_norm=True, rngs=nnx.Rngs(seed))


def loss(network: nnx.Module, data: Any, key: jax.Array) -> jax.Array:
    """Return the mean cross entropy of the pixels of a batch that `key` draws."""
    images, labels = draw(key, BATCH)
    return optax.softmax_cross_entropy_with_integer_labels(network(images), labels).mean()


def confusion(truth: Any, found: Any) -> np.ndarray:
    """Return `(classes, classes)` counts of pixels: rows are the true classes, columns the predicted ones."""
    pairs = np.ravel(truth) * len(NAMES) + np.ravel(found)
    return np.bincount(pairs, minlength=len(NAMES) ** 2).reshape(len(NAMES), len(NAMES))


def overlaps(matrix: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class."""
    both = np.diag(matrix)
    return both / np.maximum(1, matrix.sum(0) + matrix.sum(1) - both)


def run(seed: int, epochs: int, say: loop.Say, tested: int = TESTED) -> loop.Run:
    """Train with one seed."""
    images, truth = jax.tree.map(np.asarray, jax.jit(draw, static_argnums=1)(loop.random_key(loop.TEST_SEED), tested))

    def tables(network: nnx.Module) -> np.ndarray:
        return confusion(truth, loop.outputs(network, images).argmax(-1))

    mean = lambda network: float(overlaps(tables(network)).mean())
    optimizer = loop.cosine(RATE, epochs * STEPS)
    start = build(seed)
    say(f"U-Net, {loop.described(start, images.shape[1:])}")
    trained, course = loop.train(start, loss, optimizer, loop.keys(seed, epochs, STEPS), mean, say)
    matrix, nothing = tables(trained), confusion(truth, np.zeros_like(truth))
    figures = {
        "mean intersection over union": overlaps(matrix).mean(),
        **{f"intersection over union, {name}": one for name, one in zip(NAMES, overlaps(matrix), strict=True)},
        "pixel accuracy": np.diag(matrix).sum() / matrix.sum(),
        "mean intersection over union if all were background": overlaps(nothing).mean(),
        "pixel accuracy if all were background": np.diag(nothing).sum() / nothing.sum(),
        "first epoch's loss": course.losses[0],
        "last epoch's loss": course.losses[-1],
        "seconds of training": course.seconds,
    }
    shown = slice(0, 7)
    draw_it = lambda: pictures.shapes(
        images[shown], truth[shown], loop.outputs(trained, images[shown]).argmax(-1), NAMES
    )
    return loop.Run({name: float(one) for name, one in figures.items()}, draw_it)
