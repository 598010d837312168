"""Trains an NNX network: an epoch is one compiled call, a `lax.scan` over its steps."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from convlab.analysis import analyze

Say = Callable[[str], None]
TEST_SEED = 2**31 - 1  # the seed of drawn test data; training folds its keys first, so that it draws other data


class State(NamedTuple):
    """The values that training changes."""

    params: Any
    rest: Any  # the other arrays of layers, such as BatchNorm's statistics
    opt_state: Any


class Course(NamedTuple):
    """The history of a training."""

    losses: list[float]  # for each epoch the mean over its steps, before their updates
    scores: list[float]  # after each epoch
    seconds: float  # without compiling and scoring


class Run(NamedTuple):
    """The result of a training with one seed: figures by name, and the content of a PNG file if a picture is
    requested."""

    figures: dict[str, float]
    draw: Callable[[], bytes]


def random_key(seed: int) -> jax.Array:
    # The rbg generator compiles in a quarter of threefry's time.
    return jax.random.key(seed, impl="rbg")


def keys(seed: int, epochs: int, steps: int) -> list[jax.Array]:
    """Return for each epoch the keys of its steps."""
    return [jax.random.split(jax.random.fold_in(random_key(seed), number), steps) for number in range(epochs)]


def cosine(rate: float, steps: int, weight_decay: float = 1e-4) -> optax.GradientTransformation:
    """Return AdamW whose rate rises to `rate` in a twentieth of the steps and falls to 0 as a cosine."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 20), max(2, steps))
    return optax.adamw(schedule, weight_decay=weight_decay)


def taken_apart(network: nnx.Module) -> tuple[nnx.GraphDef, Any, Any]:
    """Split the network into its graph, its parameters, and the other arrays."""
    return nnx.split(network, nnx.Param, ...)


def copied(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.copy(), tree)


def epoch_function(graph: nnx.GraphDef, loss: Callable, optimizer: optax.GradientTransformation) -> Callable:
    """Return `epoch(state, data, inputs) -> state, losses`: a step for each row of `inputs`. `state` is donated.

    A step minimises `loss(network, data, row)`, which may change the network's other arrays.
    """

    def epoch(state: State, data: Any, inputs: Any) -> tuple[State, jax.Array]:
        def step(state: State, row: Any) -> tuple[State, jax.Array]:
            def of(params: Any) -> tuple[jax.Array, Any]:
                network = nnx.merge(graph, params, state.rest, copy=True)
                value = loss(network, data, row)
                return value, taken_apart(network)[2]

            (value, rest), gradient = jax.value_and_grad(of, has_aux=True)(state.params)
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            return State(optax.apply_updates(state.params, updates), rest, opt_state), value

        return jax.lax.scan(step, state, inputs)

    return jax.jit(epoch, donate_argnums=0)


def train(
    network: nnx.Module,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    inputs: list,
    score: Callable[[nnx.Module], float],
    say: Say,
    data: Any = (),
) -> tuple[nnx.Module, Course]:
    """Return the trained network. `inputs` holds each epoch's rows, all of one shape; `score` tests the network after
    each epoch."""
    graph, params, rest = taken_apart(network)
    state = copied(State(params, rest, optimizer.init(params)))
    epoch = epoch_function(graph, loss, optimizer).lower(state, data, inputs[0]).compile()
    course = Course([], [], 0.0)
    for number, rows in enumerate(inputs, 1):
        start = time.perf_counter()
        state, found = jax.block_until_ready(epoch(state, data, rows))
        course = course._replace(seconds=course.seconds + time.perf_counter() - start)
        # A copy, because the next epoch reuses the state's memory.
        network = nnx.merge(graph, *copied(state[:2]))
        course.losses.append(float(found.mean()))
        course.scores.append(score(network))
        result = f"loss {course.losses[-1]:.4f}, tested {100 * course.scores[-1]:.2f} %, {course.seconds:.0f} s"
        say(f"epoch {number} of {len(inputs)}: {result}")
    return network, course


def described(network: nnx.Module, shape: tuple[int, ...]) -> str:
    """Return the network's size, and its multiply-adds for an input of that shape."""
    found = analyze(evaluating(network), jax.ShapeDtypeStruct((1, *shape), "float32"))
    return f"{found.parameters:,} parameters, {found.macs_with_padding / 1e6:.2f} million multiply-adds for one input"


def evaluating(network: nnx.Module) -> nnx.Module:
    """Return the network in evaluation mode: without dropout, and with BatchNorm's running statistics."""
    return nnx.view(network, deterministic=True, use_running_average=True, raise_if_not_found=False)


def outputs(network: nnx.Module, inputs: Any, prepare: Callable = jax.numpy.asarray, chunk: int = 50) -> np.ndarray:
    """Compute the network's results for many inputs, a chunk at a time."""
    inputs = np.asarray(inputs)
    whole = np.pad(inputs, ((0, -len(inputs) % chunk), *((0, 0),) * (inputs.ndim - 1)))
    graph, state = nnx.split(evaluating(network))
    found = np.asarray(_forward(graph, prepare)(state, whole.reshape(-1, chunk, *inputs.shape[1:])))
    return found.reshape(-1, *found.shape[2:])[: len(inputs)]


@functools.cache
def _forward(graph: nnx.GraphDef, prepare: Callable) -> Callable:
    """Return a function of parameters and a chunk, compiled once for each graph."""
    return jax.jit(lambda state, chunks: jax.lax.map(lambda x: nnx.merge(graph, state)(prepare(x)), chunks))
