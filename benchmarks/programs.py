"""Measures the time that convlab adds before a program runs, in processor seconds.

python benchmarks/programs.py            # both tables, a minute or two
python benchmarks/programs.py networks   # tracing and lowering of networks' gradients: Flax, convlab, accelerate()
python benchmarks/programs.py plain      # five programs without a convolution, with and without accelerate()
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from command_line import Parser, some_of
from layers_jax import linen_of
from networks import NETWORKS, Network, conv, conv_norm_relu
from networks_jax import Model, initial, training

import convlab

REPETITIONS = 3
RUNS = 20


def unet(size: int = 64, batch: int = 2, width: int = 16) -> Network:
    """Return the network of arXiv:1505.04597, with four levels."""

    def twice(features: int) -> tuple:
        return conv_norm_relu(features, 3) * 2

    layers = twice(8 * width)
    for features in (4 * width, 2 * width, width):
        down = (("max_pool", 2, 2, 0), *layers, ("up", features))
        layers = (*twice(features), ("skip", down), *twice(features))
    return Network((batch, size, size, 3), 4, (*layers, *conv(4, 1)))


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = call()
    return time.process_time() - began, result


# --- networks -----------------------------------------------------------------------------------------------------


def step_of(network: Network, contestant: str) -> tuple[Callable, tuple]:
    """Return a training step and its arguments' shapes."""
    model, optimizer = Model(network, linen_of(contestant)), optax.sgd(1e-3)
    x = jax.ShapeDtypeStruct(network.x, jnp.float32)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    state = jax.eval_shape(lambda v: initial(v, optimizer), variables)
    return training(model, optimizer), (state, (x, jax.ShapeDtypeStruct(logits.shape[:-1], jnp.int32)))


def before_compilation(network: Network, contestant: str) -> tuple[float, float]:
    """Return the minimum times of tracing and of lowering."""
    function, arguments = step_of(network, contestant)
    rows = []
    for _ in range(REPETITIONS):
        jax.clear_caches()
        tracing, traced = seconds(lambda: jax.jit(function).trace(*arguments))
        lowering, _ = seconds(traced.lower)
        rows.append((tracing, lowering))
    tracing, lowering = map(min, zip(*rows))
    return tracing, lowering


def networks() -> None:
    print(f"{'network':10} {'by':20} {'tracing':>8} {'lowering':>8} {'together':>8} {'to Flax':>8}")
    chosen = {
        "resnet": NETWORKS["resnet"](),
        "unet": unet(),
        "mobilenet": NETWORKS["mobilenet"](),
        "lenet": NETWORKS["lenet"](),
    }
    for name, network in chosen.items():
        plain = sum(before_compilation(network, "flax"))
        for by, contestant in (("Flax", "flax"), ("convlab", "convlab"), ("Flax, accelerated", "flax")):
            with convlab.accelerate() if "accelerated" in by else contextlib.nullcontext():
                tracing, lowering = before_compilation(network, contestant)
            together = tracing + lowering
            print(
                f"{name:10} {by:20} {tracing:8.3f} {lowering:8.3f} {together:8.3f} {together / plain:8.2f}", flush=True
            )


# --- programs without a convolution -------------------------------------------------------------------------------


def mlp(parameters: list, x: Any) -> Any:
    for weights in parameters:
        x = jax.nn.relu(x @ weights)
    return x.sum()


def transformer(parameters: dict, x: Any, lengths: Any) -> Any:
    """Return a block whose mask is a cumulative sum, as in speech models."""
    width = x.shape[-1]
    attended = jnp.cumsum(jnp.zeros(x.shape[:2]).at[jnp.arange(x.shape[0]), lengths].set(1), axis=1) == 0
    query, key, value = jnp.split(x @ parameters["in"], 3, -1)
    scores = query @ key.swapaxes(-1, -2) / width**0.5
    scores = jnp.where(attended[:, None, :], scores, -1e9)
    x = x + jax.nn.softmax(scores) @ value @ parameters["out"]
    return (x + jax.nn.gelu(x @ parameters["up"]) @ parameters["down"]).sum()


def plain_programs() -> dict[str, tuple[Callable, tuple]]:
    def drawn(*shape: int) -> np.ndarray:
        return np.random.default_rng(0).normal(size=shape).astype(np.float32) / 16

    weights = [drawn(256, 256) for _ in range(4)]
    block = {"in": drawn(128, 384), "out": drawn(128, 128), "up": drawn(128, 512), "down": drawn(512, 128)}
    adam = optax.adam(1e-3)

    def update(state: Any, gradients: Any) -> Any:
        parameters, moments = state
        updates, moments = adam.update(gradients, moments, parameters)
        return optax.apply_updates(parameters, updates), moments

    return {
        "MLP": (jax.grad(mlp), (weights, drawn(64, 256))),
        "transformer": (jax.grad(transformer), (block, drawn(4, 128, 128), np.array([128, 100, 64, 127]) - 1)),
        "cumsum": (jnp.cumsum, (drawn(10_000),)),
        "sort": (jnp.sort, (drawn(10_000),)),
        "optimiser": (update, ((weights, adam.init(weights)), weights)),
    }


def cost(function: Callable, arguments: tuple) -> tuple[int, float, float]:
    """Return the lines of StableHLO, and the minimum processor seconds of compilation and milliseconds of a run."""
    rows = []
    for _ in range(REPETITIONS):
        jax.clear_caches()
        lowered = jax.jit(function).lower(*arguments)
        compilation, compiled = seconds(lowered.compile)
        jax.block_until_ready(compiled(*arguments))
        for _ in range(RUNS):
            began = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            rows.append((len(lowered.as_text().splitlines()), compilation, 1e3 * (time.perf_counter() - began)))
    lines, compilation, run = map(min, zip(*rows))
    return lines, compilation, run


def plain() -> None:
    print(f"{'program':12} {'lines':>15} {'compilation s':>15} {'run ms':>17}   without and with accelerate()")
    for name, (function, arguments) in plain_programs().items():
        before = cost(function, arguments)
        with convlab.accelerate():
            after = cost(function, arguments)
        pairs = zip(before, after, ("7d", "7.3f", "8.4f"))
        print(f"{name:12} " + " ".join(f"{a:{form}} {b:{form}}" for a, b, form in pairs), flush=True)


TABLES = {"networks": networks, "plain": plain}

if __name__ == "__main__":
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "tables", nargs="?", type=some_of(TABLES), default=",".join(TABLES), help="networks, plain or both"
    )
    for table in parser.parse_args().tables.split(","):
        TABLES[table]()
