"""Draws the pictures of the trainings, as the content of PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

COLOURS = "#1f6fb4", "#e07b20", "#2c9c69", "#c0392b", "#8e5bb5", "#7a5230", "#d667a8", "#444444"


def figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=90, layout="constrained", facecolor="white")


def png(drawn: Figure) -> bytes:
    """Return a PNG file in 256 colours, a third of the size."""
    canvas, content = FigureCanvasAgg(drawn), io.BytesIO()
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(
        256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
    ).save(content, "png", optimize=True)
    return content.getvalue()


def shapes(images: np.ndarray, truth: np.ndarray, found: np.ndarray, names: Sequence[str]) -> bytes:
    """Draw images `(n, h, w, 1)`, and the classes of their pixels, `(n, h, w)`: true and predicted."""
    drawn = figure(1.5 * len(images) + 0.8, 5.4)
    colours = ListedColormap(["#f1f1ee", *COLOURS[: len(names) - 1]])
    wrong = truth != found
    grid = drawn.subplots(3, len(images), squeeze=False)
    for title, row in zip(("image", "truth", "U-Net"), grid[:, 0], strict=True):
        row.set_ylabel(title, fontsize=12)
    for number, column in enumerate(grid.T):
        column[0].imshow(images[number, ..., 0], cmap="gray")
        for axes, classes in zip(column[1:], (truth, found), strict=True):
            axes.imshow(classes[number], cmap=colours, vmin=0, vmax=len(names) - 1, interpolation="nearest")
        column[2].set_xlabel(f"{100 * (1 - wrong[number].mean()):.1f} % right", fontsize=10)
        for axes in column:
            axes.set(xticks=[], yticks=[])
    patches = [Patch(facecolor=colours(k), edgecolor="#999999", label=name) for k, name in enumerate(names)]
    drawn.legend(handles=patches, loc="outside lower center", ncols=len(names), frameon=False, fontsize=11)
    return png(drawn)


def audio(
    sounds: np.ndarray, labels: np.ndarray, chances: np.ndarray, shares: np.ndarray, names: Sequence[str], rate: int
) -> bytes:
    """Draw sounds `(n, time, 1)` with their probabilities `(n, blocks, classes)`, and the accuracy by block,
    `(blocks,)`."""
    drawn = figure(3.1 * len(sounds) + 2.8, 6.6)
    seconds = sounds.shape[1] / rate
    heard = np.linspace(0, seconds, chances.shape[1] + 1)[1:]
    grid = drawn.subplots(3, len(sounds) + 1, sharex=True, squeeze=False, height_ratios=(0.5, 1, 1))
    for column, sound, label, chance in zip(grid.T, sounds[..., 0], labels, chances, strict=False):
        wave, spectrum, bottom = column
        wave.plot(np.arange(len(sound)) / rate, sound, color="#444444", lw=0.3)
        wave.set(title=names[label], ylim=(-5, 5), yticks=[])
        spectrum.specgram(sound, NFFT=160, noverlap=150, Fs=rate, pad_to=512, cmap="magma", vmin=-70, vmax=-25)
        spectrum.set(ylim=(0, rate / 2), facecolor="black")
        for number, (one, colour) in enumerate(zip(chance.T, COLOURS, strict=False)):
            bottom.plot(heard, one, color=colour, lw=2.2 if number == label else 1.2)
        bottom.set(ylim=(-0.02, 1.02), xlim=(0, seconds), xlabel="seconds heard")
    for axes, text in zip(grid[:, 0], ("wave", "frequency, Hz", "probability"), strict=True):
        axes.set_ylabel(text)
    lines = [Line2D([], [], color=colour, lw=2) for colour, _ in zip(COLOURS, names, strict=False)]
    for axes in grid[:2, -1]:
        axes.set_axis_off()
    grid[1, -1].legend(lines, names, loc="center", frameon=False, title="class", fontsize=10, handlelength=1.2)
    last = grid[2, -1]
    last.plot(heard, 100 * shares, color="black")
    last.axhline(100 / len(names), color="#8a8a8a", ls=":")
    last.text(seconds, 100 / len(names) + 1.5, "chance", color="#8a8a8a", ha="right")
    last.set(ylim=(0, 101), xlabel="seconds heard", title="all tested sounds: right, %")
    last.grid(alpha=0.25)
    return png(drawn)


def fashion(
    scores: dict[str, Sequence[float]],
    best: str,
    images: np.ndarray,
    labels: np.ndarray,
    logits: Any,
    names: Sequence[str],
) -> bytes:
    """Draw accuracies after each epoch, and test images `(n, h, w)` that `best` misclassifies by its `logits`, the most
    confident first."""
    drawn = figure(11.5, 5.2)
    left, right = drawn.subfigures(1, 2, width_ratios=(1, 1.35))
    axes = left.subplots()
    for (name, shares), colour in zip(scores.items(), COLOURS, strict=False):
        axes.plot(range(1, len(shares) + 1), 100 * np.array(shares), color=colour, marker=".")
        axes.annotate(f"{name}  {100 * shares[-1]:.2f} %", (len(shares), 100 * shares[-1]), (0, 7),
            textcoords="offset points", ha="right", color=colour, fontsize=11)  # fmt: skip
    axes.set(title="Fashion-MNIST: test accuracy, %", xlabel="epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(y=0.12)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    taken = logits.argmax(-1)
    surplus = logits.max(-1) - np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    wrong = np.argsort(-surplus, kind="stable")[: (taken != labels).sum()]
    right.suptitle(f"{best}: the surest of {len(wrong):,} mistakes in {len(labels):,} (is → taken for)", fontsize=11)
    grid = right.subplots(4, 6)
    for cell in grid.flat:
        cell.set_axis_off()
    for cell, index in zip(grid.flat, wrong, strict=False):
        cell.imshow(images[index], cmap="gray_r")
        cell.set_title(f"{names[labels[index]]}\n→ {names[taken[index]]}", fontsize=8, pad=2)
    return png(drawn)
