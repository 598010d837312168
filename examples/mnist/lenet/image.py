"""Converts an image file to the 28x28 bytes that the network reads."""

from __future__ import annotations

import io
import pathlib
import warnings

import numpy as np

from .data import SIZE
from .errors import UserError, explained


def read(path: pathlib.Path, written: bool) -> np.ndarray:
    """Read an image file of any size as `(28, 28)` uint8, light on dark.

    A picture with a light border is inverted. A picture of 28x28 is not scaled. If `written`, a larger picture shows a
    digit, which is cut out, scaled to 20 pixels and centred by its mass as in MNIST; otherwise the whole picture is
    scaled.

    Raises:
        UserError: the file is missing, is no image, or shows nothing.
    """
    pixels = _open(path)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if np.median(border) > 127:
        pixels = 255 - pixels
    if pixels.shape == (SIZE, SIZE):
        return pixels
    if not written:
        return _scale(pixels, (SIZE, SIZE))
    return centred(pixels, path)


def centred(pixels: np.ndarray, path: pathlib.Path | str = "the drawing") -> np.ndarray:
    """Center the digit in `pixels`, light on dark, in a frame of `(28, 28)` as MNIST does.

    Raises:
        UserError: the picture is blank.
    """
    return _centre(_cut_out(pixels, path))


def _open(path: pathlib.Path) -> np.ndarray:
    from PIL import Image

    with explained(f"cannot read {path}"):
        content = path.read_bytes()
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            layers = image.convert("RGBA")
            # A transparent pixel has the colour of the paper.
            paper = Image.new("RGBA", layers.size, "white")
            return np.asarray(Image.alpha_composite(paper, layers).convert("L"))
    except Exception as error:  # Pillow's decoders raise a dozen kinds for damaged files
        raise UserError(f"{path} is no readable image ({type(error).__name__}); PNG or JPEG would do") from error


def _cut_out(pixels: np.ndarray, path: pathlib.Path | str) -> np.ndarray:
    ink = pixels > max(32, pixels.max() // 3)
    if not ink.any():
        raise UserError(f"{path} shows no digit: the picture is blank")
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _centre(digit: np.ndarray, box: int = 20) -> np.ndarray:
    scale = box / max(digit.shape)
    height, width = (max(1, round(side * scale)) for side in digit.shape)
    digit = _scale(digit, (height, width))
    weight = digit.sum() or 1
    row = (digit.sum(1) * np.arange(height)).sum() / weight
    column = (digit.sum(0) * np.arange(width)).sum() / weight
    middle = (SIZE - 1) / 2
    top, left = round(np.clip(middle - row, 0, SIZE - height)), round(np.clip(middle - column, 0, SIZE - width))
    return np.pad(digit, ((top, SIZE - height - top), (left, SIZE - width - left)))


def _scale(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BOX))
