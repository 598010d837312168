"""The run in one picture: curves, confusion matrix, first-layer filters, and the test images it gets wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

BLUE, ORANGE, GREY = "#1f6fb4", "#e07b20", "#8a8a8a"


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
    """The picture as the content of a PNG file.

    `matrix` is `(classes, classes)`, rows the truth; `filters` are `(height, width, features)`; images, labels and
    logits are those of the test set.
    """
    figure = Figure(figsize=(15, 10), layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=15)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.05))
    curves, bank = left.subfigures(2, 1, height_ratios=(1, 0.85))
    _curves(curves, history)
    _confusion(bank, matrix, names)
    top, bottom = right.subfigures(2, 1, height_ratios=(0.25, 1))
    _filters(top, filters)
    _mistakes(bottom, images, labels, logits, names)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def _curves(figure: SubFigure, history: Sequence[dict]) -> None:
    epochs = [row["epoch"] for row in history]
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [row["train_loss"] for row in history], color=BLUE, marker=".", label="training")
    loss.plot(epochs, [row["test_loss"] for row in history], color=ORANGE, marker=".", label="test")
    loss.set(title="cross entropy", xlabel="epoch", yscale="log")
    loss.legend(frameon=False)
    shares = [100 * row["test_accuracy"] for row in history]
    accuracy.plot(epochs, shares, color=ORANGE, marker=".")
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
    axes.set(title="confusion matrix (mistakes in colour)", xlabel="taken for", ylabel="is")
    axes.set_xticks(ticks, names, rotation=0 if max(map(len, names)) < 3 else 45)
    axes.set_yticks(ticks, names)


def _filters(figure: SubFigure, filters: np.ndarray) -> None:
    figure.suptitle("first layer's filters (blue negative, red positive)")
    reach = np.abs(filters).max() or 1
    for axes, one in zip(figure.subplots(1, filters.shape[-1]), np.moveaxis(filters, -1, 0), strict=True):
        axes.imshow(one, cmap="RdBu_r", vmin=-reach, vmax=reach)
        axes.set_axis_off()


def _mistakes(
    figure: SubFigure, images: np.ndarray, labels: np.ndarray, logits: np.ndarray, names: Sequence[str], most: int = 40
) -> None:
    taken = logits.argmax(-1)
    # The surest mistakes first: there the network is wrong or the label is.
    surplus = logits.max(-1) - np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    wrong = np.argsort(-surplus, kind="stable")[: (taken != labels).sum()]
    shown = f", the surest {most}" if len(wrong) > most else ""
    figure.suptitle(f"{len(wrong)} of {len(labels):,} test images are wrong{shown} (is → taken for)")
    if not len(wrong):
        return
    columns, size = 8, 9 if max(map(len, names)) < 3 else 6
    grid = figure.subplots(-(-most // columns), columns, gridspec_kw={"hspace": 0.02})
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, wrong[:most], strict=False):
        axes.imshow(images[index], cmap="gray_r")
        axes.set_title(f"{names[labels[index]]} → {names[taken[index]]}", fontsize=size, pad=2)


def confusion(labels: np.ndarray, taken: np.ndarray, classes: int) -> np.ndarray:
    """`(classes, classes)` counts: rows what an image is, columns what it is taken for."""
    return np.bincount(labels * classes + taken, minlength=classes**2).reshape(classes, classes)
