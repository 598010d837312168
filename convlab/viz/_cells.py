"""Pictures, slideshows, and the grids of numbered cells in them."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ._player import animated_png, page

# Violet is the input, amber the kernel, green the output, grey the padding. Blue and red mark only the sign of numbers.
INPUT, PADDING, KERNEL, OUTPUT, EMPTY = "#e3dcf5", "#ececec", "#ffdfae", "#cfeac6", "#ffffff"
INPUT_LINE, KERNEL_LINE, OUTPUT_LINE = "#7a5fc0", "#a85a00", "#3d8b37"
WINDOW, INK, FAINT = KERNEL_LINE, "#222222", "#6b6b6b"
GROUPS = ("#e3dcf5", "#cfe9e2", "#f3e7bd", "#efd9ec", "#dfe3d2", "#dcdcdc")
SIGNS = "RdBu"  # red below 0, white at 0, blue above
SHARP = 150  # dots per inch of a picture that is displayed at 100


class Picture(Figure):
    """A matplotlib figure without global state, which notebooks display."""

    def __init__(self, width: float, height: float, **options: Any):
        super().__init__(figsize=(width, height), dpi=100, **options)
        FigureCanvasAgg(self)

    def _pixels(self) -> tuple[int, int]:
        """Return the displayed size in pixels."""
        return round(100 * self.get_figwidth()), round(100 * self.get_figheight())

    def _image(self, dots: int = SHARP) -> Any:
        """Return a Pillow image with `dots` dots per inch."""
        from PIL import Image

        self.set_dpi(dots)
        canvas = FigureCanvasAgg(self)
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
        self.set_dpi(100)
        return image

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        data = io.BytesIO()
        self._image().save(data, format="PNG", optimize=True)
        width, height = self._pixels()
        return data.getvalue(), {"width": width, "height": height}


@dataclasses.dataclass(eq=False)
class Slideshow:
    """Frames of one picture, which notebooks play without a running kernel or a network connection.

    `html`, `at` and `save` are for other programs.

    Attributes:
        picture: the figure that `draw` draws on.
        draw: a function that draws the frame of a number on the cleared `picture`.
        frames: the number of frames.
        knobs: the values of each knob by its name, if frames are settings of knobs instead of steps in time; the last
            knob varies fastest.
        start: the frame that is shown first.
        alt: the alternative text.
        colours: the size of the animation's palette; flat cells with antialiased letters need few.
    """

    picture: Picture
    draw: Callable[[int], None]
    frames: int
    knobs: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    start: int = 0
    alt: str = "animation"
    colours: int = 39

    def __repr__(self) -> str:
        return f"Slideshow({self.alt}, frames={self.frames})"

    def at(self, frame: int) -> Picture:
        """Draw one frame; negative numbers count from the end."""
        if not -self.frames <= frame < self.frames:
            raise ValueError(f"`frame` must be smaller than {self.frames}, got {frame!r}.")
        self.picture.clear()
        self.draw(frame % self.frames)
        return self.picture

    @functools.cached_property
    def _images(self) -> list[Any]:
        return [self.at(frame)._image() for frame in range(self.frames)]

    def _apng(self, seconds: float) -> bytes:
        return animated_png(self._images, seconds, self.colours)

    def html(self, seconds: float = 1.0) -> str:
        """Return an HTML fragment that shows each frame for `seconds`, with buttons, or with a slider for each knob."""
        data = self._apng(seconds)
        return page(data, self.picture._pixels(), seconds, self.knobs, self.frames, self.start, self.alt)

    def save(self, path: str | os.PathLike[str], seconds: float = 1.0) -> None:
        """Write an animated PNG if the name ends in `.png`, otherwise a GIF."""
        if os.fspath(path).endswith(".png"):
            data = self._apng(seconds)
            with open(path, "wb") as file:
                file.write(data)
            return
        first, *others = self._images
        first.save(path, format="GIF", save_all=True, append_images=others, duration=round(1000 * seconds), loop=0)

    def _repr_html_(self) -> str:
        return self.html()

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = self.picture._pixels()
        return self._apng(1.5 if self.knobs else 1.0), {"width": width, "height": height}


def format_number(value: Any) -> str:
    """Format a number briefly, without an exponent if possible: 12, -0.5, 1.25, 1111."""
    number = float(value) or 0.0  # never -0
    if math.isnan(number) or math.isinf(number):
        return str(number)
    if abs(number) >= 1e6:
        return f"{number:.2g}".replace("e+0", "e").replace("e+", "e")
    if abs(number) >= 100 or number == round(number):
        return f"{number:.0f}"
    text = f"{number:.{2 if abs(number) >= 0.1 else 3}f}".rstrip("0").rstrip(".")
    return text if float(text) else f"{number:.0e}".replace("e-0", "e-")


def cell(axes: Any, x: float, y: float, text: str, colour: str, **options: Any) -> None:
    """Draw a unit square with its upper left corner at (x, y), y downwards."""
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
    """Return axes over the whole picture, in units of a cell, y downwards."""
    axes = picture.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return axes


def grid(axes: Any, x: float, y: float, values: np.ndarray, colour: Callable | str, size: float = 12) -> None:
    """Draw a matrix of cells; NaN leaves a cell empty."""
    for (row, column), value in np.ndenumerate(values):
        fill = colour(row, column) if callable(colour) else colour
        empty = isinstance(value, float) and np.isnan(value)
        cell(axes, x + column, y + row, "" if empty else format_number(value), EMPTY if empty else fill, size=size)


def per_axis(option: Any, rank: int) -> Sequence[int]:
    return tuple(option) if isinstance(option, (tuple, list)) else (option,) * rank
