"""Training steps of a network in JAX, of convlab's Linen layers or Flax's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from conditions import DTYPE
from flax import linen
from layers_jax import Call, draw, linen_of
from networks import Layers, Network, network


class Model(linen.Module):
    """The interpreter of `networks`; `system` is the module with the layers and pools to use. Parameters are float32 in
    every dtype of the products."""

    network: Network
    system: Any

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.run(self.network.layers, x)

    def run(self, layers: Layers, x: jax.Array) -> jax.Array:
        for name, *numbers in layers:
            x = getattr(self, "run_" + name)(x, *numbers)
        return x

    def run_conv(self, x, features, window, stride, groups, dilation):
        return self._conv(x, features, window, (window - 1) * dilation // 2, stride, groups, dilation)

    def run_valid(self, x, features, window):
        return self._conv(x, features, window, 0)

    def run_causal(self, x, features, window, dilation):
        return self._conv(x, features, window, ((window - 1) * dilation, 0), dilation=dilation)

    def _conv(self, x, features, window, pads, stride=1, groups=1, dilation=1):
        rank = self.network.rank
        return self.system.Conv(
            features,
            (window,) * rank,
            strides=(stride,) * rank,
            padding=[pads if isinstance(pads, tuple) else (pads, pads)] * rank,
            kernel_dilation=(dilation,) * rank,
            feature_group_count=groups,
            dtype=DTYPE,
        )(x)

    def run_up(self, x, features):
        two = (2,) * self.network.rank
        return self.system.ConvTranspose(features, two, strides=two, padding="VALID", dtype=DTYPE)(x)

    def run_norm(self, x):
        return linen.BatchNorm(use_running_average=False, dtype=DTYPE)(x)

    def run_relu(self, x):
        return jax.nn.relu(x)

    def run_max_pool(self, x, window, stride, pad):
        rank = self.network.rank
        return self.system.max_pool(x, (window,) * rank, strides=(stride,) * rank, padding=[(pad, pad)] * rank)

    def run_global_avg(self, x):
        return x.mean(tuple(range(1, x.ndim - 1)))

    def run_flatten(self, x):
        return x.reshape(x.shape[0], -1)

    def run_dense(self, x, features):
        return linen.Dense(features, dtype=DTYPE)(x)

    def run_residual(self, x, branch, shortcut):
        return self.run(branch, x) + self.run(shortcut, x)

    def run_skip(self, x, inner):
        return jnp.concatenate([x, self.run(inner, x)], -1)

    def run_gated(self, x, features, dilations):
        total = 0
        for dilation in dilations:
            value, gate = jnp.split(self.run_causal(x, 2 * features, 2, dilation), 2, -1)
            z = jnp.tanh(value) * jax.nn.sigmoid(gate)
            total = total + self._conv(z, features, 1, 0)
            x = x + self._conv(z, features, 1, 0)
        return total


def training(model: Model, optimizer: optax.GradientTransformation) -> Callable:
    """Return a step (state, (images, labels)) -> (state, loss); the state is (variables, optimizer state)."""

    def step(state, batch):
        (parameters, statistics), moments = state
        x, labels = batch

        def loss(parameters):
            logits, changed = model.apply({"params": parameters, **statistics}, x, mutable=list(statistics))
            return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean(), changed

        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        updates, moments = optimizer.update(gradients, moments, parameters)
        return ((optax.apply_updates(parameters, updates), statistics), moments), value

    return step


def initial(shapes: Any, optimizer: optax.GradientTransformation) -> Any:
    """Draw parameters without initializers: a step's time does not depend on them, and no compilation is needed."""
    variables = dict(draw(shapes, 0.05))
    parameters = variables.pop("params")
    return (parameters, variables), optimizer.init(parameters)


class Training(Call):
    """A training step that keeps its state between calls and donates its buffers."""

    def __init__(self, function: Callable, make: Callable[[], tuple]):
        super().__init__(function, make, donate_argnums=0)

    def __call__(self) -> None:
        state, losses = jax.block_until_ready(self.compiled(*self.arguments))
        self.arguments = state, *self.arguments[1:]


def calls(contestant: str, payload: dict[str, Any]) -> dict[str, tuple[list[Call], int]]:
    """Return `step`, one compiled step per call, and `scan`, `payload["steps"]` steps in one `lax.scan` over as many
    batches."""
    described, steps = network(payload["network"], payload["tiny"]), payload["steps"]
    model = Model(described, linen_of(contestant))
    optimizer = optax.adam(1e-4)
    step = training(model, optimizer)

    def batches(count: int) -> Callable[[], tuple]:
        """Create the state and `count` batches, stacked if there are several."""
        leading = (count,) if count > 1 else ()

        def make():
            x = jax.ShapeDtypeStruct(described.x, jnp.float32)
            logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
            images = draw(jax.ShapeDtypeStruct((*leading, *described.x), jnp.float32), 1.0)
            shape = (*leading, *logits.shape[:-1])
            labels = np.random.default_rng(1).integers(described.classes, size=shape, dtype=np.int32)
            return initial(variables, optimizer), (images, jnp.asarray(labels))

        return make

    epoch = lambda state, batches: jax.lax.scan(step, state, batches)
    return {"step": ([Training(step, batches(1))], 1), "scan": ([Training(epoch, batches(steps))], steps)}
