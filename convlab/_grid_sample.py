"""Spatial transformers: images sampled where a grid says, and the grids of affine maps."""

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

from ._backend.gather import take_places
from ._backend.interpolate import FIRST, sample
from ._patches import as_array
from ._pool_windows import accumulator, averaged, spatial_of
from ._promotion import promoting
from ._window import argument_error, axes, broadcast_to_rank

Array = jax.Array

METHODS = ("linear", "nearest", "cubic")
PADDINGS = ("zeros", "border", "reflection")
_ALIASES = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}


@promoting
def grid_sample(
    x: Array, grid: Array, *, method: str = "linear", padding_mode: str = "zeros", align_corners: bool = False
) -> Array:
    """Samples an image at the places that a grid names.

    Args:
        x: `(*batch, *spatial, c)` of a floating dtype, any number of batch axes.
        grid: `(*batch, *out, rank)`: where each place of the result looks, in PyTorch's order, the last spatial axis first (x, y, z),
            each from -1, the image's one end, to 1, its other.
        method: "linear", "nearest" (halves to the even place) or "cubic" (a = -0.75; two axes only).
        padding_mode: what is beyond the ends: "zeros", "border" (the nearest place) or "reflection".
        align_corners: -1 and 1 are the centres of the outermost places, not their outer edges.

    Returns:
        `(*batch, *out, c)` of the dtype of `x`, differentiable in both arguments; positions and sums are float32 or wider. A coordinate
        that is infinite or huge is out of the image, and one NaN makes its own place NaN and no other. At a border
        the derivative by the grid is the one-sided of what is beyond.

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
    method = _choice("method", _ALIASES.get(method, method) if isinstance(method, str) else method, METHODS)
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
    batch, spatial = x.shape[: x.ndim - 1 - rank], spatial_of(x, rank)
    if grid.shape[: len(batch)] != batch or grid.ndim <= len(batch):
        raise argument_error(
            "grid", f"begin with the batch axes {batch}", grid.shape, f"{axes(rank)} and `x` of shape {x.shape}"
        )
    if 0 in (*spatial, x.shape[-1]):
        raise argument_error("x", "have no empty spatial or channel axis", x.shape)
    if method == "cubic" and rank != 2:
        raise argument_error("method", "be 'linear' or 'nearest'", method, axes(rank))
    out, n = grid.shape[len(batch) : -1], math.prod(batch)
    wide = jnp.promote_types(accumulator(x), accumulator(grid))
    images = x.reshape(n, *spatial, x.shape[-1]).astype(accumulator(x))
    places = grid.astype(wide).reshape(n, math.prod(out), rank)
    at = [_unnormalized(places[..., rank - 1 - axis], size, bool(align_corners)) for axis, size in enumerate(spatial)]
    seen = _SAMPLERS[method](images, at, padding_mode, bool(align_corners))
    return seen.reshape(*batch, *out, x.shape[-1]).astype(averaged(x))


def _choice(argument: str, value: Any, known: Sequence[str]) -> str:
    rule = f"be one of {', '.join(map(repr, known))}"
    if not isinstance(value, str):
        raise argument_error(argument, rule, value, kind=TypeError)
    if value not in known:
        raise argument_error(argument, rule, value)
    return value


def _unnormalized(coordinate: Array, n: int, align_corners: bool) -> Array:
    return (coordinate + 1) / 2 * (n - 1) if align_corners else ((coordinate + 1) * n - 1) / 2


def _bent(at: Array, n: int, padding_mode: str, align_corners: bool) -> Array:
    """A position as the padding mode brings it back into the image; what stays out is at -2, and NaN is NaN."""
    if padding_mode == "reflection":
        low, span = (0.0, float(n - 1)) if align_corners else (-0.5, float(n))
        if span == 0:
            at = jnp.where(jnp.isfinite(at), jnp.zeros_like(at), at)
        else:
            away = jnp.where(at < low, low - at, at - low)
            turns = lax.stop_gradient(jnp.floor(away / span))
            rest = away - turns * span
            at = jnp.where(jnp.isinf(at), -jnp.inf, jnp.where(turns % 2 == 0, rest + low, span - rest + low))
        out = jnp.isinf(at)
        at = jnp.where(out, 0, at)
    if padding_mode != "zeros":
        at = jnp.where(at <= 0, 0, jnp.where(at >= n - 1, n - 1, at))
    if padding_mode == "reflection":
        at = jnp.where(out, -2, at)
    return jnp.where((at < -2) | (at > n + 1), -2, at)


def _split(at: Array) -> tuple[Array, Array]:
    """The place before a position, and how far beyond it that is; a NaN is beyond no place."""
    low = lax.stop_gradient(jnp.floor(at))
    return jnp.where(jnp.isnan(low), FIRST, low).astype(jnp.int32), at - low


def _linear(x: Array, at: Sequence[Array], padding_mode: str, align_corners: bool) -> Array:
    split = [_split(_bent(a, n, padding_mode, align_corners)) for a, n in zip(at, x.shape[1:-1])]
    cell = [jnp.minimum(low, n)[None, None] for (low, _), n in zip(split, x.shape[1:-1])]
    within = [part.astype(x.dtype)[None, None] for _, part in split]
    return sample(x[..., None, :], cell, within)[:, :, 0, 0]


def _nearest(x: Array, at: Sequence[Array], padding_mode: str, align_corners: bool) -> Array:
    bent = [_bent(lax.stop_gradient(a), n, padding_mode, align_corners) for a, n in zip(at, x.shape[1:-1])]
    lost = functools.reduce(operator.or_, map(jnp.isnan, bent))
    seen = take_places(x, [jnp.where(lost, -1, jnp.round(a)).astype(jnp.int32) for a in bent])
    return jnp.where(lost[..., None], jnp.nan, seen)


def _cubic(x: Array, at: Sequence[Array], padding_mode: str, align_corners: bool) -> Array:
    places: list[list[Array]] = []
    weights: list[list[Array]] = []
    for a, n in zip(at, x.shape[1:-1]):
        outside = jnp.isinf(a) | (abs(a) > 2**24)
        a = jnp.where(outside, 0, a)
        low = lax.stop_gradient(jnp.floor(a))
        beyond = (a - low).astype(x.dtype)
        taps = [_bent(low + t, n, padding_mode, align_corners) for t in (-1, 0, 1, 2)]
        if padding_mode == "border":
            taps = [
                jnp.where(outside, jnp.where(lax.stop_gradient(at[len(places)]) < 0, 0, n - 1), tap) for tap in taps
            ]
        else:
            taps = [jnp.where(outside, -2, tap) for tap in taps]
        places.append([jnp.where(jnp.isnan(tap), -1, tap).astype(jnp.int32) for tap in taps])
        weights.append(
            [_near(beyond + 1, True), _near(beyond, False), _near(1 - beyond, False), _near(2 - beyond, True)]
        )
    terms = []
    for (py, wy), (px, wx) in itertools.product(*(zip(p, w) for p, w in zip(places, weights))):
        weight, seen = (wy * wx)[..., None], take_places(x, [py, px])
        terms.append(weight * jnp.where((weight == 0) & ~jnp.isfinite(seen), 0, seen))
    return functools.reduce(operator.add, terms)


def _near(d: Array, far: bool) -> Array:
    """Keys' cubic with a = -0.75, from 0 to 1 or, `far`, from 1 to 2."""
    a = -0.75
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a if far else ((a + 2) * d - (a + 3)) * d * d + 1


_SAMPLERS = {"linear": _linear, "nearest": _nearest, "cubic": _cubic}


@promoting
def affine_grid(theta: Array, output_shape: Any, *, align_corners: bool = False) -> Array:
    """The grid of an affine map, for `grid_sample`.

    Args:
        theta: `(*batch, rank, rank + 1)`: the matrix and, in its last column, the shift, in the grid's order (x, y, z) and range.
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

    Equals `torch.nn.functional.affine_grid`, whose size has the batch and the channels too.
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
    wide = theta.astype(accumulator(theta))
    y = jnp.einsum("...ij,pj->...pi", wide, jnp.asarray(mesh.reshape(-1, rank + 1), wide.dtype), precision="highest")
    return y.reshape(*theta.shape[:-2], *shape, rank).astype(theta.dtype)
