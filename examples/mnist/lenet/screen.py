"""The output of the trainer: a live table with a progress bar, or plain lines if stdout is not a terminal."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

COLUMNS = ("epoch", "train loss", "test loss", "test accuracy", "seconds", "samples/s")


def print_line(console: Console, line: str) -> None:
    """Print `line` unchanged: without wrapping, colours or markup."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def cells(row: dict) -> tuple[str, ...]:
    """Return one epoch's metrics as text, in the order of `COLUMNS`."""
    losses = f"{row['train_loss']:.4f}", f"{row['test_loss']:.4f}"
    accuracy, speed = f"{100 * row['test_accuracy']:.2f} %", f"{row['samples_per_second']:,.0f}"
    return str(row["epoch"]), *losses, accuracy, f"{row['seconds']:.2f}", speed


def table(history: Sequence[dict]) -> Table:
    """Return the table of all epochs, the best in bold."""
    best = max((row["test_accuracy"] for row in history), default=None)
    result = Table(*COLUMNS, box=box.SIMPLE_HEAD, header_style="bold cyan")
    for column in result.columns:
        column.justify = "right"
    for row in history:
        result.add_row(*cells(row), style="bold green" if row["test_accuracy"] == best else None)
    return result


class Screen:
    """The display of a run of `epochs` epochs; `history` holds the finished ones."""

    def __init__(self, epochs: int, history: Sequence[dict], console: Console):
        self._console = console
        self._history = history
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("compiling", total=epochs, completed=len(history))
        self._live = Live(console=console, refresh_per_second=8)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table and the bar on a terminal until the block ends, and leave the table there."""
        if not self._console.is_terminal:
            yield
            return
        self._live.update(self._view())
        with self._live:
            yield
            self._live.update(table(self._history))

    def epoch_begins(self, number: int) -> None:
        self._progress.update(self._task, description=f"epoch {number}", completed=number - 1)

    def epoch_ends(self, history: Sequence[dict]) -> None:
        self._history = history
        self._progress.update(self._task, completed=len(history))
        if self._console.is_terminal:
            self._live.update(self._view())
        else:
            self.say(" | ".join(f"{name} {cell}" for name, cell in zip(COLUMNS, cells(history[-1]), strict=True)))

    def say(self, line: str) -> None:
        print_line(self._console, line)

    def _view(self) -> Group:
        # The bar must stay visible, so only the end of a long table is shown.
        room = max(1, self._console.height - 8)
        return Group(table(self._history[-room:]), self._progress)


def summary(console: Console, history: Sequence[dict], workdir: pathlib.Path, picture: pathlib.Path) -> None:
    """Print the result and the paths of the files."""
    best = max(history, key=lambda row: row["test_accuracy"])
    seconds = sum(row["seconds"] for row in history)
    lines = [
        f"test accuracy  {100 * history[-1]['test_accuracy']:.2f} %  after {len(history)} epochs and {seconds:.1f} s"
        f" of training (best {100 * best['test_accuracy']:.2f} % in epoch {best['epoch']})",
        f"picture        {picture}",
        f"checkpoints    {workdir / 'checkpoints'}",
    ]
    for line in lines:
        print_line(console, line)


def classes(names: Sequence[str], matrix: np.ndarray) -> Table:
    """Return a row per class: its count, the number of correct answers, and the most frequent wrong answer."""
    headings = "class", "samples", "right", "accuracy", "most often taken for"
    result = Table(*headings, box=box.SIMPLE_HEAD, header_style="bold cyan")
    for column in result.columns[1:4]:
        column.justify = "right"
    for number, (name, row) in enumerate(zip(names, matrix, strict=True)):
        wrong = np.where(np.arange(len(row)) == number, 0, row)
        taken = f"{names[wrong.argmax()]} ({wrong.max()} times)" if wrong.any() else ""
        share = f"{100 * row[number] / row.sum():.2f} %" if row.sum() else ""
        result.add_row(name, str(row.sum()), str(row[number]), share, taken)
    return result


def probabilities(names: Sequence[str], chances: np.ndarray) -> Table:
    """Return the classes with their probabilities as bars, the most likely first."""
    result = Table(box=None, show_header=False, padding=(0, 1))
    for place, number in enumerate(np.argsort(-chances)):
        bar, style = "█" * round(40 * chances[number]), "dim" if place else "bold green"
        result.add_row(names[number], f"{100 * chances[number]:6.2f} %", bar, style=style)
    return result


def drawing(image: np.ndarray) -> str:
    """Return an image of bytes as characters, two rows of pixels to a line."""
    shades = " ░▒▓█"
    pairs = image[: len(image) // 2 * 2].reshape(-1, 2, image.shape[1]).mean(1)
    return "\n".join("".join(shades[int(level * len(shades) / 256)] for level in line) for line in pairs)
