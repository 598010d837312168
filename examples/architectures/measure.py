"""Measures a network's forward pass and training step as pure functions, with convlab's layers and with Flax's."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax_layers import Missing, flax_layers

RATE = 1e-3  # the learning rate of the gradient descent
ROUNDS = 3  # turns of each contestant; one if a call takes longer than a turn


def drawn(name: str, **options: Any) -> nnx.Module:
    """Return the network with random kernels and plain other parameters, since initializers would be compiled for every
    shape."""
    graph, state = nnx.split(catalogue.shapes(name, **options))
    numbers, flat = np.random.default_rng(0), dict(nnx.to_flat_state(state))

    def number(path: tuple, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if path[-1] == "kernel":
            return jnp.asarray(numbers.standard_normal(shape, np.float32) / math.sqrt(math.prod(shape[:-1])), dtype)
        plain = np.zeros if path[-1] in ("bias", "mean", "count") else np.ones
        return jnp.asarray(plain(shape), dtype)

    filled = {path: leaf.replace(number(path, leaf.shape, leaf.dtype)) for path, leaf in flat.items()}
    return nnx.merge(graph, nnx.from_flat_state(filled))


def cast(model: nnx.Module, dtype: Any) -> nnx.Module:
    """Return the model with computations and parameters in `dtype`; running statistics stay in float32."""
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    made = nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(dtype), parameters), rest)
    for _, part in nnx.iter_modules(made):
        if hasattr(part, "dtype"):
            part.dtype = dtype
    return made


def forward(model: nnx.Module) -> tuple[Callable, Any]:
    """Return `apply(state, x) -> y` in evaluation mode, and the state."""
    model.eval()
    graph, state = nnx.split(model)
    return lambda state, x: nnx.merge(graph, state)(x), state


def training(model: nnx.Module) -> tuple[Callable, Any, Any]:
    """Return `gradients(parameters, rest, x, targets) -> (loss, rest), gradients` in training mode, the parameters, and
    the rest.

    The loss is the squared error, the mean over each result and the sum over results, so that it fits every network.
    """
    model.train()
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def loss(parameters, rest, x, targets):
        merged = nnx.merge(graph, parameters, rest, copy=True)
        errors = jax.tree.map(lambda y, t: jnp.mean((y - t).astype(jnp.float32) ** 2), merged(x), targets)
        return sum(jax.tree.leaves(errors)), nnx.split(merged, nnx.Param, ...)[2]

    return jax.value_and_grad(loss, has_aux=True), parameters, rest


def descent(gradients: Callable, rate: float = RATE) -> Callable:
    """Return `step(parameters, rest, x, targets) -> parameters, rest, loss`: one step of gradient descent."""

    def step(parameters, rest, x, targets):
        (loss, rest), slopes = gradients(parameters, rest, x, targets)
        return jax.tree.map(lambda p, g: p - jnp.asarray(rate, p.dtype) * g, parameters, slopes), rest, loss

    return step


def draw(shapes: Any, seed: int, dtype: Any = None) -> Any:
    """Return random arrays of these shapes: normal, in `dtype` if given, or below 256 for integers."""
    numbers = np.random.default_rng(seed)

    def drawn(leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(numbers.integers(256, size=leaf.shape), leaf.dtype)
        return jnp.asarray(numbers.standard_normal(leaf.shape, np.float32), dtype or leaf.dtype)

    return jax.tree.map(drawn, shapes)


@dataclasses.dataclass(frozen=True)
class Times:
    """Milliseconds by contestant, "convlab" or "flax"; `missing` names the layer that Flax does not have."""

    forward: dict[str, float]
    step: dict[str, float]
    missing: str = ""


def times(name: str, dtype: str = "float32", seconds: float = 2.0) -> Times:
    """Measure a network on its published input: the minimum time of a call without compilation, in alternate turns of
    `seconds`."""
    ours = cast(drawn(name), dtype)
    contestants, missing = {"convlab": ours}, ""
    try:
        contestants["flax"] = flax_layers(ours)
    except Missing as layer:
        missing = str(layer)
    given = catalogue.facts(name).input
    x = draw(given, seed=1, dtype=dtype)
    forwards = {who: forward_call(model, x) for who, model in contestants.items()}
    found = interleaved(forwards, seconds)
    del forwards
    steps = {who: step_call(model, x) for who, model in contestants.items()}
    return Times(found, interleaved(steps, seconds), missing)


def forward_call(model: nnx.Module, x: jax.Array) -> Callable:
    apply, state = forward(model)
    compiled = jax.jit(apply).lower(state, x).compile()
    return lambda: jax.block_until_ready(compiled(state, x))


def step_call(model: nnx.Module, x: jax.Array) -> Callable:
    """Return a call that keeps its state for the next call and donates its buffers."""
    gradients, parameters, rest = training(model)
    targets = draw(jax.eval_shape(forward(model)[0], nnx.state(model), x), seed=2)
    state = jax.tree.map(jnp.copy, (parameters, rest))
    compiled = jax.jit(descent(gradients), donate_argnums=(0, 1)).lower(*state, x, targets).compile()

    def call():
        nonlocal state
        *state, _ = jax.block_until_ready(compiled(*state, x, targets))

    return call


def interleaved(calls: dict[str, Callable], seconds: float) -> dict[str, float]:
    """Return the minimum milliseconds of a call for each contestant; a long call has one turn after the first."""
    least = {who: turn(call, 0) for who, call in calls.items()}
    for _ in range(1 if max(least.values()) > seconds else ROUNDS):
        for who, call in calls.items():
            least[who] = min(least[who], turn(call, seconds))
    return {who: 1e3 * found for who, found in least.items()}


def turn(call: Callable, seconds: float) -> float:
    """Return the minimum seconds of a call in a turn of about `seconds`."""
    least, end = math.inf, time.perf_counter() + seconds
    while least == math.inf or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - began)
    return least


def conditions(dtype: str) -> str:
    """Return date, machine and versions of a measurement."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax"))
    where = (
        f"{os.cpu_count()} cores of {processor()}"
        if jax.default_backend() == "cpu"
        else str(jax.devices()[0].device_kind)
    )
    return f"{datetime.date.today()}, {where}, Python {platform.python_version()}, {versions}, {dtype}"


def processor() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in path.read_text().splitlines() if "model name" in line]
        if path.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()
