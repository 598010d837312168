"""Training and evaluation as pure functions of a state, each one compiled call for a whole pass over the data.

The data set lies on the device as bytes; an epoch shuffles, gathers, normalises, differentiates and updates inside one
`lax.scan`, so that Python is entered once an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .data import CLASSES

# Of MNIST's training pixels; near enough for the other sets, which need only the same scale everywhere.
MEAN, DEVIATION = 0.1307, 0.3081

Apply = Callable[[Any, jax.Array], jax.Array]


class State(NamedTuple):
    """All that changes while training; the order of the samples follows from the seed and the epoch's number."""

    params: Any
    opt_state: Any


def begin(init: Callable[[jax.Array], Any], optimizer: optax.GradientTransformation, key: jax.Array) -> State:
    """The state before the first step."""
    params = init(key)
    return State(params, optimizer.init(params))


def normalise(images: jax.Array) -> jax.Array:
    """Bytes `(n, 28, 28)` to float32 `(n, 28, 28, 1)`."""
    return ((images / jnp.float32(255) - MEAN) / DEVIATION)[..., None]


def optimizer(lr: float, decay: float, weight_decay: float, steps: int) -> optax.GradientTransformation:
    """AdamW; the rate rises to `lr` over the first `steps` (one epoch) and falls by the factor `decay` in each `steps`.

    The schedule does not know how many epochs will follow, so that a run may be prolonged and is still the same run.
    """

    def rate(step: jax.Array) -> jax.Array:
        return lr * jnp.minimum(1, (step + 1) / steps) * decay ** (step / steps)

    return optax.adamw(rate, weight_decay=weight_decay)


def epoch_function(apply: Apply, optimizer: optax.GradientTransformation, batch_size: int) -> Callable:
    """Returns `epoch(state, images, labels, key) -> state, losses`: every sample once, but for the last short batch.

    `state` is donated. `losses` holds each step's mean cross entropy, before that step's update.
    """

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = apply(params, normalise(images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def epoch(state: State, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        steps = len(images) // batch_size
        order = jax.random.permutation(key, len(images))[: steps * batch_size]

        def step(state: State, batch: jax.Array) -> tuple[State, jax.Array]:
            value, gradient = jax.value_and_grad(loss)(state.params, images[batch], labels[batch])
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            return State(optax.apply_updates(state.params, updates), opt_state), value

        return jax.lax.scan(step, state, order.reshape(steps, batch_size))

    return jax.jit(epoch, donate_argnums=0)


def logits_function(apply: Apply, chunk: int = 500) -> Callable:
    """Returns `logits(params, images) -> (n, 10)` for any number of images, `chunk` at a time."""

    def logits(params: Any, images: jax.Array) -> jax.Array:
        size = min(chunk, len(images))
        padded = jnp.pad(images, ((0, -len(images) % size), (0, 0), (0, 0)))
        chunks = padded.reshape(-1, size, *images.shape[1:])
        return jax.lax.map(lambda x: apply(params, normalise(x)), chunks).reshape(-1, CLASSES)[: len(images)]

    return jax.jit(logits)


def score(logits: jax.Array, labels: jax.Array) -> tuple[float, float]:
    """Mean cross entropy and the fraction that is right."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return float(loss), float((logits.argmax(-1) == labels).mean())
