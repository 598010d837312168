"""Spatial transformers: sampling of images at the positions of a grid, and the grids of affine maps."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import _backend
from ._arguments import argument_error, as_array, broadcast_to_rank, describe_axes, is_int, spatial_shape
from ._backend.gather import bordered_rows, by_groups, stored_apart, take_elements, weighted_rows
from ._backend.interpolate import sample
from ._dtypes import accumulation_dtype, average_dtype
from ._interpolation_symbolic import keys_cubic
from ._promotion import promoting
from .typing import BorderMode, Ints, Sampling

Array = jax.Array

METHODS = ("linear", "nearest", "cubic")
PADDINGS = ("zeros", "border", "reflection")
_ALIASES = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}


@promoting
def grid_sample(
    x: Array,
    grid: Array,
    *,
    method: Sampling = "linear",
    padding_mode: BorderMode = "zeros",
    align_corners: bool = False,
) -> Array:
    """Sample an image at the positions of a grid.

    Args:
        x: `(*batch, *spatial, c)` of a floating dtype, any number of batch axes.
        grid: `(*batch, *out, rank)`: for each position of the result the coordinates to read, in PyTorch's order, the
            last spatial axis first (x, y, z), each between -1 and 1, the two ends of the image.
        method: "linear", "nearest" (halves round to the even position) or "cubic" (a = -0.75; two axes only).
        padding_mode: the values beyond the ends: "zeros", "border" (the nearest position) or "reflection".
        align_corners: -1 and 1 are the centres of the outermost positions instead of their outer edges.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, differentiable in both arguments; positions and sums are float32 or
        wider. An infinite or huge coordinate lies outside the image, and a NaN makes only its own position NaN, with a
        derivative of 0. At a border the derivative by the grid is the one-sided derivative from outside.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that do not fit, an unknown method or padding mode.

    Example:
        >>> x = jnp.arange(6.0).reshape(1, 2, 3, 1)
        >>> corner = jnp.array([1.0, -1.0]).reshape(1, 1, 1, 2)  # x before y: the right end of the first row
        >>> grid_sample(x, corner, align_corners=True).ravel().tolist()
        [2.0]

    Equals `torch.nn.functional.grid_sample`.
    Source: Jaderberg et al., "Spatial transformer networks", arXiv 1506.02025.
    """
    x, grid = as_array("x", x), as_array("grid", grid)
    rank = grid.shape[-1] if grid.ndim else 0
    kind = _choice("method", _ALIASES.get(method, method) if isinstance(method, str) else method, METHODS)
    _choice("padding_mode", padding_mode, PADDINGS)
    for name, array in (("x", x), ("grid", grid)):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise argument_error(name, "have a floating dtype", array.dtype.name, kind=TypeError)
    if rank < 1 or x.ndim < rank + 1:
        raise argument_error(
            "grid",
            "have as many coordinates on its last axis as `x` has spatial axes",
            grid.shape,
            f"`x` of shape {x.shape}",
        )
    batch, spatial = x.shape[: x.ndim - 1 - rank], spatial_shape(x, rank)
    if grid.shape[: len(batch)] != batch or grid.ndim <= len(batch):
        raise argument_error(
            "grid",
            f"begin with the batch axes {batch}",
            grid.shape,
            f"{describe_axes(rank)} and `x` of shape {x.shape}",
        )
    if 0 in (*spatial, x.shape[-1]):
        raise argument_error("x", "have no empty spatial or channel axis", x.shape)
    if kind == "cubic" and rank != 2:
        raise argument_error("method", "be 'linear' or 'nearest'", kind, describe_axes(rank))
    out, n = grid.shape[len(batch) : -1], math.prod(batch)
    wide = jnp.promote_types(accumulation_dtype(x), accumulation_dtype(grid))
    images = x.reshape(n, *spatial, x.shape[-1]).astype(accumulation_dtype(x))
    positions = grid.astype(wide).reshape(n, math.prod(out), rank)
    along = [part[..., 0] for part in lax.split(positions, (1,) * rank, positions.ndim - 1)][::-1]
    at = [_unnormalized(part, size, bool(align_corners)) for part, size in zip(along, spatial)]
    samples = _SAMPLERS[kind](images, at, padding_mode, bool(align_corners))  # 0 where a coordinate is NaN
    is_nan = functools.reduce(operator.or_, map(jnp.isnan, along))
    # a sum, since the derivative of a selection would store another array of the result's size
    samples = samples + jnp.where(is_nan, jnp.nan, 0).astype(samples.dtype)[..., None]
    return samples.reshape(*batch, *out, x.shape[-1]).astype(average_dtype(x))


def _choice(argument: str, value: Any, known: Sequence[str]) -> str:
    rule = f"be one of {', '.join(map(repr, known))}"
    if not isinstance(value, str):
        raise argument_error(argument, rule, value, kind=TypeError)
    if value not in known:
        raise argument_error(argument, rule, value)
    return value


def _unnormalized(coordinate: Array, n: int, align_corners: bool) -> Array:
    """Convert a coordinate from -1 .. 1 to steps of an axis of `n` positions."""
    if align_corners and is_int(n) and n == 1:
        return jnp.where(jnp.isinf(coordinate), coordinate, 0)  # inf * 0 is NaN
    return (coordinate + 1) / 2 * (n - 1) if align_corners else ((coordinate + 1) * n - 1) / 2


def _apply_padding_mode(at: Array, n: int, padding_mode: str, align_corners: bool) -> Array:
    """Map a coordinate into the image by the padding mode; outside, and for a NaN, it becomes -2, without a
    derivative."""
    if padding_mode == "reflection":
        low, span = (0.0, float(n - 1)) if align_corners else (-0.5, float(n))
        if span == 0:
            at = jnp.where(jnp.isfinite(at), jnp.zeros_like(at), at)
        else:
            at = stored_apart(at)  # read in strides from the grid, which keeps a CPU from vectorizing what follows
            # the distance to the nearest image of the low end; a remainder would be a call for each position
            nearest = lax.stop_gradient(jnp.floor((at - low) / (2 * span) + 0.5) * (2 * span) + low)
            at = jnp.where(jnp.isinf(at), -jnp.inf, abs(at - nearest) + low)
        is_outside = jnp.isinf(at)
        at = jnp.where(is_outside, 0, at)
    if padding_mode != "zeros":
        at = jnp.where(at <= 0, 0, jnp.where(at >= n - 1, n - 1, at))
    if padding_mode == "reflection":
        at = jnp.where(is_outside, -2, at)
    return jnp.where((at >= -2) & (at <= n + 1), at, -2)


def _split(at: Array) -> tuple[Array, Array]:
    """Return the position before a coordinate, and the distance beyond it."""
    low = lax.stop_gradient(jnp.floor(at))
    return low.astype(jnp.int32), at - low


def _linear(x: Array, at: Sequence[Array], padding_mode: str, align_corners: bool) -> Array:
    split = [_split(_apply_padding_mode(a, n, padding_mode, align_corners)) for a, n in zip(at, x.shape[1:-1])]
    cell = [jnp.minimum(low, n)[None, None] for (low, _), n in zip(split, x.shape[1:-1])]
    within = [part.astype(x.dtype)[None, None] for _, part in split]
    return sample(x[..., None, :], cell, within)[:, :, 0, 0]


def _nearest(x: Array, at: Sequence[Array], padding_mode: str, align_corners: bool) -> Array:
    inside = [
        _apply_padding_mode(lax.stop_gradient(a), n, padding_mode, align_corners) for a, n in zip(at, x.shape[1:-1])
    ]
    return take_elements(x, [jnp.round(a).astype(jnp.int32) for a in inside])


def _cubic(x: Array, at: Sequence[Array], padding_mode: str, align_corners: bool) -> Array:
    positions: list[list[Array]] = []
    within: list[Array] = []
    for a, n in zip(at, x.shape[1:-1]):
        outside = ~(abs(a) <= 2**24)
        a = jnp.where(outside, 0, a)
        low = lax.stop_gradient(jnp.floor(a))
        within.append((a - low).astype(x.dtype))
        taps = [_apply_padding_mode(low + t, n, padding_mode, align_corners) for t in (-1, 0, 1, 2)]
        beyond: Any = -2
        if padding_mode == "border":
            along = lax.stop_gradient(at[len(positions)])
            beyond = jnp.where(along < 0, 0, jnp.where(along > 0, n - 1, -2))
        taps = [jnp.where(outside, beyond, tap) for tap in taps]
        positions.append([tap.astype(jnp.int32) for tap in taps])
    if x.shape[0] == 0:
        return jnp.zeros((*at[0].shape, x.shape[-1]), x.dtype)

    def summed(x: Array, positions: list[list[Array]], within: list[Array]) -> Array:
        rows, indices = bordered_rows(x, list(itertools.product(*positions)))
        distances = tuple(stored_apart(part).ravel() for part in within)
        return weighted_rows(rows, indices, distances, _cubic_weights).reshape(*within[0].shape, x.shape[-1])

    grouped = functools.partial(by_groups, summed, elements=16 * at[0].shape[1] * x.shape[-1])
    return _backend.by_platform(x, positions, within, cpu=lambda *given: grouped(given), default=summed)


def _cubic_weights(within: Sequence[Array]) -> list[Array]:
    weights = [
        [keys_cubic(d + 1, True), keys_cubic(d, False), keys_cubic(1 - d, False), keys_cubic(2 - d, True)]
        for d in within
    ]
    return [functools.reduce(operator.mul, tap) for tap in itertools.product(*weights)]


_SAMPLERS = {"linear": _linear, "nearest": _nearest, "cubic": _cubic}


@promoting
def affine_grid(theta: Array, output_shape: Ints, *, align_corners: bool = False) -> Array:
    """Return the grid of an affine map, for `grid_sample`.

    Args:
        theta: `(*batch, rank, rank + 1)`: the matrix and, in its last column, the shift, in the order (x, y, z) and the
            range of the grid.
        output_shape: the spatial sizes of the result, an int or one per axis.
        align_corners: as in `grid_sample`.

    Returns:
        `(*batch, *output_shape, rank)` of the dtype of `theta`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: shapes that do not fit, sizes out of range.

    Example:
        >>> same = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> affine_grid(same, (1, 2), align_corners=True).tolist()
        [[[-1.0, 0.0], [1.0, 0.0]]]

    Equals `torch.nn.functional.affine_grid`, whose size also has the batch and channel axes.
    """
    theta = as_array("theta", theta)
    if not jnp.issubdtype(theta.dtype, jnp.floating):
        raise argument_error("theta", "have a floating dtype", theta.dtype.name, kind=TypeError)
    if theta.ndim < 2 or theta.shape[-1] != theta.shape[-2] + 1 or theta.shape[-2] < 1:
        raise argument_error("theta", "have shape (*batch, rank, rank + 1)", theta.shape)
    rank = theta.shape[-2]
    shape = broadcast_to_rank("output_shape", output_shape, rank)
    ends = [1 if align_corners else (n - 1) / n for n in shape]
    along = [np.linspace(-end, end, n) if n > 1 else np.zeros(1) for end, n in zip(ends, shape)]
    mesh = np.stack([*np.meshgrid(*along, indexing="ij")[::-1], np.ones(shape)], -1)
    wide = theta.astype(accumulation_dtype(theta))
    y = jnp.einsum("...ij,pj->...pi", wide, jnp.asarray(mesh.reshape(-1, rank + 1), wide.dtype), precision="highest")
    return y.reshape(*theta.shape[:-2], *shape, rank).astype(theta.dtype)
