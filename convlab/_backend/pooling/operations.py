"""Choose the formulation of a window primitive on each platform: slices, the TPU's instruction, or lax.

`lowering` calls `choose`, as it calls `tables.choose` for convolutions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ..formulations import batch_vectorized
from ..formulations.base import VECTOR
from ..tables import Target
from . import tpu, windows
from .axis import Axis, axes_of

Array = jax.Array
Body = Callable[..., Array] | None  # computes a window primitive from its operands; None is JAX's original rule


def _reduce_by_slices(reduction: Callable[..., Array], *arrays: Array, params: dict, **options: Any) -> Array:
    return reduction(*arrays, axes_of(arrays[0].shape, params), **options)


def _reduce_in_vectors(reduction: Callable[..., Array], *arrays: Array, params: dict, **options: Any) -> Array:
    """Reduce with images along the vectors, the layout of the neighbouring convolutions by `batch_vectorized`."""
    found = axes_of(arrays[0].shape, params)
    return batch_vectorized.vectors_to_batch(
        reduction(*map(batch_vectorized.batch_to_vectors, arrays), found, **options)
    )


def _fits_vectors(axes: Sequence[Axis], shape: tuple[int, ...], target: Target) -> bool:
    """Return whether windows tile the plane of images with few channels, in a batch that fills vectors."""
    rank = len(shape)
    plane = len(axes) == 2 and all(axis.tiles and 0 < axis.index < rank - 1 for axis in axes)
    return plane and 1 < shape[-1] < VECTOR and batch_vectorized.fills_vectors(shape[0]) and not target.partitioned


def is_long(axes: Sequence[Axis]) -> bool:
    """Return whether a window has many elements along an axis, or spans it and overlaps others, as for `cumsum`."""
    return any(a.size > 1 and (a.window > windows.MAX_UNROLLED or a.window >= a.size and a.out > 1) for a in axes)


def is_whole(axes: Sequence[Axis]) -> bool:
    """Return whether one window of many elements covers all of its axes, which XLA reduces without slices."""
    covers = lambda a: a.out == 1 and a.window == a.size and bool(a.on_input.all())
    return math.prod(a.window for a in axes) >= 32 and all(map(covers, axes))


def candidates(
    name: str, own: bool, shape: tuple[int, ...], params: dict, target: Target, **options: Any
) -> dict[str, Body]:
    """Return all supported formulations by name, for `autotune` to measure; `choose` takes one unmeasured."""
    platform, axes, reduction = target.platform, axes_of(shape, params), getattr(windows, name)
    found: dict[str, Body] = {} if own else {"lax": None}
    if platform == "tpu" and hasattr(tpu, name):
        found["instruction"] = functools.partial(getattr(tpu, name), params=params, **options)
    found["windows"] = functools.partial(_reduce_by_slices, reduction, params=params, **options)
    if name != "window_sum" and platform == "cpu" and _fits_vectors(axes, shape, target):
        found["batch_vectorized"] = functools.partial(_reduce_in_vectors, reduction, params=params, **options)
    return found


_SLICES = "slices, no scatter"
_VECTORS = "few channels: sixteen images fill a vector"
_LONG = "a long window: XLA's own loop"
_WHOLE = "one window over all positions: XLA's own reduction"
_TPU = "the chip's own instruction, if it supports the window"


def choose(
    name: str, own: bool, shape: tuple[int, ...], params: dict, target: Target, **options: Any
) -> tuple[str, str, Body]:
    """Return the formulation's name, the reason and its body, for the reduction of that `name` in `windows`.

    `own`: it is a primitive of convlab's, for which lax has no rule.
    """
    platform, axes = target.platform, axes_of(shape, params)
    if platform == "tpu" and (own or name == "window_sum" and tpu.broadcast_axes(axes)):
        return "lax", _TPU, functools.partial(getattr(tpu, name), params=params, **options)
    lacks_instruction = (
        platform == "tpu" and name in ("max_tangent", "max_cotangent") and not tpu.has_instruction(params)
    )
    if platform != "cpu" and not own and not lacks_instruction:
        return "lax", f"XLA's own on {platform}", None
    if name in ("window_sum", "window_max") and (is_long(axes) or is_whole(axes)):
        return "lax", _LONG if is_long(axes) else _WHOLE, None
    reduction = getattr(windows, name)
    if name != "window_sum" and platform == "cpu" and _fits_vectors(axes, shape, target):
        return "batch_vectorized", _VECTORS, functools.partial(_reduce_in_vectors, reduction, params=params, **options)
    return "windows", _SLICES, functools.partial(_reduce_by_slices, reduction, params=params, **options)
