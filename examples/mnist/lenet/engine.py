"""Training and evaluation as pure functions of a state, each one compiled call for a whole pass over the data.

Every device holds the data set as bytes; an epoch shuffles, gathers, distorts, normalises, differentiates and updates
inside one `lax.scan`, so that Python runs once an epoch. Each of several devices takes a part of every batch, and they
exchange only the mean of the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .data import CLASSES
from .distort import Distortion, distort, draw

# The mean and deviation of MNIST's training pixels; the other sets need only some common scale.
MEAN, DEVIATION = 0.1307, 0.3081
AXIS = "data"  # the mesh axis over which a batch is split

Apply = Callable[[Any, jax.Array], jax.Array]


class State(NamedTuple):
    """The values that training changes; the order of the samples follows from the seed and the epoch's number."""

    params: Any
    opt_state: Any
    average: Any  # the running average of the parameters, which is tested and exported


class Recipe(NamedTuple):
    """The options of a training step except the optimizer's."""

    batch_size: int
    smoothing: float = 0.0  # label smoothing: the part of the target that is spread over all classes
    average: float = 0.0  # the weight of the old average in the new one, after the first steps
    distortion: Distortion = Distortion()


def begin(init: Callable[[jax.Array], Any], optimizer: optax.GradientTransformation, key: jax.Array) -> State:
    """Return the state before the first step."""
    params = init(key)
    return State(params, optimizer.init(params), jax.tree.map(jnp.copy, params))


def random_key(seed: int | jax.Array) -> jax.Array:
    # The rbg generator compiles in a quarter of threefry's time.
    return jax.random.key(seed, impl="rbg")


def normalise(images: jax.Array) -> jax.Array:
    """Convert pixels `(n, 28, 28)` from 0 to 255 to normalised float32 `(n, 28, 28, 1)`."""
    return ((images / jnp.float32(255) - MEAN) / DEVIATION)[..., None]


def optimizer(lr: float, decay: float, weight_decay: float, steps: int) -> optax.GradientTransformation:
    """Return AdamW whose rate rises to `lr` over the first `steps` (one epoch) and falls by `decay` in each `steps`.

    The schedule does not depend on the number of epochs, so that a prolonged run gives the same parameters.
    """

    def rate(step: jax.Array) -> jax.Array:
        return lr * jnp.minimum(1, (step + 1) / steps) * decay ** (step / steps)

    return optax.adamw(rate, weight_decay=weight_decay)


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Return the cross entropy `(n,)` with the smoothed labels."""
    uniform = -jax.nn.log_softmax(logits).mean(-1) if smoothing else 0.0
    return (1 - smoothing) * optax.softmax_cross_entropy_with_integer_labels(logits, labels) + smoothing * uniform


def epoch_function(
    apply: Apply, optimizer: optax.GradientTransformation, recipe: Recipe, mesh: Mesh | None = None
) -> Callable:
    """Return `epoch(state, images, labels, seed, number) -> state, losses`: every sample once, except the last short
    batch.

    `state` is donated. `losses` holds each step's mean loss, before that step's update. All are the same on every
    device of `mesh`, whose number divides the batch.
    """

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        return cross_entropy(apply(params, normalise(images)), labels, recipe.smoothing).mean()

    def epoch(state: State, images: jax.Array, labels: jax.Array, seed: jax.Array, number: jax.Array) -> tuple:
        steps = len(images) // recipe.batch_size
        shuffling, distorting = jax.random.split(jax.random.fold_in(random_key(seed), number))
        order = jax.random.permutation(shuffling, len(images))[: steps * recipe.batch_size]

        def step(state: State, inputs: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
            batch, one = inputs
            chosen = images[_mine(batch, mesh)]
            if any(recipe.distortion):
                # Drawn for the whole batch, so that a sample's distortion does not depend on the number of devices.
                chosen = distort(chosen, _mine(draw(one, recipe.batch_size), mesh), recipe.distortion)
            value, gradient = jax.value_and_grad(loss)(state.params, chosen, labels[_mine(batch, mesh)])
            value, gradient = _mean((value, gradient), mesh)
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return State(params, opt_state, _averaged(state.average, params, opt_state, recipe.average)), value

        keys = jax.random.split(distorting, steps)
        return jax.lax.scan(step, state, (order.reshape(steps, recipe.batch_size), keys))

    return _compiled(epoch, mesh, donate_argnums=0)


def _averaged(average: Any, params: Any, opt_state: Any, share: float) -> Any:
    if not share:
        return params
    # At first the mean of all parameters so far, because the initial ones would otherwise count for many steps.
    count = opt_state[0].count
    share = jnp.minimum(share, count / (count + 10))
    return jax.tree.map(lambda old, new: share * old + (1 - share) * new, average, params)


def logits_function(apply: Apply, chunk: int = 500) -> Callable:
    """Return `logits(params, images) -> (n, 10)` for any number of images, `chunk` at a time."""

    def logits(params: Any, images: jax.Array) -> jax.Array:
        size = min(chunk, len(images))
        padded = jnp.pad(images, ((0, -len(images) % size), (0, 0), (0, 0)))
        chunks = padded.reshape(-1, size, *images.shape[1:])
        return jax.lax.map(lambda x: apply(params, normalise(x)), chunks).reshape(-1, CLASSES)[: len(images)]

    return jax.jit(logits)


def score_function(apply: Apply, mesh: Mesh | None = None) -> Callable:
    """Return `score(params, images, labels)`: the mean cross entropy and the fraction of correct answers."""
    logits = logits_function(apply)

    def score(params: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        count = len(images)
        whole = -(-count // _parts(mesh)) * _parts(mesh)
        mine = _mine(jnp.arange(whole), mesh)
        real, mine = mine < count, jnp.minimum(mine, count - 1)
        found = logits(params, images[mine])
        loss = jnp.where(real, cross_entropy(found, labels[mine]), 0)
        right = real & (found.argmax(-1) == labels[mine])
        return _mean((loss.sum() * _parts(mesh) / count, right.sum() * _parts(mesh) / count), mesh)

    return _compiled(score, mesh)


def _parts(mesh: Mesh | None) -> int:
    return mesh.size if mesh else 1


def _compiled(function: Callable, mesh: Mesh | None, **options: Any) -> Callable:
    """Compile the function for each device of `mesh` with the same arguments; inside it `_mine` and `_mean` depend on
    the device.

    It uses `shard_map`: XLA's partitioner would gather the batch for grouped convolutions, and cannot split convlab's
    engine.
    """
    if not mesh:
        return jax.jit(function, **options)
    everywhere = NamedSharding(mesh, P())
    split = jax.shard_map(function, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    return jax.jit(split, in_shardings=everywhere, out_shardings=everywhere, **options)


def _mine(batch: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Return this device's equal part of the first axis."""
    if not mesh:
        return batch
    size = len(batch) // mesh.size
    return jax.lax.dynamic_slice_in_dim(batch, jax.lax.axis_index(AXIS) * size, size)


def _mean(tree: Any, mesh: Mesh | None) -> Any:
    """Return the mean over all devices, in one exchange."""
    if not mesh:
        return tree
    flat, restore = ravel_pytree(tree)
    return restore(jax.lax.pmean(flat, AXIS))
