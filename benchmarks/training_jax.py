"""A training step of networks of `convlab.models`: without changes, and as Flax and plain JAX compute the same
program."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from inference_networks import RATE, STEPS, image, labels

import convlab.nnx
from convlab import models
from convlab._backend import compat


def network(payload: dict[str, Any]) -> nnx.Module:
    return in_training(models.get_model(payload["network"], weights=payload["weights"]))


def drawn(name: str) -> nnx.Module:
    """Return the network with random kernels, without the initializers, which would be compiled for every shape."""
    graph, state = nnx.split(nnx.eval_shape(lambda: models.get_model(name, rngs=nnx.Rngs(0))))
    numbers = np.random.default_rng(0)

    def filled(path: tuple, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if path[-1] == "kernel":
            kernel = numbers.standard_normal(shape, np.float32) / math.sqrt(math.prod(shape[:-1]))
            return jax.device_put(kernel.astype(dtype))
        plain = np.zeros if path[-1] in ("bias", "mean", "count") else np.ones
        return jax.device_put(plain(shape, dtype))

    leaves = {path: leaf.replace(filled(path, leaf.shape, leaf.dtype)) for path, leaf in nnx.to_flat_state(state)}
    return nnx.merge(graph, nnx.from_flat_state(leaves))


def in_training(model: nnx.Module) -> nnx.Module:
    """Return the model in training mode without dropout, so that every contestant computes the same."""
    model.train()
    for _, part in nnx.iter_graph(model):
        if isinstance(part, nnx.Dropout):
            part.deterministic = True
    return model


def program(model: nnx.Module, x: Any) -> tuple[Callable, tuple[Any, Any], tuple[int, ...]]:
    """Return a step of descent of (parameters, other state, images, classes), the state that it begins with, and the
    shape of the model's result; `x` may be a shape."""
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    shape = jax.eval_shape(lambda p, r, x: nnx.merge(graph, p, r, copy=True)(x), parameters, rest, x).shape

    def step(parameters: Any, rest: Any, x: jax.Array, classes: jax.Array) -> tuple:
        def loss(parameters: Any) -> tuple:
            model = nnx.merge(graph, parameters, rest, copy=True)
            likelihood = jax.nn.log_softmax(model(x))
            value = -jnp.take_along_axis(likelihood, classes[..., None], -1).mean()
            return value, nnx.split(model, nnx.Param, ...)[2]

        (value, changed), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        return jax.tree.map(lambda p, g: p - RATE * g, parameters, gradients), changed, value

    return step, (parameters, rest), shape


def as_flax() -> None:
    """Lower the equations of lax as JAX comes from now on, and normalize with Flax's layers."""
    compat.restore_rules()
    for name in ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"):
        getattr(convlab.nnx, name).__call__ = getattr(nnx, name).__call__


class Training:
    """A training step that keeps its state between calls and donates its buffers. A call returns the loss before its
    step."""

    def __init__(self, model: nnx.Module, x: jax.Array):
        step, self.state, shape = program(model, x)
        self.batch = x, jnp.asarray(labels(len(x), shape[1:-1], shape[-1]))
        self.losses: list[float] = []
        self.compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*self.state, *self.batch).compile()

    def __call__(self) -> float:
        *self.state, value = jax.block_until_ready(self.compiled(*self.state, *self.batch))
        self.losses.append(float(value))
        return self.losses[-1]

    def first_losses(self) -> list[float]:
        while len(self.losses) < STEPS:
            self()
        return self.losses[:STEPS]


def calls(contestant: str, payload: dict[str, Any]) -> dict[str, tuple[list[Callable[[], Any]], int]]:
    if contestant == "flax":
        as_flax()
    made: dict[str, tuple[list[Callable[[], Any]], int]] = {}
    for batch in payload["batches"]:
        x = jnp.asarray(image(payload["network"], batch, payload["tiny"]))
        call = Training(network(payload), x)
        made[f"batch {batch}"] = [call], 1
        made[f"numbers {batch}"] = [call.first_losses], 1
    return made
