"""Animates a transposed convolution that adds one scaled copy of the kernel after another, on one and two axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import convlab

from ._cells import (
    EMPTY,
    INK,
    INPUT,
    INPUT_LINE,
    KERNEL,
    OUTPUT,
    Picture,
    Slideshow,
    blank,
    cell,
    format_number,
    frame,
    note,
)
from ._slide import _image


def slide_transpose(x: Any, kernel: Any, **options: Any) -> Slideshow:
    """Animate `convlab.conv_transpose`: each frame adds the kernel, scaled by one number of the input, to the result.

    Args:
        x: one image of one channel, `(n, 1)`, `(height, width, 1)`, or either with a batch axis of 1 before it.
        kernel: `(*window, 1, 1)`.
        **options: options of `convlab.conv_transpose`: `strides`, `padding`, `kernel_dilation`, `output_padding`, ...

    Returns:
        A `Slideshow` with a frame for each number of the input; numbers in the padding are dropped.

    Raises:
        TypeError, ValueError: as `convlab.conv_transpose`; ValueError for several channels.

    Example:
        >>> slide_transpose(jnp.array([[1.0], [2.0]]), jnp.ones((3, 1, 1)), strides=2, padding="VALID").frames
        2

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv 1603.07285, section 4.
    """
    image, taps = _image(x, kernel)
    if image.shape[2] != 1 or taps.shape[2:] != (1, 1):
        raise ValueError(f"`kernel` must have one input and one output channel, got {np.shape(kernel)}.")
    flat, kernel = (image if np.ndim(kernel) == 4 else image[0]), jnp.asarray(kernel, jnp.float32)
    if flat.size > 100:
        raise ValueError(f"`x` must have at most 100 numbers, got {flat.size}.")
    stamps = []
    for position in range(flat.size):  # the operation is linear, so the result is the sum of these
        alone = np.zeros(flat.size, np.float32)
        alone[position] = flat.ravel()[position]
        stamps.append(
            np.asarray(convlab.conv_transpose(jnp.asarray(alone.reshape(flat.shape)), kernel, **options))[..., 0]
        )
    touched = [_contributions(position, flat.shape, kernel, options) for position in range(flat.size)]
    stack = np.stack(stamps).reshape(flat.size, *(stamps[0].shape if stamps[0].ndim == 2 else (1, -1)))
    return _animate(image[:, :, 0], taps[:, :, 0, 0], stack, np.stack(touched).reshape(stack.shape))


def _contributions(position: int, shape: Sequence[int], kernel: Any, options: dict[str, Any]) -> np.ndarray:
    """Return the mask of the positions of the result that a number of the input adds to, for a kernel without zeros."""
    one = np.zeros(math.prod(shape), np.float32)
    one[position] = 1
    return (
        np.asarray(convlab.conv_transpose(jnp.asarray(one.reshape(shape)), jnp.ones_like(kernel), **options))[..., 0]
        != 0
    )


def _animate(x: np.ndarray, kernel: np.ndarray, stamps: np.ndarray, touched: np.ndarray) -> Slideshow:
    (h, w), (kh, kw), (_, oh, ow) = x.shape, kernel.shape, stamps.shape
    flat = h == 1
    if flat:
        wide, high = max(w, ow, kw) + 5.0, 7.6
        origins = {"input": (3.4, 0.6), "kernel": (3.4, 2.2), "stamp": (3.4, 3.8), "output": (3.4, 5.4)}
    else:
        wide, high = w + kw + 2 * ow + 7.0, max(h, kh, oh) + 2.6
        xs = np.cumsum([1.0, w + 1.5, kw + 1.5, ow + 1.5])
        origins = {name: (float(x0), 1.3) for name, x0 in zip(("input", "kernel", "stamp", "output"), xs)}
    scale = 0.52 if wide <= 22 else 11.5 / wide
    picture = Picture(max(6.0, wide * scale), high * scale)

    def draw(number: int) -> None:
        axes = blank(picture, max(wide, 6.0 / scale), high)
        row, column = divmod(number, w)
        value = format_number(x[row, column])
        titles = {"input": "input", "kernel": "kernel", "stamp": f"{value} × kernel", "output": "output so far"}
        for name, (x0, y0) in origins.items():
            where = dict(ha="right") if flat else dict(ha="left")
            note(axes, x0 - 0.25 if flat else x0, y0 + 0.5 if flat else 0.65, titles[name], color=INK, **where)
        reached, here = np.logical_or.reduce(touched[: number + 1], axis=0), touched[number]
        panels: tuple[tuple[str, np.ndarray, np.ndarray, str], ...] = (
            ("input", x, np.ones_like(x, bool), INPUT),
            ("kernel", kernel, np.ones_like(kernel, bool), KERNEL),
            ("stamp", stamps[number], here, KERNEL),
            ("output", stamps[: number + 1].sum(0), reached, OUTPUT),
        )
        for name, values, filled, colour in panels:
            x0, y0 = origins[name]
            for (r, c), v in np.ndenumerate(values):
                cell(axes, x0 + c, y0 + r, format_number(v) if filled[r, c] else "", colour if filled[r, c] else EMPTY)
                if name == "output" and here[r, c]:
                    frame(axes, x0 + c, y0 + r, 1, 1, linewidth=1.8)
        frame(axes, origins["input"][0] + column, origins["input"][1] + row, 1, 1, INPUT_LINE)

    return Slideshow(picture, draw, x.size, alt=f"each number of the input adds a scaled kernel, {x.size} frames")
