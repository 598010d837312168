"""Animates a pool's window that slides over the input, with the numbers, on one and two axes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import convlab

from ..typing import Ints, Padding, Reduce
from ._cells import (
    EMPTY,
    INK,
    INPUT,
    INPUT_LINE,
    OUTPUT,
    OUTPUT_LINE,
    PADDING,
    Picture,
    Slideshow,
    blank,
    cell,
    format_number,
    frame,
    note,
)

POOLS: dict[str, Callable[..., Any]] = {
    "max": convlab.max_pool,
    "min": convlab.min_pool,
    "avg": convlab.avg_pool,
    "sum": convlab.sum_pool,
}


def slide_pool(
    x: Any,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    reduce: Reduce = "max",
    **options: Any,
) -> Slideshow:
    """Animate a pool: the window moves over the input, and each frame adds one number of the result.

    Args:
        x: one image of one channel, `(n, 1)`, `(height, width, 1)`, or the latter with a batch axis of 1 before it.
        window_shape, strides, padding: as in `convlab.max_pool`; strides default to 1.
        reduce: "max", "min", "avg" or "sum".
        **options: options of the pool: `window_dilation`, `ceil_mode`, and for averages `count_include_pad` and
            `divisor_override`.

    Returns:
        A `Slideshow`. The numbers in the window are framed, and the maximum or minimum is green.

    Raises:
        TypeError, ValueError: as the pool; ValueError for several channels, an image too large to draw, or another
            `reduce`.

    Example:
        >>> slide_pool(jnp.arange(54.0).reshape(6, 9, 1), (3, 3), (3, 3)).frames
        6
    """
    if reduce not in POOLS:
        raise ValueError(f"`reduce` must be one of {', '.join(POOLS)}, got {reduce!r}.")
    image = np.asarray(x, np.float32)
    image = image[0] if image.ndim == 4 and len(image) == 1 else image
    if image.ndim not in (2, 3) or image.shape[-1] != 1:
        raise ValueError(f"`x` must be one image of one channel, (n, 1) or (height, width, 1), got {np.shape(x)}.")
    y = np.asarray(POOLS[reduce](jnp.asarray(image)[None], window_shape, strides, padding, **options))[0, ..., 0]
    if image.size > 400 or y.size > 100:
        raise ValueError(f"`x` must have at most 400 numbers and a result of 100, got {image.size} and {y.size}.")
    rank = image.ndim - 1
    per_axis = [(v,) * rank if isinstance(v, int) else tuple(v) for v in (window_shape, strides or 1)]
    dilation = options.get("window_dilation", 1)
    window = convlab.Window(per_axis[0], per_axis[1], padding, dilation)
    pads = window.pads(image.shape[:-1])
    if rank == 1:
        image, y = image[None], y[None]
    flat = (0,) * (2 - rank), (1,) * (2 - rank)
    low = flat[0] + tuple(before for before, _ in pads)
    scene = _Scene(
        image[..., 0], y, flat[1] + window.size, flat[1] + window.strides, flat[1] + window.dilation, low, reduce
    )
    return scene.slideshow()


class _Scene:
    """The layout of a pool: input and result side by side (one axis: below each other), in padded coordinates."""

    def __init__(self, x, y, size, strides, dilation, low, reduce):
        self.x, self.y, self.size, self.strides, self.dilation, self.low = x, y, size, strides, dilation, low
        self.reduce = reduce
        needed = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(y.shape, strides, size, dilation)]
        self.high, self.wide = (max(n, before + given) for n, before, given in zip(needed, low, x.shape))

    def slideshow(self) -> Slideshow:
        flat = self.high == 1
        wide = 3.6 + max(self.wide, self.y.shape[1]) + 1.6 if flat else self.wide + self.y.shape[1] + 4.5
        high = 5.2 if flat else max(self.high, self.y.shape[0]) + 3.0
        self.origin = (3.6, 0.6) if flat else (1.0, 1.3)
        self.result = (3.6, 2.4) if flat else (1.0 + self.wide + 2.0, 1.3)
        self.sum_at = high - (0.9 if flat else 0.8)
        scale = 0.52 if wide <= 22 else 11.5 / wide
        picture = Picture(max(6.0, wide * scale), high * scale)
        alt = f"the window of {self.reduce}_pool moves over the input, {self.y.size} frames"
        extent = max(wide, 6.0 / scale), high
        return Slideshow(picture, lambda number: self.draw(blank(picture, *extent), number), self.y.size, alt=alt)

    def _value(self, row: int, column: int) -> float | None:
        """Return the number of the input at a position of the padded input, or None in the padding."""
        row, column = row - self.low[0], column - self.low[1]
        inside = 0 <= row < self.x.shape[0] and 0 <= column < self.x.shape[1]
        return float(self.x[row, column]) if inside else None

    def draw(self, axes: Any, number: int) -> None:
        row, column = divmod(number, self.y.shape[1])
        under = {
            (row * self.strides[0] + a * self.dilation[0], column * self.strides[1] + b * self.dilation[1])
            for a, b in itertools.product(range(self.size[0]), range(self.size[1]))
        }
        values = [value for position in sorted(under) if (value := self._value(*position)) is not None]
        result = float(self.y[row, column])
        flat = self.high == 1
        for name, (x0, y0) in (("input", self.origin), ("output", self.result)):
            where = (x0 - 0.25, y0 + 0.5) if flat else (x0, 0.65)
            note(axes, *where, name, ha="right" if flat else "left", color=INK)
        x0, y0 = self.origin
        chosen = self.reduce in ("max", "min")
        first = next((position for position in sorted(under) if chosen and self._value(*position) == result), None)
        for r, c in itertools.product(range(self.high), range(self.wide)):
            value = self._value(r, c)
            style: dict[str, Any] = {} if value is not None else dict(hatch="///", edgecolor="#bdbdbd")
            taken = (r, c) == first  # the first of equal numbers, which receives the gradient
            colour = PADDING if value is None else OUTPUT if taken else INPUT
            cell(
                axes,
                x0 + c,
                y0 + r,
                "" if value is None else format_number(value),
                colour,
                weight="bold" if taken else "normal",
                **style,
            )
            if (r, c) in under:
                frame(axes, x0 + c, y0 + r, 1, 1, INPUT_LINE, linewidth=1.2, zorder=3)
        effective_size = [(k - 1) * d + 1 for k, d in zip(self.size, self.dilation)]
        frame(
            axes,
            x0 + column * self.strides[1],
            y0 + row * self.strides[0],
            effective_size[1],
            effective_size[0],
            INPUT_LINE,
        )
        x0, y0 = self.result
        for (r, c), value in np.ndenumerate(self.y):
            done = r * self.y.shape[1] + c <= number
            cell(axes, x0 + c, y0 + r, format_number(value) if done else "", OUTPUT if done else EMPTY)
        frame(axes, x0 + column, y0 + row, 1, 1, OUTPUT_LINE)
        note(axes, self.origin[0], self.sum_at, self._sum(values, result), color=INPUT_LINE, size=12, weight="bold")

    def _sum(self, values: list[float], result: float) -> str:
        terms = [format_number(v) for v in values]
        if self.reduce in ("max", "min"):
            return f"{self.reduce}({', '.join(terms)}) = {format_number(result)}"
        terms = [f"({t})" if t.startswith("-") else t for t in terms]
        total = " + ".join(terms)
        if self.reduce == "sum":
            return f"{total} = {format_number(result)}"
        divisor = sum(values) / result if result else len(values)
        return f"({total}) / {format_number(divisor)} = {format_number(result)}"
