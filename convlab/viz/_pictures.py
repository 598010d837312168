"""Pictures of arrays: images, filters and the matrix of a convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

import convlab

from ._cells import SIGNS, Picture, format_number


def images(
    arrays: Sequence[Any],
    titles: Sequence[str] = (),
    *,
    columns: int = 6,
    signed: bool | None = None,
    shared_scale: bool = True,
    size: float = 1.7,
) -> Picture:
    """Draw images beside each other, each with its title.

    Args:
        arrays: `(height, width)`, `(height, width, 1)` or, in [0, 1], `(height, width, 3)`.
        titles: a title for each image.
        columns: the number of images in a row.
        signed: red for negative and blue for positive numbers, white for 0; None decides by whether there are both.
        shared_scale: whether all signed images share one scale, with a colour bar; otherwise each has a separate one.
            Grey images go from their smallest number, black, to their largest, white.
        size: the size of an image in inches.

    Returns:
        A `Picture`.

    Raises:
        ValueError: no arrays, or an array that is not an image.

    Example:
        >>> [axes.get_title() for axes in images([jnp.eye(3), jnp.eye(3)], ["one", "two"]).axes]
        ['one', 'two']
    """
    arrays = [np.asarray(a) for a in arrays]
    bad = next((a.shape for a in arrays if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[2] not in (1, 3))), None)
    if not arrays or bad is not None:
        raise ValueError(f"`arrays` must be images (height, width), perhaps with 1 or 3 channels, got {bad or 'none'}.")
    columns = min(columns, len(arrays))
    rows = math.ceil(len(arrays) / columns)
    ratio = max(a.shape[0] / a.shape[1] for a in arrays)
    # Short titles fit above an image; longer ones need a wider image.
    size = max([size, *(0.085 * len(line) for title in titles for line in title.split("\n"))])
    lines = max([title.count("\n") + 1 for title in titles], default=0)
    coloured = [_signed(a, signed) for a in arrays]
    limit = max([_limit(a) for a, both in zip(arrays, coloured) if both], default=1.0) if shared_scale else None
    bar = 0.75 if any(coloured) and shared_scale else 0.0
    height = rows * (size * min(ratio, 2) + 0.2 * lines + 0.1)
    picture = Picture(max(columns * size + bar, 2.0), height, layout="constrained")
    grid = []
    for i, array in enumerate(arrays):
        grid.append(picture.add_subplot(rows, columns, i + 1))
        _image(grid[-1], array, coloured[i], limit)
        if i < len(titles):
            grid[-1].set_title(titles[i], fontsize=9)
    if bar:
        colour_bar(picture, grid[coloured.index(True)].images[0], grid, height)
    return picture


def colour_bar(picture: Picture, mappable: Any, axes: Any, height: float, label: str = "") -> None:
    """Draw a colour bar beside some axes, with few round numbers."""
    shrink = min(1.0, 2.2 / height)
    bar = picture.colorbar(
        mappable, ax=axes, shrink=shrink, aspect=max(12 * min(height, 2.2) / 1.6, 8), pad=0.02, label=label
    )
    bar.locator = MaxNLocator(4)
    bar.formatter = FuncFormatter(lambda value, _: format_number(value))
    bar.update_ticks()
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_linewidth(0.5)  # type: ignore[operator]


def _signed(array: np.ndarray, signed: bool | None) -> bool:
    if array.ndim == 3 and array.shape[2] == 3:
        return False
    return bool((array < 0).any() and (array > 0).any()) if signed is None else signed


def _limit(array: np.ndarray) -> float:
    return float(np.nanmax(abs(array))) or 1.0


def _image(axes: Any, array: np.ndarray, signed: bool | None = None, limit: float | None = None) -> None:
    both = _signed(array, signed)
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    limit = limit or _limit(array)
    axes.set_facecolor("#a8a8a8")  # shows through where the array is NaN
    options: dict[str, Any] = dict(cmap=SIGNS, vmin=-limit, vmax=limit) if both else dict(cmap="gray")
    axes.imshow(array, interpolation="nearest", **({} if array.ndim == 3 else options))
    axes.set_xticks([])
    axes.set_yticks([])


def filters(kernel: Any, *, most: int = 32, shared_scale: bool = True) -> Picture:
    """Draw the filters of a convolution, one picture for each output channel.

    Args:
        kernel: `(width, c_in, c_out)` or `(height, width, c_in, c_out)`. A filter with three input channels is drawn
            in colours (grey is 0, and the filter responds to the colours that it shows); with any other number, each
            channel is a tile, row by row.
        most: the largest number of output channels that are drawn.
        shared_scale: whether all filters share one scale, with a colour bar; otherwise each has a separate one.

    Returns:
        A `Picture`: blue kernel elements are positive, red ones negative, white is 0.

    Raises:
        ValueError: a kernel of another rank.

    Example:
        >>> picture = filters(jnp.ones((5, 5, 1, 6)))
        >>> [axes.get_title() for axes in picture.axes[:2]]
        ['filter 0', 'filter 1']
    """
    kernel = np.asarray(kernel, np.float32)
    if kernel.ndim not in (3, 4):
        raise ValueError(
            f"`kernel` must have the axes (*window, c_in, c_out) with 1 or 2 window axes, got {kernel.shape}."
        )
    kernel = kernel[None] if kernel.ndim == 3 else kernel
    drawn = range(min(kernel.shape[-1], most))
    titles = [f"filter {o}" for o in drawn]
    if kernel.shape[2] == 3:
        limits = [_limit(kernel if shared_scale else kernel[..., o]) for o in drawn]
        return images([kernel[..., o] / (2 * limits[o]) + 0.5 for o in drawn], titles, columns=8, size=1.1)
    tiles = [_mosaic(kernel[..., o]) for o in drawn]
    return images(tiles, titles, columns=8, signed=True, size=1.1, shared_scale=shared_scale)


def _mosaic(kernel: np.ndarray) -> np.ndarray:
    """Arrange the input channels of `(height, width, c)` as tiles, row by row, with a line of NaN between them."""
    height, width, channels = kernel.shape
    columns = math.ceil(math.sqrt(channels * height / width))
    rows = math.ceil(channels / columns)
    mosaic = np.full((rows * (height + 1), columns * (width + 1)), np.nan, np.float32)
    for c in range(channels):
        y, x = c // columns * (height + 1), c % columns * (width + 1)
        mosaic[y : y + height, x : x + width] = kernel[..., c]
    return mosaic[:-1, :-1]


def matrix(kernel: Any, input_shape: Sequence[int], *, numbers: bool | None = None, **options: Any) -> Picture:
    """Draw the matrix of a convolution, `convlab.conv_matrix`: input positions to the right, output positions
    downwards.

    Args:
        kernel: `(*window, c_in / groups, c_out)`.
        input_shape: `(*spatial, c_in)`.
        numbers: whether to write the entries; None writes them where there is space.
        **options: options of `convlab.conv_matrix`.

    Returns:
        A `Picture`: blue entries are positive, red ones negative, white ones 0.

    Raises:
        TypeError, ValueError: as `convlab.conv_matrix`.

    Example:
        >>> matrix(jnp.ones((3, 1, 1)), (6, 1)).axes[0].get_title()
        'matrix of the convolution, 6 × 6'
    """
    entries = np.asarray(convlab.conv_matrix(jnp.asarray(kernel, jnp.float32), tuple(input_shape), **options))
    rows, columns = entries.shape
    numbers = max(rows, columns) <= 16 if numbers is None else numbers
    scale = 0.42 if numbers else min(0.2, 6 / max(rows, columns))
    wide, high = columns * scale + (1.2 if numbers else 1.8), rows * scale + 1.0
    picture = Picture(max(3.6, wide), max(2.0, high), layout="constrained")
    axes = picture.add_subplot()
    limit = float(abs(entries).max()) or 1.0
    drawn = axes.imshow(entries, cmap=SIGNS, vmin=-1.6 * limit, vmax=1.6 * limit, interpolation="nearest")
    axes.set(xlabel="position of the input", ylabel="position of the output")
    axes.set_title(f"matrix of the convolution, {rows} × {columns}", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if numbers:
        for (row, column), value in np.ndenumerate(entries):
            if value:
                axes.text(column, row, format_number(value), ha="center", va="center", size=9)
    else:
        drawn.set_clim(-limit, limit)
        colour_bar(picture, drawn, axes, picture.get_figheight())
    return picture
