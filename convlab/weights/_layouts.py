"""The mapping between the leaves of a model and the entries of a state dict, with the order of axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Path = tuple[str, ...]
ENTRIES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "negative_slope": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
SHAPES = {"negative_slope": (-1,), "layer_scale": (-1, 1, 1)}  # shapes of entries that differ from those of the leaves
NORMED = {"kernel": "parametrizations.weight.original1", "scale": "parametrizations.weight.original0"}


class Layouts:
    """The mapping between leaves and entries, with the order of axes.

    Args:
        leaves: leaves by path; only their shapes are used.
        names, flattened, mirrored, renamed: as in `from_torch`, `renamed` as its `leaves`.
    """

    def __init__(
        self,
        leaves: Mapping[Path, Any],
        names: Mapping[str, str] | Callable[[str], str] | None,
        flattened: Mapping[str, Sequence[int] | None] | None,
        mirrored: Mapping[str, int],
        renamed: Mapping[str, Any] | None,
    ):
        self.rename = names if callable(names) else None
        self.names: Mapping[str, str] = {} if callable(names) else names or {}
        self.flattened, self.mirrored, self.renamed = flattened or {}, mirrored, renamed or {}
        kernels = {path[:-1]: len(leaf.shape) for path, leaf in leaves.items() if path[-1] == "kernel"}
        self.normed = {module: ndim for module, ndim in kernels.items() if (*module, "scale") in leaves}
        modules = {".".join(path[:-1]) for path in leaves}
        known = {".".join(path[:n]) for path in leaves for n in range(len(path))}
        ends = {path[-1] for path in leaves} | {".".join(path) for path in leaves}
        for option, paths, allowed, listed in (
            ("names", self.names, known, modules),
            ("flattened", self.flattened, modules, modules),
            ("mirrored", self.mirrored, modules, modules),
            ("leaves", self.renamed, ends, ends),
        ):
            for path in paths:
                if path not in allowed:
                    raise ValueError(f"`{option}` must name paths of `model`, got {path!r}. It has {sorted(listed)}.")

    def module(self, path: Path) -> str:
        """Return the path in PyTorch of the module at `path`."""
        if self.rename:
            return self.rename(".".join(path))
        for n in range(len(path), -1, -1):
            begin = ".".join(path[:n])
            if begin in self.names:
                return ".".join(filter(None, [self.names[begin], *path[n:]]))
        return ".".join(path)

    def entry(self, path: Path) -> str:
        """Return the name of the entry of the leaf at `path`."""
        *_, leaf = path
        name, _ = self._renamed(path)
        name = name or (NORMED.get(leaf) if path[:-1] in self.normed else None) or ENTRIES.get(leaf, leaf)
        return ".".join(filter(None, [self.module(path[:-1]), name]))

    def _renamed(self, path: Path) -> tuple[str | None, tuple[int, ...] | None]:
        """Return the name and shape of the entry of a leaf, from `leaves` by path or last name."""
        said = self.renamed.get(".".join(path), self.renamed.get(path[-1]))
        if said is None or isinstance(said, str):
            return said, None
        name, shape = said
        return name, tuple(shape)

    def array(self, path: Path, entry: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Convert an entry of a state dict to a leaf, reshaped to the given shape if possible."""
        if path[-1] == "kernel":
            return self._kernel(path, entry)
        same = [n for n in entry.shape if n != 1] == [n for n in shape if n != 1]
        return entry.reshape(shape) if same else entry

    def tensor(self, path: Path, leaf: np.ndarray) -> np.ndarray:
        """Convert a leaf to an entry."""
        if path[-1] == "kernel":
            return self._weight(path, leaf)
        if path[-1] == "scale" and path[:-1] in self.normed:
            return leaf.reshape(-1, *(1,) * (self.normed[path[:-1]] - 1))
        _, shape = self._renamed(path)
        shape = shape or SHAPES.get(path[-1])
        return leaf if shape is None else leaf.reshape(shape)

    def _kernel(self, path: Path, weight: np.ndarray) -> np.ndarray:
        module = ".".join(path[:-1])
        if weight.ndim == 2:
            return from_channels_first(weight, self.flattened.get(module)).T
        if module in self.mirrored:
            return mirror(weight, self.mirrored[module])
        return np.moveaxis(weight, (0, 1), (-1, -2)) if weight.ndim > 2 else weight

    def _weight(self, path: Path, kernel: np.ndarray) -> np.ndarray:
        module = ".".join(path[:-1])
        if kernel.ndim == 2:
            return to_channels_first(kernel.T, self.flattened.get(module))
        if module in self.mirrored:
            return unmirror(kernel, self.mirrored[module])
        return np.moveaxis(kernel, (-1, -2), (0, 1)) if kernel.ndim > 2 else kernel


def from_channels_first(weight: np.ndarray, image: Sequence[int] | None) -> np.ndarray:
    """Reorder `(out, c * positions)` to `(out, positions * c)`, for an image `(*spatial, c)`."""
    if image is None:
        return weight
    *spatial, c = _checked(image, weight)
    return np.moveaxis(weight.reshape(-1, c, *spatial), 1, -1).reshape(weight.shape)


def to_channels_first(weight: np.ndarray, image: Sequence[int] | None) -> np.ndarray:
    """Invert `from_channels_first`."""
    if image is None:
        return weight
    return np.moveaxis(weight.reshape(-1, *_checked(image, weight)), -1, 1).reshape(weight.shape)


def _checked(image: Sequence[int], weight: np.ndarray) -> Sequence[int]:
    if math.prod(image) != weight.shape[1]:
        raise ValueError(f"`flattened` must be shapes (*spatial, c) of {weight.shape[1]} numbers, got {tuple(image)}.")
    return image


def mirror(weight: np.ndarray, groups: int) -> np.ndarray:
    """Reorder `(in, out / g, *window)` to `(*window, in / g, out)` with reversed taps."""
    window = weight.shape[2:]
    grouped = np.flip(weight, tuple(range(2, weight.ndim))).reshape(groups, -1, *weight.shape[1:])
    return np.moveaxis(grouped, (1, 0, 2), (-3, -2, -1)).reshape(*window, weight.shape[0] // groups, -1)


def unmirror(kernel: np.ndarray, groups: int) -> np.ndarray:
    """Invert `mirror`."""
    *window, inputs, outputs = kernel.shape
    grouped = np.moveaxis(kernel.reshape(*window, inputs, groups, outputs // groups), (-3, -2, -1), (1, 0, 2))
    return np.flip(grouped.reshape(groups * inputs, outputs // groups, *window), tuple(range(2, kernel.ndim)))
