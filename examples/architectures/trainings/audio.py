"""A temporal convolutional network classifies a sound while it streams.

A sound has half a second at 4 kHz and is drawn from a seed during the training. Its class depends on its course over
time, not on the frequencies that it contains: chirps and pairs of tones come in both directions.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from convlab import nnx as cn
from convlab.models import TCN

from . import loop, pictures

Array = jax.Array

EPOCHS, STEPS, BATCH, RATE = 20, 100, 32, 6e-3
TESTED, STREAMED = 1000, 64
RATE_HZ, LENGTH = 4000, 2048  # samples a second, samples
BLOCK = 8  # samples between two answers
NAMES = (
    "steady tone",
    "chirp up",
    "chirp down",
    "low, then high",
    "high, then low",
    "amplitude modulated",
    "frequency modulated",
    "noise bursts",
)
SHOWN = (3, 2, 6, 7)


def draw(key: Array, count: int) -> tuple[Array, Array]:
    """Return sounds `(count, 2048, 1)` in noise, and their classes `(count,)`."""
    keys = jax.random.split(key, 4)
    kind = jax.random.randint(keys[0], (count, 1), 0, len(NAMES))
    pitch, ratio, turning, slowness, start, position, depth, level, phase = jax.random.uniform(keys[1], (9, count, 1))
    now = jnp.linspace(0, 1, LENGTH)
    low = 250 * 3**pitch  # 250 to 750 Hz
    ratio = 1.4 + 0.6 * ratio
    beats = jnp.sin(2 * jnp.pi * ((4 + 6 * slowness) * now + start))
    later = now > 0.3 + 0.4 * turning
    # The pitch between low (0) and high (1); steady tones have the pitch of either end of a moving one.
    height = [now, 1 - now, later, 1 - later, jnp.round(position) + jnp.log(1.2) / jnp.log(ratio) * beats]
    height = jnp.select([kind == 1, kind == 2, kind == 3, kind == 4, kind == 6], height, jnp.round(position))
    turns = jnp.cumsum(low * ratio**height / RATE_HZ, 1) + phase
    bursts = 1.5 * (beats > 0) * jax.random.normal(keys[2], turns.shape)
    strength = jnp.where(kind == 5, 1 + (0.5 + 0.4 * depth) * beats, 1)
    sound = jnp.where(kind == 7, bursts, strength * jnp.sin(2 * jnp.pi * (turns % 1)))
    return (sound + (0.2 + level) * jax.random.normal(keys[3], turns.shape))[..., None], kind[:, 0]


def waves(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Return an initial kernel `(taps, 1, 2 n)`: windowed cosines and then sines of n frequencies from 200 to 1600
    Hz."""
    taps, _, channels = shape
    phases = 2 * jnp.pi * jnp.outer(jnp.arange(taps), 200 * 8 ** jnp.linspace(0, 1, channels // 2) / RATE_HZ)
    bell = jnp.hanning(taps)[:, None]
    return (jnp.concatenate([bell * jnp.cos(phases), bell * jnp.sin(phases)], 1) / bell.sum())[:, None].astype(dtype)


def loudness(x: Array) -> Array:
    """Return the logarithm of each frequency band's energy, from its cosine and its sine."""
    cosine, sine = jnp.split(x, 2, -1)
    return jnp.log(cosine**2 + sine**2 + 1e-3) + 3


class Listener(nnx.Module):
    """A strided causal convolution, initialised as a filter bank, and a TCN over the loudness of its bands.

    A call maps `(n, time, 1)` to logits `(n, time / 8, classes)` after each block. `step` takes the sound in parts.
    """

    def __init__(self, *, bands: int = 24, features: int = 32, levels: int = 7, rngs: nnx.Rngs):
        self.bank = cn.CausalConv(1, 2 * bands, 128, strides=BLOCK, use_bias=False, kernel_init=waves, rngs=rngs)
        self.body = TCN(bands, len(NAMES), features=features, levels=levels, kernel_size=3, dropout=0.0, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.body(loudness(self.bank(x)))

    def init_cache(self, batch: int = 1) -> None:
        """Reset the state of `step`."""
        self.bank.init_cache((batch, BLOCK, 1))
        self.body.init_cache(batch)

    def step(self, x: Array) -> Array:
        """Return the logits of the blocks that `x`, `(n, time, 1)`, completes."""
        return self.body.step(loudness(self.bank.step(x)))


def loss(network: nnx.Module, data: Any, key: Array) -> Array:
    """Return the mean cross entropy over all blocks of a batch that `key` draws."""
    x, labels = draw(key, BATCH)
    logits = network(x)
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.broadcast_to(labels[:, None], logits.shape[:2])
    ).mean()


def stream(network: Listener, sounds: np.ndarray, block: int = BLOCK) -> tuple[np.ndarray, float]:
    """Return the probabilities `(n, blocks, classes)` of sounds that arrive block by block, and the seconds per
    block."""
    network = loop.evaluating(network)
    network.init_cache(len(sounds))
    graph, cache, rest = nnx.split(network, nnx.Cache, ...)

    @jax.jit
    def step(cache: Any, heard: Array) -> tuple[Any, Array]:
        network = nnx.merge(graph, cache, rest, copy=True)
        found = jax.nn.softmax(network.step(heard))
        return nnx.state(network, nnx.Cache), found

    blocks = [jnp.asarray(sounds[:, at : at + block]) for at in range(0, sounds.shape[1], block)]
    jax.block_until_ready(step(cache, blocks[0]))  # compiles; the result is not used
    found, start = [], time.perf_counter()
    for heard in blocks:
        cache, answer = step(cache, heard)
        found.append(jax.block_until_ready(answer))
    return np.concatenate(found, 1), (time.perf_counter() - start) / len(blocks)


def spectrum_accuracy(sounds: np.ndarray, labels: np.ndarray, learned: int = 3000) -> float:
    """Return the accuracy of logistic regression on 128 bands of the whole sound's spectrum, which ignores the order of
    events."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def bands(x: Any) -> np.ndarray:
        energy = abs(np.fft.rfft(np.asarray(x)[..., 0] * np.hanning(LENGTH))[:, 1:]) ** 2
        return np.log(energy.reshape(len(x), 128, -1).mean(-1))

    known = jax.jit(draw, static_argnums=1)(jax.random.fold_in(loop.random_key(loop.TEST_SEED), 1), learned)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(bands(known[0]), known[1])
    return float(model.score(bands(sounds), labels))


def run(seed: int, epochs: int, say: loop.Say, tested: int = TESTED) -> loop.Run:
    """Train with one seed."""
    sounds, labels = jax.tree.map(np.asarray, jax.jit(draw, static_argnums=1)(loop.random_key(loop.TEST_SEED), tested))

    def right(network: nnx.Module) -> np.ndarray:
        """Return the accuracy after each block, `(blocks,)`."""
        return (loop.outputs(network, sounds).argmax(-1) == labels[:, None]).mean(0)

    optimizer = loop.cosine(RATE, epochs * STEPS)
    start = Listener(rngs=nnx.Rngs(seed))
    say(f"TCN, {loop.described(start, sounds.shape[1:])}")
    last = lambda network: float(right(network)[-1])
    network, course = loop.train(start, loss, optimizer, loop.keys(seed, epochs, STEPS), last, say)
    whole = np.asarray(jax.nn.softmax(loop.outputs(network, sounds[:STREAMED])))
    streamed, _ = stream(network, sounds[:STREAMED])
    alone, seconds = stream(network, sounds[:1])
    shares = right(network)
    figures = {
        "accuracy, whole sound": shares[-1],
        "accuracy, first half": shares[len(shares) // 2 - 1],
        "accuracy of logistic regression on the spectrum": spectrum_accuracy(sounds, labels),
        "accuracy by chance": 1 / len(NAMES),
        "largest difference of a streamed probability": max(abs(streamed - whole).max(), abs(alone - whole[:1]).max()),
        "milliseconds for a streamed block of 2": 1e3 * seconds,
        "first epoch's loss": course.losses[0],
        "last epoch's loss": course.losses[-1],
        "seconds of training": course.seconds,
    }
    chosen = [int(np.flatnonzero(labels == kind)[0]) for kind in SHOWN if (labels == kind).any()]
    draw_it = lambda: pictures.audio(
        sounds[chosen], labels[chosen], stream(network, sounds[chosen])[0], shares, NAMES, RATE_HZ
    )
    return loop.Run({name: float(one) for name, one in figures.items()}, draw_it)
