"""The training of a configuration: its data on the devices, and the functions compiled for them."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from . import data, devices, engine, model, workdir
from .distort import Distortion
from .errors import UserError


def recipe(config: workdir.Config) -> engine.Recipe:
    distortion = Distortion(**{name: getattr(config, name) for name in Distortion._fields})
    return engine.Recipe(config.batch_size, config.smoothing, config.average, distortion)


def like(config: workdir.Config) -> engine.State:
    """Return the shapes and dtypes of a state."""
    network = model.NETWORKS[config.api]()
    optimizer = engine.optimizer(config.lr, config.decay, config.weight_decay, steps=1)
    return jax.eval_shape(functools.partial(engine.begin, network.init, optimizer), engine.random_key(config.seed))


class Training:
    """A training whose state is the caller's: `begin` returns the first state and `epoch` the next one."""

    def __init__(self, config: workdir.Config, samples: data.Data, mesh: Mesh | None = None):
        count, parts = len(samples.train_images), mesh.size if mesh else 1
        if config.batch_size > count:
            raise UserError(f"`--batch-size` must be at most {count:,}, the training images, got {config.batch_size:,}")
        if config.batch_size % parts:
            raise UserError(f"`--batch-size` must be a multiple of {parts}, the devices, got {config.batch_size:,}")
        self.config, self.samples, self.mesh = config, samples, mesh
        self.steps = count // config.batch_size
        self._placed = devices.place(samples, mesh)
        self.network = model.NETWORKS[config.api]()
        self._optimizer = engine.optimizer(config.lr, config.decay, config.weight_decay, self.steps)
        self._epoch = engine.epoch_function(self.network.apply, self._optimizer, recipe(config), mesh)
        self._score = engine.score_function(self.network.apply, mesh)

    @functools.cached_property
    def like(self) -> engine.State:
        return like(self.config)

    def begin(self) -> engine.State:
        begin = functools.partial(engine.begin, self.network.init, self._optimizer)
        return self.place(jax.jit(begin)(engine.random_key(self.config.seed)))

    def place(self, state: engine.State) -> engine.State:
        return devices.place(state, self.mesh)

    def lower(self, state: engine.State) -> Any:
        """Lower an epoch's program without compiling it."""
        return self._epoch.lower(state, *self._placed[:2], *self._numbers(1))

    def compile(self, state: engine.State) -> None:
        """Compile an epoch, so that the first one's time is like the others'."""
        self._epoch = self.lower(state).compile()

    def epoch(self, state: engine.State, number: int) -> tuple[engine.State, dict]:
        """Train for one epoch and return the new state, `state` being donated, and the epoch's metrics.

        Raises:
            UserError: the loss is no longer finite.
        """
        began = time.perf_counter()
        state, losses = self._epoch(state, *self._placed[:2], *self._numbers(number))
        losses = np.asarray(losses)
        seconds = time.perf_counter() - began
        if not np.isfinite(losses).all():
            step = int(np.flatnonzero(~np.isfinite(losses))[0]) + 1
            reason = f"the loss is {losses[step - 1]} at step {step} of {self.steps} in epoch {number}"
            raise devices.EveryProcessKnows(reason)
        test_loss, accuracy = map(float, self._score(state.average, *self._placed[2:]))
        return state, {
            "epoch": number,
            "seconds": round(seconds, 4),
            "train_loss": float(losses.mean()),
            "test_loss": test_loss,
            "test_accuracy": accuracy,
            "samples_per_second": round(self.steps * self.config.batch_size / seconds, 1),
        }

    def _numbers(self, epoch: int) -> tuple[np.int32, np.int32]:
        return np.int32(self.config.seed), np.int32(epoch)
