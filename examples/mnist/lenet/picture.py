"""Draws a picture of a run: curves, confusion matrix, first-layer filters, and misclassified test images."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

TRAIN, TEST = "#7a5fc0", "#a85a00"  # blue and red are the signs of the filters' numbers


def png(
    title: str,
    history: Sequence[dict],
    matrix: np.ndarray,
    filters: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    logits: np.ndarray,
    names: Sequence[str],
) -> bytes:
    """Return the picture as the content of a PNG file.

    `matrix` is `(classes, classes)`, rows the truth; `filters` are `(height, width, features)`; images, labels and
    logits are those of the test set.
    """
    figure = Figure(figsize=(14, 8.5), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=15)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.05))
    curves, bank = left.subfigures(2, 1, height_ratios=(1, 0.85))
    _curves(curves, history)
    _confusion(bank, matrix, names)
    top, bottom = right.subfigures(2, 1, height_ratios=(0.22, 1))
    _filters(top, filters)
    _mistakes(bottom, images, labels, logits, names)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def _curves(figure: SubFigure, history: Sequence[dict]) -> None:
    epochs = [row["epoch"] for row in history]
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [row["train_loss"] for row in history], color=TRAIN, marker=".", label="training")
    loss.plot(epochs, [row["test_loss"] for row in history], color=TEST, marker=".", label="test")
    loss.set(title="cross entropy", xlabel="epoch", yscale="log")
    loss.legend(frameon=False)
    shares = [100 * row["test_accuracy"] for row in history]
    accuracy.plot(epochs, shares, color=TEST, marker=".")
    accuracy.set(title=f"test accuracy, % (last {shares[-1]:.2f})", xlabel="epoch")
    for axes in (loss, accuracy):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)


def _confusion(figure: SubFigure, matrix: np.ndarray, names: Sequence[str]) -> None:
    axes = figure.subplots()
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    axes.imshow(wrong, cmap="Oranges", vmax=max(1, wrong.max()))
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            dark = row != column and count > 0.6 * wrong.max()
            axes.text(column, row, count, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    ticks = range(len(names))
    axes.set(title="confusion matrix (mistakes in colour)", xlabel="predicted", ylabel="true")
    turned = dict(rotation=45, ha="right", rotation_mode="anchor") if max(map(len, names)) > 2 else {}
    axes.set_xticks(ticks, names, **turned)
    axes.set_yticks(ticks, names)


def _filters(figure: SubFigure, filters: np.ndarray) -> None:
    figure.suptitle("first layer's filters (blue: above 0, red: below 0)")
    limit = float(np.abs(filters).max()) or 1.0
    grid = np.atleast_1d(figure.subplots(1, filters.shape[-1]))
    for axes, one in zip(grid, np.moveaxis(filters, -1, 0), strict=True):
        drawn = axes.imshow(one, cmap="RdBu", vmin=-limit, vmax=limit)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=list(grid), shrink=0.8, aspect=10, pad=0.01, ticks=[-limit, 0, limit], format="%.2f")


def _mistakes(
    figure: SubFigure, images: np.ndarray, labels: np.ndarray, logits: np.ndarray, names: Sequence[str], most: int = 40
) -> None:
    taken = logits.argmax(-1)
    # The most confident mistakes first: there the network is wrong, or the label is.
    surplus = logits.max(-1) - np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    wrong = np.argsort(-surplus, kind="stable")[: (taken != labels).sum()]
    shown = f", the surest {most}" if len(wrong) > most else ""
    figure.suptitle(f"{len(wrong)} of {len(labels):,} test images are wrong{shown}: true / predicted")
    drawn = wrong[:most]
    if not len(drawn):
        return
    columns = math.ceil(math.sqrt(1.15 * len(drawn)))  # few mistakes are drawn larger
    rows = -(-len(drawn) // columns)
    grid = np.atleast_1d(figure.subplots(rows, columns, gridspec_kw={"hspace": 0.02}))
    short = max(map(len, names)) < 3
    size, between = (10 if columns > 6 else 12) if short else (7 if columns > 6 else 9), " / " if short else " /\n"
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, drawn, strict=False):
        axes.imshow(images[index], cmap="gray_r")
        axes.set_title(f"{names[labels[index]]}{between}{names[taken[index]]}", fontsize=size, pad=2)


def confusion(labels: np.ndarray, taken: np.ndarray, classes: int) -> np.ndarray:
    """Return `(classes, classes)` counts: rows are the true classes, columns the predicted ones."""
    return np.bincount(labels * classes + taken, minlength=classes**2).reshape(classes, classes)
