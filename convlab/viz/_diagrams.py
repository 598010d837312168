"""Diagrams of connections: which outputs read which inputs, and which channels a kernel combines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.patches import Circle, Rectangle

import convlab

from ._cells import (
    FAINT,
    INK,
    INPUT,
    INPUT_LINE,
    KERNEL,
    KERNEL_LINE,
    OUTPUT,
    OUTPUT_LINE,
    PADDING,
    SIGNS,
    Picture,
    blank,
    cell,
    format_number,
    frame,
    note,
)

ELEMENTS = ("#a85a00", "#7a5fc0", "#3d8b37", "#b0408f", "#00808a", "#7a7a00", "#555555")  # of kernel elements
MOST = 40  # inputs or outputs of a diagram


def connections(kernel: Any, x: Any, *, mark: int | None = None, title: str | None = None, **options: Any) -> Picture:
    """Draw inputs and outputs of a layer as two rows of units, with a line for every weight between them.

    Lines of one colour have one weight: a convolution connects each output with a few neighbouring inputs, and all
    outputs share the kernel's elements; a dense layer connects all units, and each line has a separate weight.

    Args:
        kernel: `(window, 1, 1)` of a convolution, or `(inputs, outputs)` of a dense layer.
        x: the number of inputs, or their values `(n,)` or `(n, 1)`, which are written into the units with the result's.
        mark: the output whose lines are thick; the middle one by default.
        title: the text above the picture; by default the sizes.
        **options: options of a convolution: `strides`, `padding`, `kernel_dilation`.

    Returns:
        A `Picture`; padding is grey.

    Raises:
        TypeError, ValueError: as `convlab.conv`; ValueError for another kernel or more than 40 units in a row.

    Example:
        >>> connections(jnp.ones((3, 1, 1)), 6).axes[0].get_title()
        '6 inputs, 4 outputs, 12 connections, 3 weights'
    """
    kernel = np.asarray(kernel, np.float32)
    values = None if isinstance(x, (int, np.integer)) else np.asarray(x, np.float32).reshape(-1)
    n = int(x) if values is None else len(values)
    if kernel.ndim == 2 and kernel.shape[0] == n:
        lines: list[tuple[int, int, int | None]] = [(i, o, None) for o in range(kernel.shape[1]) for i in range(n)]
        low, total, outputs = 0, n, kernel.shape[1]
        result = None if values is None else values @ kernel
    elif kernel.ndim == 3 and kernel.shape[1:] == (1, 1):
        options = {"padding": "VALID"} | options
        result_of = jnp.zeros((n, 1)) if values is None else jnp.asarray(values)[:, None]
        result = np.asarray(convlab.conv(result_of, jnp.asarray(kernel), **options))[:, 0]
        window = convlab.Window(
            (len(kernel),), options.get("strides", 1), options["padding"], options.get("kernel_dilation", 1)
        )
        ((low, high),) = window.pads((n,))
        stride, dilation, outputs, total = (
            window.strides[0],
            window.dilation[0],
            len(result),
            n + max(low, 0) + max(high, 0),
        )
        lines = [(o * stride + j * dilation, o, j) for o in range(outputs) for j in range(len(kernel))]
        low = max(low, 0)
    else:
        raise ValueError(f"`kernel` must be (window, 1, 1) or ({n}, outputs) for {n} inputs, got {kernel.shape}.")
    if max(total, outputs) > MOST:
        raise ValueError(f"`x` must have at most {MOST} units in a row, got {max(total, outputs)}.")
    real = sum(0 <= i - low < n for i, _, _ in lines)
    weights = len(kernel) if kernel.ndim == 3 else kernel.size
    default = f"{n} inputs, {outputs} outputs, {real} connections, {weights} weight" + "s" * (weights != 1)
    numbers = values, None if values is None else result
    mark, title = outputs // 2 if mark is None else mark, title or default
    return _graph(lines, kernel, numbers, low=low, n=n, total=total, outputs=outputs, mark=mark, title=title)


def _graph(lines, kernel, numbers, *, low, n, total, outputs, mark, title) -> Picture:
    shared = kernel.ndim == 3
    width, height = max(total, outputs) + 4.2 + (0.6 + len(kernel) if shared else 0), 5.0
    scale = 0.5 if width <= 20 else 10 / width
    picture = Picture(max(width * scale, 5.0), height * scale + 0.25)
    axes = picture.add_axes((0, 0, 1, height * scale / (height * scale + 0.25)))
    axes.set_xlim(0, max(width, 5.0 / scale))
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    axes.set_title(title, fontsize=10, color=INK)
    left, top, bottom = 2.2, 1.0, 4.2
    # an output is drawn below the middle of its window
    middle = {
        o: np.mean([i for i, out, _ in lines if out == o]) if shared else (total - outputs) / 2 + o
        for o in range(outputs)
    }
    read = {i for i, o, _ in lines if o == mark}
    for i, o, element in sorted(lines, key=lambda line: line[1] == mark):
        colour = ELEMENTS[element % len(ELEMENTS)] if shared else (KERNEL_LINE if o == mark else "#9a9a9a")
        thick: dict[str, Any] = dict(lw=2.6, alpha=1.0) if o == mark else dict(lw=1.1, alpha=0.55)
        axes.plot(
            [left + i + 0.5, left + middle[o] + 0.5],
            [top, bottom],
            color=colour,
            zorder=1,
            solid_capstyle="round",
            **thick,
        )
    for i in range(total):
        inside = low <= i < low + n
        text = "" if numbers[0] is None else format_number(numbers[0][i - low]) if inside else "0"
        edge = INPUT_LINE if i in read and inside else "#9aa0a6"
        _unit(axes, left + i + 0.5, top, text, INPUT if inside else PADDING, edge, 2.2 if i in read and inside else 0.9)
    for o in range(outputs):
        text = "" if numbers[1] is None else format_number(numbers[1][o])
        edge = OUTPUT_LINE if o == mark else "#9aa0a6"
        _unit(axes, left + middle[o] + 0.5, bottom, text, OUTPUT, edge, 2.2 if o == mark else 0.9)
    note(axes, left - 0.2, top, "input", ha="right", color=INK)
    note(axes, left - 0.2, bottom, "output", ha="right", color=INK)
    if shared:
        x0 = left + max(total, outputs) + 0.9
        note(axes, x0, 1.75, "kernel", color=INK)
        for j, value in enumerate(kernel[:, 0, 0]):
            cell(axes, x0 + j, 2.1, format_number(value), KERNEL)
            axes.plot([x0 + j + 0.12, x0 + j + 0.88], [3.25] * 2, color=ELEMENTS[j % len(ELEMENTS)], lw=3)
    return picture


def _unit(axes: Any, x: float, y: float, text: str, colour: str, edge: str, width: float) -> None:
    axes.add_patch(Circle((x, y), 0.38, facecolor=colour, edgecolor=edge, linewidth=width, zorder=3))
    axes.text(
        x, y + 0.02, text, ha="center", va="center", size=10 * min(1.0, 3 / max(len(text), 1)), color=INK, zorder=4
    )


def channels(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    position: Sequence[int] = (0, 0),
    names: Sequence[str] = (),
    **options: Any,
) -> Picture:
    """Draw the channels of a layer: each filter convolves every channel, adds the results and a bias, and gives one
    map.

    Args:
        x: one image `(height, width, c_in)` of at most 4 channels; numbers in [0, 1] are drawn from black to white.
        kernel, bias: `(height, width, c_in, c_out)` of at most 4 filters, and None or `(c_out,)`.
        position: (row, column) of the result that is framed, together with its window on the image.
        names: names of the input channels; "red", "green" and "blue" are tinted.
        **options: options of `convlab.conv`; padding is "VALID" by default.

    Returns:
        A `Picture`: kernels and maps with both signs are blue above 0 and red below.

    Raises:
        TypeError, ValueError: as `convlab.conv`; ValueError for too many channels.

    Example:
        >>> picture = channels(jnp.ones((8, 8, 3)), jnp.ones((3, 3, 3, 2)))
        >>> [text.get_text() for text in picture.axes[0].texts if "×" in text.get_text()]
        ['input 8×8×3', '2 filters, each 3×3×3', 'output 6×6×2']
    """
    image, kernel = np.asarray(x, np.float32), np.asarray(kernel, np.float32)
    if image.ndim != 3 or kernel.ndim != 4 or not image.shape[2] == kernel.shape[2] <= 4 or kernel.shape[3] > 4:
        raise ValueError(
            f"`kernel` must be (height, width, c_in, c_out) with at most 4 of each channels, as many in as `x` has, "
            f"got {kernel.shape} and {image.shape}."
        )
    options = {"padding": "VALID"} | options
    added = None if bias is None else jnp.asarray(bias, jnp.float32)
    y = np.asarray(convlab.conv(jnp.asarray(image), jnp.asarray(kernel), added, **options))
    window = convlab.Window(
        kernel.shape[:2], options.get("strides", 1), options["padding"], options.get("kernel_dilation", 1)
    )
    corner = [p * s - low for p, s, (low, _) in zip(position, window.strides, window.pads(image.shape[:2]))]
    (kh, kw, c_in, c_out), side, step = kernel.shape, 3.4, 1.05
    rows = max(c_out * 3.4, side + (c_in - 1) * step * 0.8)
    wide, high = side + (c_in - 1) * step + 12.2, rows + 1.9
    scale = min(0.62, 9.6 / wide)
    picture = Picture(wide * scale, high * scale)
    axes = blank(picture, wide, high)
    limit, top = float(abs(kernel).max()) or 1.0, 1.2
    stack = side + (c_in - 1) * step * 0.8
    below = top + (rows - stack) / 2
    for k in range(c_in):
        x0, y0 = 0.5 + k * step, below + (c_in - 1 - k) * step * 0.8
        _plane(axes, image[..., k], x0, y0, side, 2 + k, tint=names[k] if k < len(names) else None)
        unit = side / image.shape[1]
        field = (
            x0 + corner[1] * unit,
            y0 + corner[0] * unit,
            window.effective_size[1] * unit,
            window.effective_size[0] * unit,
        )
        frame(axes, *field, KERNEL_LINE, linewidth=1.8, zorder=8)
        for across, down in ((0, 0), (1, 0), (0, 1), (1, 1)) if k else ():  # the kernel's box through all channels
            ends = field[0] + across * field[2], field[1] + down * field[3]
            axes.plot([ends[0] - step, ends[0]], [ends[1] + step * 0.8, ends[1]], color=KERNEL_LINE, lw=1, zorder=8)
        if k < len(names):
            note(axes, x0, y0 - 0.22, names[k], size=9, color=INK, zorder=9)
    right = 0.5 + (c_in - 1) * step + side
    front = (right - side + (corner[1] + kw) * side / image.shape[1], below + corner[0] * side / image.shape[1])
    small, gap = 1.25, 0.62
    bounds = float(abs(y).max()) or 1.0
    signed = bool((y < 0).any() and (y > 0).any())
    for f in range(c_out):
        y0 = top + f * rows / c_out + (rows / c_out - small - (c_in - 1) * gap * 0.8) / 2 - 0.1
        x0 = right + 1.7
        axes.plot([front[0], x0], [front[1], y0 + small], color=KERNEL_LINE, lw=1, ls=":", zorder=9)
        for k in range(c_in):
            place = x0 + k * gap, y0 + (c_in - 1 - k) * gap * 0.8
            _plane(axes, kernel[..., k, f], *place, small, 2 + k, limit=limit)
        note(axes, x0, y0 + small + (c_in - 1) * gap * 0.8 + 0.3, f"filter {f}", size=9, color=INK)
        middle, x1 = y0 + (small + (c_in - 1) * gap * 0.8) / 2, x0 + small + (c_in - 1) * gap + 0.3
        if added is not None:
            note(axes, x1 + 0.05, middle, "+", size=13, color=INK)
            cell(axes, x1 + 0.5, middle - 0.5, format_number(added[f]), KERNEL, size=10)
            note(axes, x1 + 1.0, middle + 0.8, "bias", size=9, ha="center", color=INK)
        size = min(2.7, rows / c_out - 0.7)
        x2, y2 = x1 + 2.3, middle - size / 2
        note(axes, x2 - 0.6, middle, "=", size=13, color=INK)
        _plane(axes, y[..., f], x2, y2, size, 2, limit=bounds if signed else None)
        unit = size / y.shape[1]
        mark = max(unit, 0.12)
        mark_corner = x2 + (position[1] + 0.5) * unit - mark / 2, y2 + (position[0] + 0.5) * unit - mark / 2
        frame(axes, *mark_corner, mark, mark, OUTPUT_LINE, linewidth=1.8)
        note(axes, x2 + size + 0.25, middle, f"map {f}\n{format_number(y[(*position, f)])} here", size=9, color=INK)
    for text, where in (
        (f"input {'×'.join(map(str, image.shape))}", 0.5),
        (f"{c_out} filter{'s' * (c_out > 1)}, each {kh}×{kw}×{c_in}", right + 1.7),
        (f"output {'×'.join(map(str, y.shape))}", right + 1.7 + small + (c_in - 1) * gap + 2.6),
    ):
        note(axes, where, 0.55, text, color=INK, weight="bold", size=10)
    parameters = kernel.size + (0 if added is None else added.size)
    note(
        axes,
        0.5,
        high - 0.35,
        f"{parameters} parameters; blue: above 0, red: below 0, one scale for all kernels",
        size=9,
        color=FAINT,
    )
    return picture


def _plane(
    axes: Any, array: np.ndarray, x: float, y: float, side: float, depth: float, *, limit=None, tint=None
) -> None:
    """Draw a channel as a square; with a limit, in colours from red through white to blue."""
    height = side * array.shape[0] / array.shape[1]
    place: dict[str, Any] = dict(extent=(x, x + side, y + height, y), interpolation="nearest", zorder=depth)
    bounds = axes.get_xlim(), axes.get_ylim()
    if limit is not None:
        axes.imshow(array, cmap=SIGNS, norm=Normalize(-limit, limit), aspect="auto", **place)
    elif tint in ("red", "green", "blue"):
        colours = np.zeros((*array.shape, 3))
        colours[..., ("red", "green", "blue").index(tint)] = np.clip(array, 0, 1)
        axes.imshow(colours, aspect="auto", **place)
    else:
        low, high = (0, 1) if array.min() >= 0 and array.max() <= 1 else (array.min(), array.max() + 1e-9)
        axes.imshow(array, cmap="gray", norm=Normalize(low, high), aspect="auto", **place)
    axes.set_xlim(bounds[0])
    axes.set_ylim(bounds[1])
    axes.add_patch(Rectangle((x, y), side, height, fill=False, edgecolor="#555555", linewidth=0.8, zorder=depth + 0.2))
