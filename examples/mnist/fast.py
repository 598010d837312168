#!/usr/bin/env python3
"""MNIST to 99 % in one epoch: a small network of convlab's layers, timed from the data in memory to the weights.

    python fast.py [--seeds 5] [--epochs 1] [--data-dir FOLDER] [--framework convlab]

An epoch is one compiled call. If PyTorch is installed, a second process then trains the same network in PyTorch by the
same schedule. The accuracy is that of the last weights on the test images.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
from lenet import data
from lenet.engine import DEVIATION, MEAN, normalise, random_key
from train import POSITIVE, Parser, UserError

BATCH, RATE, SMOOTHING, BETAS = 64, 5e-3, 0.1, (0.9, 0.98)
# The schedule of the learning rate at these fractions of the training: a short rise, then a fall to almost 0.
RISE_AND_FALL = (0.0, 0.2, 1.0), (0.15, 1.0, 0.01)
CHANNELS = 16, 32, 64


# --- convlab ------------------------------------------------------------------------------------------------------


class OfConvlab:
    """Train with convlab, Flax NNX and optax."""

    def __init__(self, samples: data.Data, epochs: int):
        """Compile the training of an epoch; `compilation` is the seconds that it took."""
        import jax
        import jax.numpy as jnp
        import optax
        from flax import nnx

        from convlab.nnx import Conv, MaxPool, PixelUnshuffle

        class Network(nnx.Module):
            """Images `(n, 28, 28, 1)` to logits `(n, 10)`; the first layer reads 2 x 2 pixels as 4 channels."""

            def __init__(self, rngs: nnx.Rngs):
                first, second, third = CHANNELS
                self.unshuffle, self.pool = PixelUnshuffle(2), MaxPool(2, strides=2)
                self.conv1 = Conv(4, first, (3, 3), padding="SAME", rngs=rngs)
                self.conv2 = Conv(first, second, (3, 3), padding="VALID", rngs=rngs)
                self.conv3 = Conv(second, third, (3, 3), padding="VALID", rngs=rngs)
                self.dense = nnx.Linear(4 * third, 10, rngs=rngs)

            def __call__(self, x: jax.Array) -> jax.Array:
                x = nnx.relu(self.conv1(self.unshuffle(x)))
                x = nnx.relu(self.pool(self.conv2(x)))
                x = nnx.relu(self.pool(self.conv3(x)))
                return self.dense(x.reshape(len(x), -1))

        began = time.perf_counter()
        count, classes = len(samples.train_images), 10
        steps = count // BATCH
        optimizer = optax.adamw(
            lambda step: RATE * jnp.interp(step / (epochs * steps), *map(jnp.asarray, RISE_AND_FALL)),
            *BETAS,
            weight_decay=0.0,
        )

        @jax.jit
        def begin(key: jax.Array) -> tuple[Any, Any]:
            parameters = nnx.state(Network(nnx.Rngs(key)))
            return parameters, optimizer.init(parameters)

        graph = nnx.graphdef(nnx.eval_shape(lambda: Network(nnx.Rngs(0))))

        def logits(parameters: Any, images: jax.Array) -> jax.Array:
            return nnx.merge(graph, parameters)(normalise(images))

        def loss(parameters: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
            target = optax.smooth_labels(jax.nn.one_hot(labels, classes), SMOOTHING)
            return optax.softmax_cross_entropy(logits(parameters, images), target).mean()

        @functools.partial(jax.jit, donate_argnums=0)
        def epoch(state: tuple[Any, Any], images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[Any, Any]:
            def step(state: tuple[Any, Any], batch: jax.Array) -> tuple[tuple[Any, Any], None]:
                parameters, memory = state
                gradients = jax.grad(loss)(parameters, images[batch], labels[batch])
                updates, memory = optimizer.update(gradients, memory, parameters)
                return (optax.apply_updates(parameters, updates), memory), None

            order = jax.random.permutation(key, count)[: steps * BATCH].reshape(steps, BATCH)
            return jax.lax.scan(step, state, order)[0]

        images, labels = jnp.asarray(samples.train_images), jnp.asarray(samples.train_labels)
        self.epochs, self.samples = epochs, samples
        self.begin = begin.lower(random_key(0)).compile()
        state = jax.eval_shape(begin, random_key(0))
        self.epoch = epoch.lower(state, images, labels, random_key(0)).compile()
        self.images, self.labels, self.jax = images, labels, jax
        self.classify = jax.jit(lambda parameters, images: logits(parameters, images).argmax(-1))
        self.compilation = time.perf_counter() - began

    def train(self, seed: int) -> tuple[float, float]:
        """Return the seconds of a training and its test accuracy."""
        began, key = time.perf_counter(), random_key(seed)
        state = self.begin(key)
        for number in range(self.epochs):
            state = self.epoch(state, self.images, self.labels, self.jax.random.fold_in(key, number + 1))
        self.jax.block_until_ready(state)
        seconds = time.perf_counter() - began
        guesses = np.concatenate([self.classify(state[0], part) for part in parts(self.samples.test_images)])
        return seconds, float((guesses == self.samples.test_labels).mean())


# --- PyTorch ------------------------------------------------------------------------------------------------------


class OfTorch:
    """Train the same network in PyTorch."""

    compilation = 0.0

    def __init__(self, samples: data.Data, epochs: int):
        import torch

        self.torch, self.epochs, self.samples = torch, epochs, samples
        self.images = torch.tensor(samples.train_images)
        self.labels = torch.tensor(samples.train_labels, dtype=torch.int64)

    def network(self) -> Any:
        nn, (first, second, third) = self.torch.nn, CHANNELS
        network = nn.Sequential(
            nn.PixelUnshuffle(2),
            *(nn.Conv2d(4, first, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(first, second, 3), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(second, third, 3), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(4 * third, 10)),
        )
        for layer in network:
            if hasattr(layer, "weight"):  # Flax's initial values
                nn.init.trunc_normal_(layer.weight, 0, layer.weight[0].numel() ** -0.5 / 0.8796, -2, 2)
                nn.init.zeros_(layer.bias)
        return network

    def normalise(self, images: Any) -> Any:
        return ((images / 255 - MEAN) / DEVIATION)[:, None]

    def train(self, seed: int) -> tuple[float, float]:
        """Return the seconds of a training and its test accuracy."""
        torch, began = self.torch, time.perf_counter()
        torch.manual_seed(seed)
        network, steps = self.network(), len(self.images) // BATCH
        optimizer = torch.optim.AdamW(network.parameters(), RATE, BETAS, weight_decay=0.0)
        rates = np.interp(np.arange(self.epochs * steps + 1) / (self.epochs * steps), *RISE_AND_FALL)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates.__getitem__)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(self.images))[: steps * BATCH].reshape(steps, BATCH):
                guess = network(self.normalise(self.images[batch]))
                loss = torch.nn.functional.cross_entropy(guess, self.labels[batch], label_smoothing=SMOOTHING)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
        seconds = time.perf_counter() - began
        with torch.inference_mode():
            images = map(torch.tensor, parts(self.samples.test_images))
            guesses = torch.cat([network(self.normalise(part)).argmax(-1) for part in images]).numpy()
        return seconds, float((guesses == self.samples.test_labels).mean())


# --- both ---------------------------------------------------------------------------------------------------------


FRAMEWORKS: dict[str, Any] = {"convlab": OfConvlab, "torch": OfTorch}  # by module


def parts(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + 1000] for start in range(0, len(images), 1000)]


def report(name: str, compilation: float, runs: list[tuple[float, float]]) -> str:
    seconds, accuracies = zip(*runs)
    each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
    return (
        f"{name:8} {100 * statistics.mean(accuracies):.2f} % ({each}) "
        f"in {compilation + statistics.mean(seconds):.1f} s: {compilation:.1f} s to compile, "
        f"{statistics.mean(seconds):.1f} s to train ({min(seconds):.1f} to {max(seconds):.1f})"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="fast.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=POSITIVE, default=5, help="how many trainings (default: 5)")
    parser.add_argument("--epochs", type=POSITIVE, default=1, help="of each training (default: 1)")
    parser.add_argument("--data", choices=data.NAMES, default="mnist", help="default: mnist")
    parser.add_argument("--data-dir", type=pathlib.Path, help="the folder of the four files, instead of a download")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="only this one; default: all that are installed")
    try:
        given = parser.parse_args(arguments)
        samples = data.load(given.data, given.data_dir)
    except UserError as error:
        print(f"fast.py: {error}", file=sys.stderr)
        return 2
    if given.framework is None:
        present = [name for name in FRAMEWORKS if importlib.util.find_spec(name)]
        command = [sys.executable, __file__, *(sys.argv[1:] if arguments is None else arguments)]
        return max(subprocess.run([*command, "--framework", name]).returncode for name in present)
    if importlib.util.find_spec(given.framework) is None:
        print(f"fast.py: --framework {given.framework} is not installed", file=sys.stderr)
        return 2
    trainer = FRAMEWORKS[given.framework](samples, given.epochs)
    print(report(given.framework, trainer.compilation, [trainer.train(seed) for seed in range(given.seeds)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
