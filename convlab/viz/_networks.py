"""Pictures of models: feature maps, receptive fields, and the shapes of a network's layers as blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Polygon, Rectangle

from convlab.analysis import activations, analyze, influence

from ._cells import INK, INPUT, INPUT_LINE, OUTPUT, OUTPUT_LINE, Picture, blank, note
from ._pictures import _image, _limit, _signed, colour_bar


def _pixels(x: Any) -> np.ndarray:
    """Return the first image of a batch as matplotlib draws it: in grey, or in colour within [0, 1]."""
    image = np.asarray(x, np.float32)[0]
    image = image if image.shape[-1] in (1, 3) else image[..., :1]
    low, high = float(image.min()), float(image.max())
    return (image - low) / (high - low or 1)


def feature_maps(
    model: Any,
    x: Any,
    *,
    layers: Sequence[str] | None = None,
    most: int = 8,
    shared_scale: bool = True,
    variables: Any = None,
    **kwargs: Any,
) -> Picture:
    """Draw the results of a model's layers for an image: a row for each layer, a map for each of its first channels.

    Args:
        model, variables, kwargs: as in `convlab.analysis.activations`.
        x: `(n, height, width, c)`; the first image is drawn.
        layers: paths of layers; None takes all whose results are images.
        most: the largest number of channels that are drawn of a layer.
        shared_scale: whether the maps of a layer share one scale, with a colour bar; otherwise each has a separate one.

    Returns:
        A `Picture`. A layer with numbers of both signs is red below 0 and blue above, others are grey.

    Raises:
        ValueError: a path that the model does not have, or nothing to draw.

    Example:
        >>> from convlab import conv
        >>> picture = feature_maps(lambda x: conv(x, jnp.ones((3, 3, 1, 2))), jnp.ones((1, 8, 8, 1)))
        >>> picture.axes[0].get_ylabel()
        'conv\\n8×8×2'
    """
    found = {path: a for path, a in activations(model, x, variables=variables, **kwargs).items() if a.ndim == 4}
    chosen = list(found) if layers is None else list(layers)
    missing = [path for path in chosen if path not in found]
    if missing or not chosen:
        raise ValueError(f"`layers` must be among {', '.join(found) or 'none'}, got {missing or chosen}.")
    columns = min(most, max(found[path].shape[-1] for path in chosen))
    picture = Picture(1.2 * columns + 1.5, 1.2 * len(chosen) + 0.1, layout="constrained")
    for row, path in enumerate(chosen):
        maps = np.asarray(found[path][0], np.float32)[..., :columns]
        signed, grid = _signed(maps[..., :1] if maps.shape[-1] == 1 else maps.reshape(len(maps), -1), None), []
        for channel in range(maps.shape[-1]):
            grid.append(picture.add_subplot(len(chosen), columns, row * columns + channel + 1))
            _image(grid[-1], maps[..., channel], signed, _limit(maps) if shared_scale else None)
            if shared_scale and not signed:
                grid[-1].images[0].set_clim(float(maps.min()), float(maps.max()))
        grid[0].set_ylabel(f"{path}\n{'×'.join(map(str, found[path].shape[1:]))}", fontsize=9)
        if shared_scale:
            for column in range(len(grid), columns):  # the bars of all rows are in one column
                grid.append(picture.add_subplot(len(chosen), columns, row * columns + column + 1))
                grid[-1].set_axis_off()
            colour_bar(picture, grid[0].images[0], grid, 1.2)
    return picture


def receptive_field(
    model: Any, x: Any, layer: str, position: Sequence[int], *, variables: Any = None, **kwargs: Any
) -> Picture:
    """Draw the receptive field of one position of a layer: the theoretical one as a frame, the gradient as colour.

    Args:
        model, variables, kwargs: as in `convlab.analysis.activations`.
        x: `(n, height, width, c)`; the first image is drawn.
        layer: the path of the layer.
        position: (row, column) in its result; `()` for a layer without spatial axes.

    Returns:
        A `Picture`: the layer's mean map with the position, and the image with the receptive field.

    Raises:
        ValueError: a path or position that the model does not have.

    Example:
        >>> from convlab import conv
        >>> picture = receptive_field(lambda x: conv(x, jnp.ones((3, 3, 1, 1))), jnp.ones((1, 8, 8, 1)), "conv", (4, 4))
        >>> picture.axes[1].get_title()
        'receptive field: 3 × 3 of the input'
    """
    x = x[:1]
    field = analyze(model, x, variables=variables, **kwargs)[layer].field
    if field is None or len(field.size) != 2:
        raise ValueError(f"`layer` must depend on an image with 2 spatial axes, got {layer!r}.")
    heat = influence(lambda x: activations(model, x, variables=variables, **kwargs)[layer], x, position)
    result = np.asarray(activations(model, x, variables=variables, **kwargs)[layer])[0].mean(-1)
    picture = Picture(8.4, 3.5, layout="constrained")
    left, right = picture.subplots(1, 2)
    _image(left, np.atleast_2d(result))
    colour_bar(picture, left.images[0], left, 3.5)
    left.set_title(f"{layer}, mean of its channels", fontsize=10)
    if len(position) == 2:
        left.add_patch(
            Rectangle((position[1] - 0.5, position[0] - 0.5), 1, 1, fill=False, edgecolor=OUTPUT_LINE, linewidth=2.5)
        )
    _image(right, _pixels(x))
    strength = np.asarray(heat) / (float(heat.max()) or 1)
    amber = LinearSegmentedColormap.from_list("influence", [(1, 0.6, 0, 0), (1, 0.6, 0, 0.85)])
    drawn = right.imshow(strength, cmap=amber, vmin=0, vmax=1, interpolation="nearest")
    colour_bar(picture, drawn, right, 3.7, "share of the largest gradient")
    rows, columns = field.at(position or (0, 0), x.shape[1:3])
    corner = columns.start - 0.5, rows.start - 0.5
    width, height = columns.stop - columns.start, rows.stop - rows.start
    right.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=INPUT_LINE, linewidth=2.5, clip_on=False))
    right.set_title(f"receptive field: {height} × {width} of the input", fontsize=10)
    return picture


def shapes(model: Any, x: Any, *, variables: Any = None, columns: int = 8, **kwargs: Any) -> Picture:
    """Draw the shapes of a network's layers as blocks: height and width by square root, channels by logarithm.

    Args:
        model, x, variables, kwargs: as in `convlab.analysis.analyze`.
        columns: the number of blocks in a row.

    Returns:
        A `Picture` with a block for the input and for the result of every layer, its name, shape and parameters below.

    Raises:
        TypeError, ValueError: as `analyze`.

    Example:
        >>> from convlab import conv
        >>> texts = shapes(lambda x: conv(x, jnp.ones((3, 3, 1, 4))), jnp.ones((1, 8, 8, 1))).axes[0].texts
        >>> [text.get_text() for text in texts][:4]
        ['input', '8×8×1', 'conv', '8×8×4']
    """
    found = analyze(model, jax.ShapeDtypeStruct(x.shape, x.dtype), variables=variables, **kwargs)
    blocks = [("input", tuple(x.shape[1:]), 0)]
    blocks += [(layer.path, layer.output_shape[1:], layer.parameters) for layer in found.layers if layer.output_shape]
    rows, slot, height = math.ceil(len(blocks) / columns), 1.45, 2.75
    columns = math.ceil(len(blocks) / rows)
    picture = Picture(columns * slot + 0.3, rows * height)
    axes = blank(picture, columns * slot + 0.3, rows * height)
    largest = math.sqrt(max((n for _, shape, _ in blocks for n in shape[:-1]), default=1))
    for i, (name, shape, parameters) in enumerate(blocks):
        x0, y0 = 0.15 + i % columns * slot + slot / 2, i // columns * height
        _block(axes, x0, y0 + 1.05, shape, largest, INPUT if i == 0 else OUTPUT)
        note(axes, x0, y0 + 2.03, name, ha="center", size=9, color=INK, weight="bold")
        note(axes, x0, y0 + 2.26, "×".join(map(str, shape)), ha="center", size=9, color=INK)
        if parameters:
            note(axes, x0, y0 + 2.49, f"{parameters:,} parameters", ha="center", size=7.5)
        if i % columns:
            axes.annotate(
                "",
                (x0 - slot / 2 + 0.12, y0 + 1.05),
                (x0 - slot / 2 - 0.12, y0 + 1.05),
                arrowprops=dict(arrowstyle="->", color="#999999"),
            )
    return picture


def _block(axes: Any, x: float, y: float, shape: Sequence[int], largest: float, colour: str) -> None:
    """Draw a box around (x, y) in side view: channels to the right, width into the depth; a vector is a bar."""
    *spatial, channels = shape
    depth = 0.10 + 0.055 * math.log2(channels + 1)
    tall = 1.15 * math.sqrt(spatial[0]) / largest if spatial else 0.12 + 0.1 * math.log2(channels + 1)
    deep = 0.42 * math.sqrt(spatial[1]) / largest if len(spatial) > 1 else 0.05
    depth = depth if spatial else 0.12
    left, top = x - (depth + deep) / 2, y - (tall - 0.6 * deep) / 2
    line: dict[str, Any] = dict(edgecolor="#666666", linewidth=0.8)
    axes.add_patch(Rectangle((left, top), depth, tall, facecolor=colour, **line))
    up = 0.6 * deep
    axes.add_patch(
        Polygon(
            [(left, top), (left + deep, top - up), (left + depth + deep, top - up), (left + depth, top)],
            facecolor=colour,
            alpha=0.75,
            **line,
        )
    )
    side = [
        (left + depth, top),
        (left + depth + deep, top - up),
        (left + depth + deep, top + tall - up),
        (left + depth, top + tall),
    ]
    axes.add_patch(Polygon(side, facecolor=colour, alpha=0.55, **line))
