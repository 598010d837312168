"""What the backend makes of each window primitive: a table per platform, read from top to bottom."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ..formulations import batch_vectorized
from ..formulations.base import VECTOR
from ..tables import Target
from . import tpu, windows
from .axis import Axis, axes_of

Array = jax.Array
Row = tuple[str, str, Callable[[Sequence[Axis], tuple[int, ...], Target], bool]]
# A formulation of a window primitive: (operands, parameters) -> result; None leaves it to XLA as it is written.
Body = Callable[..., Array] | None


def _by_windows(reduction: Callable[..., Array], *arrays: Array, params: dict, **options: Any) -> Array:
    return reduction(*arrays, axes_of(arrays[0].shape, params), **options)


def _by_batch(reduction: Callable[..., Array], *arrays: Array, params: dict, **options: Any) -> Array:
    """The images lie along the vectors, as in the convolutions that are neighbours of such a pool."""
    found = axes_of(arrays[0].shape, params)
    return batch_vectorized.vectors_to_batch(
        reduction(*map(batch_vectorized.batch_to_vectors, arrays), found, **options)
    )


def _in_vectors(axes: Sequence[Axis], shape: tuple[int, ...], target: Target) -> bool:
    """An image's plane in tiles, of a few channels."""
    rank = len(shape)
    plane = len(axes) == 2 and all(axis.tiles and 0 < axis.index < rank - 1 for axis in axes)
    return plane and 1 < shape[-1] < VECTOR and batch_vectorized.fills_vectors(shape[0]) and not target.partitioned


def is_long(axes: Sequence[Axis]) -> bool:
    """Whether a window has many elements along an axis, or overlaps others that span it as those of a cumulative sum
    do."""
    return any(a.size > 1 and (a.window > windows.MOST_ELEMENTS or a.window >= a.size and a.out > 1) for a in axes)


def candidates(
    name: str, own: bool, shape: tuple[int, ...], params: dict, target: Target, **options: Any
) -> dict[str, Body]:
    """All that can compute it here, by name; `choose` says which of them without a measurement."""
    platform, axes, reduction = target.platform, axes_of(shape, params), getattr(windows, name)
    found: dict[str, Body] = {} if own else {"lax": None}
    if platform == "tpu" and hasattr(tpu, name):
        found["instruction"] = functools.partial(getattr(tpu, name), params=params, **options)
    found["windows"] = functools.partial(_by_windows, reduction, params=params, **options)
    if name != "window_sum" and platform == "cpu" and _in_vectors(axes, shape, target):
        found["batch_vectorized"] = functools.partial(_by_batch, reduction, params=params, **options)
    return found


_SLICES = "slices, no scatter"
_VECTORS = "few channels: sixteen images fill a vector"
_LONG = "a long window: XLA's own loop"
_TPU = "by the chip's own instruction, where the window has its form"


def choose(
    name: str, own: bool, shape: tuple[int, ...], params: dict, target: Target, **options: Any
) -> tuple[str, str, Body]:
    """The formulation's name, the reason and what computes it: `name` is that of a reduction in `windows`.

    `own` are convlab's primitives, which cannot be left to XLA.
    """
    platform, axes = target.platform, axes_of(shape, params)
    if platform == "tpu" and (own or name == "window_sum" and tpu.broadcast_axes(axes)):
        return "lax", _TPU, functools.partial(getattr(tpu, name), params=params, **options)
    lacks_instruction = (
        platform == "tpu" and name in ("max_tangent", "max_cotangent") and not tpu.has_instruction(params)
    )
    if platform != "cpu" and not own and not lacks_instruction:
        return "lax", f"XLA's own on {platform}", None
    if is_long(axes) and name in ("window_sum", "window_max"):
        return "lax", _LONG, None
    reduction = getattr(windows, name)
    if name != "window_sum" and platform == "cpu" and _in_vectors(axes, shape, target):
        return "batch_vectorized", _VECTORS, functools.partial(_by_batch, reduction, params=params, **options)
    return "windows", _SLICES, functools.partial(_by_windows, reduction, params=params, **options)
