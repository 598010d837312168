"""Draws the pictures of the reference: the result of each pool for one image, as SVG.

They have the page's colours, so that they are readable on a dark page too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import convlab

CELL, GAP = 34, 56
IMAGE = np.array([[1, 3, 2, 4], [5, 6, 1, 2], [7, 2, 9, 0], [3, 4, 8, 5]], np.float32)
Box = tuple[int, int, int, int]  # first row, first column, rows, columns
QUARTERS: tuple[Box, ...] = ((0, 0, 2, 2), (0, 2, 2, 2), (2, 0, 2, 2), (2, 2, 2, 2))
CELLS: tuple[Box, ...] = ((0, 0, 1, 1), (0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 1, 1))
ALL: Box = (0, 0, 4, 4)


class Figure(NamedTuple):
    """A call of `x` as source code, the boxes of the input, and the boxes of the output in the same colours."""

    call: str
    inputs: Sequence[Box] = QUARTERS
    outputs: Sequence[Box] = CELLS


# The call is evaluated, so that the picture shows its result.
FIGURES = {
    "max_pool": Figure("max_pool(x, 2, strides=2)"),
    "min_pool": Figure("min_pool(x, 2, strides=2)"),
    "avg_pool": Figure("avg_pool(x, 2, strides=2)"),
    "sum_pool": Figure("sum_pool(x, 2, strides=2)"),
    "lp_pool": Figure("lp_pool(x, 2, strides=2)"),
    "gem_pool": Figure("gem_pool(x, 2, strides=2)"),
    "softmax_pool": Figure("softmax_pool(x, 2, strides=2)"),
    "top_k_pool": Figure("top_k_pool(x, 2, strides=2, k=2)"),
    "mixed_pool": Figure("mixed_pool(x, 2, strides=2)"),
    "stochastic_pool": Figure("stochastic_pool(x, 2, strides=2)"),
    "pool": Figure("pool(x, 1.0, jnp.multiply, (2, 2), (2, 2))"),
    "blur_pool": Figure("blur_pool(x, 3, strides=2)", [(1, 1, 3, 3)], [(1, 1, 1, 1)]),
    "global_avg_pool": Figure("global_avg_pool(x, keepdims=True)", [ALL], [(0, 0, 1, 1)]),
    "global_max_pool": Figure("global_max_pool(x, keepdims=True)", [ALL], [(0, 0, 1, 1)]),
    "adaptive_avg_pool": Figure(
        "adaptive_avg_pool(x, (3, 2))", [(0, 0, 2, 2), (1, 2, 2, 2)], [(0, 0, 1, 1), (1, 1, 1, 1)]
    ),
    "adaptive_max_pool": Figure(
        "adaptive_max_pool(x, (3, 2))", [(0, 0, 2, 2), (1, 2, 2, 2)], [(0, 0, 1, 1), (1, 1, 1, 1)]
    ),
    "fractional_max_pool": Figure(
        "fractional_max_pool(x, 2, output_shape=3, samples=jnp.full((1, 1, 2), 0.4))", [(0, 0, 2, 2)], [(0, 0, 1, 1)]
    ),
    "spatial_pyramid_pool": Figure("spatial_pyramid_pool(x, (1, 2))", QUARTERS, [(0, n, 1, 1) for n in (1, 2, 3, 4)]),
    "max_unpool": Figure("max_unpool(*max_pool(x, 2, strides=2, return_indices=True), (4, 4))", QUARTERS, QUARTERS),
    "pad": Figure('pad(x, 1, "reflect")', [ALL], [(1, 1, 4, 4)]),
}


@functools.cache  # a function, its two layers and what tests them show one picture
def figure(name: str) -> str:
    """Return the SVG of a function's picture with its call as caption, "" if it has none."""
    if name not in FIGURES:
        return ""
    call, inputs, outputs = FIGURES[name]
    functions: dict[str, Callable[..., Array]] = {f: getattr(convlab, f) for f in convlab.__all__}
    program = jax.jit(lambda x: eval(call, {**functions, "jnp": jnp, "x": x}))
    result = np.asarray(program(IMAGE[None, :, :, None]))
    shown = result.reshape(-1)[None] if result.ndim == 2 else result[0, :, :, 0]
    return svg(IMAGE, shown, inputs, outputs, call)


def svg(before: np.ndarray, after: np.ndarray, inputs: Sequence[Box], outputs: Sequence[Box], caption: str) -> str:
    """Draw two grids of numbers and an arrow between them; boxes of one index have one colour."""
    height = CELL * max(before.shape[0], after.shape[0]) + 4
    width = CELL * (before.shape[1] + after.shape[1]) + GAP + 4
    left = before.shape[1] * CELL + GAP
    tops = [(height - CELL * grid.shape[0]) / 2 for grid in (before, after)]
    middle = height / 2
    parts = [
        f'<figure class="pool"><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{_plain(caption)}: {_spoken(before)} becomes {_spoken(after)}">',
        _grid(before, 2, tops[0], inputs),
        f'<path class="arrow" d="M{left - GAP + 14} {middle}h{GAP - 32}m-7 -5l8 5l-8 5"/>',
        _grid(after, left, tops[1], outputs),
        f"</svg><figcaption><code>{_plain(caption)}</code></figcaption></figure>",
    ]
    return "\n".join(parts)


def _grid(numbers: np.ndarray, left: float, top: float, boxes: Sequence[Box]) -> str:
    parts = []
    for row, column in np.ndindex(numbers.shape):
        x, y = left + CELL * column, top + CELL * row
        parts.append(f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" class="cell"/>')
    for n, (row, column, rows, columns) in enumerate(boxes):
        x, y = left + CELL * column + 1.5, top + CELL * row + 1.5
        parts.append(
            f'<rect x="{x}" y="{y}" width="{CELL * columns - 3}" height="{CELL * rows - 3}" rx="4" class="box box{n % 4}"/>'
        )
    for (row, column), number in np.ndenumerate(numbers):
        x, y = left + CELL * (column + 0.5), top + CELL * (row + 0.5)
        parts.append(f'<text x="{x}" y="{y}">{_short(float(number))}</text>')
    return "\n".join(parts)


def _short(number: float) -> str:
    return f"{number:.0f}" if number == round(number) else f"{number:.2f}" if abs(number) < 10 else f"{number:.1f}"


def _spoken(grid: np.ndarray) -> str:
    return "; ".join(" ".join(_short(float(number)) for number in row) for row in grid)


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
