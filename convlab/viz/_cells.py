"""Pictures, slideshows, and the grids of numbered cells that they are drawn of."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

INPUT, PADDING, KERNEL, OUTPUT, EMPTY = "#cfe3f7", "#ececec", "#ffd9a8", "#cdebc5", "#ffffff"
WINDOW, INK, FAINT = "#d9480f", "#222222", "#777777"
GROUPS = ("#cfe3f7", "#e4d4f4", "#d3ece9", "#f7d9e3", "#e8e6c5", "#d9dde3")


class Picture(Figure):
    """A figure of matplotlib without its global state, which notebooks show as it is."""

    def __init__(self, width: float, height: float, **options: Any):
        super().__init__(figsize=(width, height), dpi=100, **options)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png", facecolor="white")
        return data.getvalue()


@dataclasses.dataclass(eq=False)
class Slideshow:
    """Frames of one picture. Notebooks play it; elsewhere see `html`, `at` and `save`.

    Attributes:
        picture: the figure that `draw` draws on.
        draw: draws the frame of this number on the cleared `picture`.
        frames: how many there are.
    """

    picture: Picture
    draw: Callable[[int], None]
    frames: int

    def at(self, frame: int) -> Picture:
        """The picture of one frame; negative numbers count from the end."""
        if not -self.frames <= frame < self.frames:
            raise ValueError(f"`frame` must be smaller than {self.frames}, got {frame!r}.")
        self.picture.clear()
        self.draw(frame % self.frames)
        return self.picture

    def _step(self, frame: int) -> list[Any]:
        self.at(frame)
        return []

    def _animation(self, seconds: float) -> Any:
        from matplotlib.animation import FuncAnimation

        return FuncAnimation(self.picture, self._step, self.frames, interval=1000 * seconds, init_func=list, blit=False)

    def html(self, seconds: float = 1.0) -> str:
        """A page fragment with buttons that shows each frame for so many seconds."""
        with matplotlib.rc_context({"animation.embed_limit": 50, "savefig.facecolor": "white"}):
            return self._animation(seconds).to_jshtml(default_mode="loop")

    def save(self, path: str | os.PathLike[str], seconds: float = 1.0) -> None:
        """Writes an animated GIF."""
        self._animation(seconds).save(path, writer="pillow", fps=1 / seconds)

    def _repr_html_(self) -> str:
        return self.html()

    def _repr_png_(self) -> bytes:
        return self.at(self.frames // 2)._repr_png_()


def shown(value: Any) -> str:
    """A number in as few characters as it takes: 12, -0.5, 1.25."""
    number = float(value)
    return f"{number:.0f}" if number == round(number) and abs(number) < 1e5 else f"{number:.3g}"


def cell(axes: Any, x: float, y: float, text: str, colour: str, **options: Any) -> None:
    """A unit square with its upper left corner at (x, y), y downwards."""
    size, weight = options.pop("size", 12), options.pop("weight", "normal")
    style: dict[str, Any] = dict(facecolor=colour, edgecolor="#9aa0a6", linewidth=0.8, zorder=1) | options
    axes.add_patch(Rectangle((x, y), 1, 1, **style))
    size *= min(1.0, 4 / max(len(text), 1))
    axes.text(x + 0.5, y + 0.52, text, ha="center", va="center", size=size, color=INK, weight=weight, zorder=3)


def frame(axes: Any, x: float, y: float, width: float, height: float, colour: str = WINDOW, **options: Any) -> None:
    style: dict[str, Any] = dict(fill=False, edgecolor=colour, linewidth=2.5, zorder=4) | options
    axes.add_patch(Rectangle((x, y), width, height, **style))


def note(axes: Any, x: float, y: float, text: str, **options: Any) -> None:
    axes.text(x, y, text, **(dict(ha="left", va="center", size=11, color=FAINT) | options))


def blank(picture: Picture, width: float, height: float) -> Any:
    """Axes over the whole picture, in units of a cell, y downwards."""
    axes = picture.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return axes


def grid(axes: Any, x: float, y: float, values: np.ndarray, colour: Callable | str, size: float = 12) -> None:
    """A matrix of cells; NaN stays empty."""
    for (row, column), value in np.ndenumerate(values):
        fill = colour(row, column) if callable(colour) else colour
        empty = isinstance(value, float) and np.isnan(value)
        cell(axes, x + column, y + row, "" if empty else shown(value), EMPTY if empty else fill, size=size)


def per_axis(option: Any, rank: int) -> Sequence[int]:
    return tuple(option) if isinstance(option, (tuple, list)) else (option,) * rank
