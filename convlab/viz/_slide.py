"""Animates a kernel that slides over the input, with the numbers, on one and two axes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import convlab

from ..typing import Ints, Padding, PaddingMode
from ._cells import (
    EMPTY,
    GROUPS,
    INK,
    INPUT,
    KERNEL,
    OUTPUT,
    OUTPUT_LINE,
    PADDING,
    WINDOW,
    Picture,
    Slideshow,
    blank,
    cell,
    format_number,
    frame,
    note,
    per_axis,
)

MOST = 400  # frames


def _image(x: Any, kernel: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return `x` as `(height, width, c)` and the kernel as `(kh, kw, i, o)`; a single axis becomes the width."""
    x, kernel = np.asarray(x, np.float32), np.asarray(kernel, np.float32)
    if kernel.ndim not in (3, 4):
        raise ValueError(
            f"`kernel` must have the axes (*window, c_in / groups, c_out) with 1 or 2 window axes, got {kernel.shape}."
        )
    rank = kernel.ndim - 2
    x = x[0] if x.ndim == rank + 2 and len(x) == 1 else x
    if x.ndim != rank + 1:
        raise ValueError(f"`x` must be one image (*spatial, c) for a kernel of shape {kernel.shape}, got {x.shape}.")
    return (x, kernel) if rank == 2 else (x[None], kernel[None])


def _flat(option: Any, rank: int, still: Any) -> Any:
    """Return an option per axis, with the one that leaves the height of a 1-D image unchanged."""
    return option if rank == 2 or isinstance(option, str) else (still, *per_axis(option, 1))


def slide(
    x: Any,
    kernel: Any,
    bias: Any = None,
    *,
    strides: Ints = 1,
    padding: Padding = "VALID",
    padding_mode: PaddingMode = "zeros",
    padding_value: float = 0,
    kernel_dilation: Ints = 1,
    feature_group_count: int = 1,
    flip_kernel: bool = False,
    names: Sequence[str] = (),
) -> Slideshow:
    """Animate `convlab.conv`: the kernel moves over the input, and each frame adds one number of the result.

    Args:
        x: one image, `(n, c)`, `(height, width, c)`, or either with a batch axis of 1 before it.
        kernel: `(*window, c_in / feature_group_count, c_out)`.
        bias: None or `(c_out,)`, added at every position of each output channel.
        strides, padding, padding_mode, padding_value, kernel_dilation, feature_group_count, flip_kernel: as in
            `convlab.conv`; one padding mode for all axes.
        names: names of the input channels, written beside them.

    Returns:
        A `Slideshow`. Padding is grey; if it repeats the input, the repeated positions are written below its numbers.
        Channels are drawn below each other, those of a group in one colour.

    Raises:
        TypeError, ValueError: as `convlab.conv`; ValueError for an image of another rank or one too large to draw.

    Example:
        >>> show = slide(jnp.arange(1.0, 7.0)[:, None], jnp.full((3, 1, 1), 2.0), padding=1)
        >>> show.frames
        6

    Source: the pictures of Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv 1603.07285.
    """
    rank = np.ndim(kernel) - 2
    options: dict[str, Any] = dict(
        strides=strides, padding=padding, padding_mode=padding_mode, padding_value=padding_value
    )
    options |= dict(kernel_dilation=kernel_dilation, feature_group_count=feature_group_count, flip_kernel=flip_kernel)
    image, taps = _image(x, kernel)
    flat = image if rank == 2 else image[0]
    added = None if bias is None else jnp.asarray(bias, jnp.float32)
    y = np.asarray(convlab.conv(jnp.asarray(flat), jnp.asarray(kernel, jnp.float32), added, **options))
    window = convlab.Window(np.shape(kernel)[:-2], strides, padding, kernel_dilation)
    pads = ((0, 0),) * (2 - rank) + window.pads(flat.shape[:-1])
    own_mode = isinstance(padding, str) and padding.upper() in ("CIRCULAR", "REFLECT")
    border: Any = str(padding).lower() if own_mode else padding_mode
    positions = np.arange(1.0, flat[..., 0].size + 1).reshape(*flat.shape[:-1], 1)
    outside = window.pads(flat.shape[:-1])

    def padded(array: np.ndarray, value: float) -> np.ndarray:
        result = np.asarray(convlab.pad(jnp.asarray(array), outside, border, value if border == "constant" else 0))
        return result if rank == 2 else result[None]

    kernel_shown = np.flip(taps, (0, 1)) if flip_kernel else taps
    scene = _Scene(
        padded(flat.astype(np.float32), padding_value),
        padded(positions, 0)[..., 0].astype(int),
        kernel_shown,
        None if added is None else np.asarray(added),
        y if rank == 2 else y[None],
        (1,) * (2 - rank) + window.strides,
        (1,) * (2 - rank) + window.dilation,
        tuple(pair[0] for pair in pads),
        image.shape[:2],
        feature_group_count,
        border,
        tuple(names),
    )
    return scene.slideshow()


def _factor(value: float) -> str:
    return format_number(value) if value >= 0 else f"({format_number(value)})"


class _Scene:
    """The layout of a convolution: padded input, kernel and result side by side (one axis: below each other)."""

    def __init__(self, x, source, kernel, bias, y, strides, dilation, low, size, groups, mode, names):
        self.x, self.source, self.kernel, self.bias, self.y = x, source, kernel, bias, y
        self.strides, self.dilation, self.low, self.size, self.groups, self.mode = (
            strides,
            dilation,
            low,
            size,
            groups,
            mode,
        )
        self.flat, self.names = len(x) == 1, names
        if x.size > 600 or y.size > MOST:
            raise ValueError(f"`x` must have at most 600 numbers and a result of {MOST}, got {x.size} and {y.size}.")

    def slideshow(self) -> Slideshow:
        wide, high = self._extent()
        scale = 0.52 if wide <= 22 else 11.5 / wide
        picture = Picture(max(6.0, wide * scale), high * scale)
        size = "×".join(map(str, self.kernel.shape[1 if self.flat else 0 : 2]))
        alt = f"a kernel of size {size} moves over the input, {self.y.size} frames"
        return Slideshow(picture, lambda number: self.draw(picture, number), self.y.size, alt=alt)

    def _extent(self) -> tuple[float, float]:
        (h, w, c), (kh, kw, i, _), (oh, ow, o) = self.x.shape, self.kernel.shape, self.y.shape
        if self.flat:
            return max(w, ow + 2, kw, 10) + 5.2, 1.1 * (c + i + o + self._biased) + 2.5 + (0.4 if self._padded else 0)
        rows = max(c * (h + 0.6), i * (kh + 0.6) + 2.2 * self._biased, o * (oh + 0.6))
        return w + kw + ow + 6.0, rows + 2.2

    @property
    def _biased(self) -> bool:
        return self.bias is not None

    @property
    def _padded(self) -> bool:
        return self.x.shape[:2] != tuple(self.size)

    def positions(self, number: int) -> tuple[int, int, int]:
        """Return row, column and channel of the result that each frame computes, channel after channel."""
        oh, ow, o = self.y.shape
        channel, rest = divmod(number, oh * ow)
        return rest // ow, rest % ow, channel

    def draw(self, picture: Picture, number: int) -> None:
        wide, high = self._extent()
        axes = blank(picture, max(wide, 6.0 / (0.52 if wide <= 22 else 11.5 / wide)), high)
        (self._draw_flat if self.flat else self._draw_square)(axes, number)

    def _real(self, row: int, column: int) -> bool:
        (top, left), (height, width) = self.low, self.size
        return 0 <= row - top < height and 0 <= column - left < width

    def _colour(self, row: int, column: int, group: int) -> str:
        return (GROUPS[group % len(GROUPS)] if self.groups > 1 else INPUT) if self._real(row, column) else PADDING

    def _input(self, axes, x0, y0, channel, small=False) -> None:
        group = channel // (self.x.shape[2] // self.groups)
        for (row, column), value in np.ndenumerate(self.x[:, :, channel]):
            real = self._real(row, column)
            options = {} if real else dict(hatch="///", edgecolor="#bdbdbd")
            cell(
                axes,
                x0 + column,
                y0 + row,
                format_number(value),
                self._colour(row, column, group),
                size=11 if small else 12,
                **options,
            )

    def _taps(self, number: int):
        """Return (kernel row, kernel column, input row, input column) of every tap of a frame."""
        row, column, _ = self.positions(number)
        kh, kw = self.kernel.shape[:2]
        for a, b in itertools.product(range(kh), range(kw)):
            yield a, b, row * self.strides[0] + a * self.dilation[0], column * self.strides[1] + b * self.dilation[1]

    def _group_channels(self, number: int) -> range:
        in_channels = self.kernel.shape[2]
        group = self.positions(number)[2] // (self.y.shape[2] // self.groups)
        return range(group * in_channels, (group + 1) * in_channels)

    def _sum(self, number: int) -> str:
        row, column, channel = self.positions(number)
        first = self._group_channels(number)[0]
        terms = [
            f"{_factor(self.kernel[a, b, k - first, channel])}·{_factor(self.x[r, c, k])}"
            for k in self._group_channels(number)
            for a, b, r, c in self._taps(number)
        ]
        if len(terms) > 9:
            terms = [*terms[:4], "…", *terms[-2:]]
        if self._biased:
            terms.append(_factor(self.bias[channel]))
        return " + ".join(terms) + f" = {format_number(self.y[row, column, channel])}"

    def _draw_flat(self, axes, number: int) -> None:
        (_, _, c), (_, kw, i, _), (_, ow, o) = self.x.shape, self.kernel.shape, self.y.shape
        _, column, channel = self.positions(number)
        left, top = 3.6, 0.5
        used, start = self._group_channels(number), column * self.strides[1]
        effective_size = (kw - 1) * self.dilation[1] + 1
        for k in range(c):
            self._input(axes, left, top + 1.1 * k, k)
            label = self.names[k] if k < len(self.names) else "input" if c == 1 else f"input {k}"
            note(axes, left - 0.25, top + 1.1 * k + 0.5, label, ha="right", color=INK)
        frame(axes, left + start, top + 1.1 * used[0] - 0.05, effective_size, 1.1 * len(used))
        bottom = top + 1.1 * c
        if self._padded:
            self._sources(axes, left, bottom + 0.12)
            bottom += 0.4
        bottom += 0.3
        for k in range(i):
            y = bottom + 1.1 * k
            label = (
                "kernel" if i == 1 and o == 1 else f"kernel {channel}" if i == 1 else f"kernel {channel}, in {used[k]}"
            )
            note(axes, left - 0.25, y + 0.5, label, ha="right", color=INK)
            for tap in range(kw):
                cell(
                    axes,
                    left + start + tap * self.dilation[1],
                    y,
                    format_number(self.kernel[0, tap, k, channel]),
                    KERNEL,
                )
            if self.dilation[1] > 1:
                for tap in range(kw - 1):
                    axes.plot(
                        [left + start + tap * self.dilation[1] + 1, left + start + (tap + 1) * self.dilation[1]],
                        [y + 0.5] * 2,
                        color=WINDOW,
                        lw=1,
                        ls=":",
                    )
        bottom += 1.1 * i
        if self._biased:
            note(axes, left - 0.25, bottom + 0.5, "bias" if o == 1 else f"bias {channel}", ha="right", color=INK)
            cell(axes, left + column, bottom, format_number(self.bias[channel]), KERNEL)
            bottom += 1.1
        bottom += 0.55
        for k in range(o):
            y = bottom + 1.1 * k
            note(axes, left - 0.25, y + 0.5, "output" if o == 1 else f"output {k}", ha="right", color=INK)
            for position in range(ow):
                done = k * ow + position <= number
                group = k // (o // self.groups)
                colour = (GROUPS[group % len(GROUPS)] if self.groups > 1 else OUTPUT) if done else EMPTY
                cell(axes, left + position, y, format_number(self.y[0, position, k]) if done else "", colour)
        frame(axes, left + column, bottom + 1.1 * channel, 1, 1, OUTPUT_LINE)
        note(axes, left, bottom + 1.1 * o + 0.6, self._sum(number), color=WINDOW, size=12, weight="bold")

    def _sources(self, axes, x0: float, y: float) -> None:
        """Draw beneath the padding the positions that it repeats."""
        for column, position in enumerate(self.source[0]):
            if not self._real(0, column):
                text = "pad" if position == 0 else f"x{position - 1}"
            else:
                text = f"x{position - 1}"
            note(axes, x0 + column + 0.5, y, text, ha="center", size=8.5)
        note(axes, x0 - 0.25, y, f"padding: {self.mode}", ha="right", size=8.5)

    def _draw_square(self, axes, number: int) -> None:
        (h, w, c), (kh, kw, i, _), (oh, ow, o) = self.x.shape, self.kernel.shape, self.y.shape
        row, column, channel = self.positions(number)
        used, top = self._group_channels(number), 1.3
        middle, right = 1.0 + w + 1.5, 1.0 + w + 1.5 + kw + 1.5
        title = f"input (padding: {self.mode})" if self._padded else "input"
        note(axes, 1.0, 0.65, title, color=INK)
        note(axes, middle + kw / 2, 0.65, "kernel" if o == 1 else f"kernel {channel}", color=INK, ha="center")
        note(axes, right, 0.65, "output", color=INK)
        for k in range(c):
            y = top + k * (h + 0.6)
            self._input(axes, 1.0, y, k, small=True)
            if k < len(self.names):
                note(axes, 0.8, y + h / 2, self.names[k], color=INK, ha="right", rotation=90)
            if k in used:
                for a, b, r, s in self._taps(number):
                    frame(axes, 1.0 + s, y + r, 1, 1, linewidth=1.6, fill=True, facecolor="#ffe3bf", zorder=2)
                    weight = format_number(self.kernel[a, b, k - used[0], channel])
                    note(axes, 1.0 + s + 0.95, y + r + 0.84, f"×{weight}", size=8, ha="right", color=WINDOW, zorder=5)
        for k in range(i):
            y = top + k * (kh + 0.6)
            if used[k] < len(self.names):
                note(axes, middle - 0.2, y + kh / 2, self.names[used[k]], color=INK, ha="right", rotation=90)
            for (a, b), value in np.ndenumerate(self.kernel[:, :, k, channel]):
                cell(axes, middle + b, y + a, format_number(value), KERNEL)
        if self._biased:
            y = top + i * (kh + 0.6) + 0.5
            note(axes, middle + kw / 2, y, "bias" if o == 1 else f"bias {channel}", color=INK, ha="center")
            cell(axes, middle + kw / 2 - 0.5, y + 0.5, format_number(self.bias[channel]), KERNEL)
        for k in range(o):
            y = top + k * (oh + 0.6)
            for (r, s), value in np.ndenumerate(self.y[:, :, k]):
                done = k * oh * ow + r * ow + s <= number
                cell(axes, right + s, y + r, format_number(value) if done else "", OUTPUT if done else EMPTY, size=11)
        frame(axes, right + column, top + channel * (oh + 0.6) + row, 1, 1, OUTPUT_LINE)
        note(axes, 1.0, self._extent()[1] - 0.55, self._sum(number), color=WINDOW, size=11, weight="bold")
