"""Networks of `convlab.models` for inference: without changes, frozen, and as plain JAX computes the same program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from inference_networks import image, sampled

import convlab
from convlab import models
from convlab._backend import compat


def network(payload: dict[str, Any]) -> nnx.Module:
    model = models.get_model(payload["network"], weights=payload["weights"])
    model.eval()
    return model


def plain(model: nnx.Module, x: jax.Array) -> Callable[[jax.Array], jax.Array]:
    graph, state = nnx.split(model)
    compiled = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, x).compile()
    return functools.partial(compiled, state)


def frozen(model: nnx.Module, x: jax.Array) -> Callable[[jax.Array], jax.Array]:
    return convlab.freeze(model, jax.ShapeDtypeStruct(x.shape, x.dtype))


def calls(contestant: str, payload: dict[str, Any]) -> dict[str, tuple[list[Callable[[], Any]], int]]:
    if contestant == "flax":  # the same equations of lax, lowered by JAX's own rules
        compat.restore_rules()
    make = frozen if contestant == "frozen" else plain
    model = network(payload)
    made: dict[str, tuple[list[Callable[[], Any]], int]] = {}
    for batch in payload["batches"]:
        x = jnp.asarray(image(payload["network"], batch, payload["tiny"]))
        call = functools.partial(_run, make(model, x), x)
        made[f"batch {batch}"] = [call], 1
        made[f"numbers {batch}"] = [lambda call=call: sampled(np.asarray(call()))], 1
    return made


def _run(function: Callable, x: jax.Array) -> jax.Array:
    result = jax.block_until_ready(function(x))
    return result["out"] if isinstance(result, dict) else result  # the result of a segmentation network
