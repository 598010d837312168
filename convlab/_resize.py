"""Resampling of images to other sizes, as PyTorch's `interpolate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._arguments import (
    argument_error,
    as_array,
    broadcast_sizes,
    check_image,
    check_not_empty,
    describe_axes,
    image_rank,
    is_int,
    is_sequence,
    is_symbolic,
    spatial_shape,
    to_list,
    tracing_hint,
)
from ._dtypes import accumulation_dtype, average_dtype
from ._interpolation import (
    Axis,
    antialiased_taps,
    choose,
    cubic_taps,
    interpolate,
    linear_taps,
    nearest_positions,
)
from ._interpolation_symbolic import choose_symbolic, interpolate_symbolic
from ._pool_adaptive import adaptive_avg_pool
from ._promotion import promoting
from .typing import Floats, Interpolation, Ints

Array = jax.Array

METHODS = ("nearest", "nearest-exact", "linear", "cubic", "area")
_ALIASES = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}


@promoting
def resize(
    x: Array,
    output_shape: Ints | None = None,
    *,
    scale: Floats | None = None,
    method: Interpolation = "linear",
    align_corners: bool = False,
    antialias: bool = False,
) -> Array:
    """Resample an image to another size.

    Args:
        x: `(*batch, *spatial, c)`, any number of batch axes.
        output_shape: the spatial sizes of the result, one int per axis; an int means every axis of an `x` with one
            batch axis. Symbolic sizes of `jax.export` are sizes too, without `antialias`.
        scale: instead of `output_shape`, the factor of each axis, a number > 0 or one per axis. Sizes are rounded down,
            and positions are `1 / scale` apart whatever the rounded size.
        method: "nearest" (the position whose cell contains the coordinate), "nearest-exact" (the position whose centre
            is nearest), "linear", "cubic" (a = -0.75; with `antialias` -0.5) or "area" (the average over the cell), in
            any rank; "bilinear", "trilinear" and "bicubic" are PyTorch's names of the same.
        align_corners: align the centres of the first and last positions of both images instead of their outer edges;
            for "linear" and "cubic".
        antialias: where an axis shrinks, widen the filter to the step; for "linear" and "cubic".

    Returns:
        `(*batch, *output_shape, c)` of the dtype of `x`; integers that are interpolated or averaged give float32.
        16-bit floats are summed in float32. An inf or NaN affects only the positions that read it; the gradient is the
        adjoint.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: sizes out of range, both or neither of `output_shape` and `scale`, an option that the method does
            not have.

    Example:
        >>> x = jnp.array([0.0, 4.0]).reshape(1, 2, 1)
        >>> resize(x, 4).ravel().tolist(), resize(x, scale=2, method="nearest").ravel().tolist()
        ([0.0, 1.0, 3.0, 4.0], [0.0, 0.0, 4.0, 4.0])

    Equals `torch.nn.functional.interpolate`, in any rank. `jax.image.resize` filters where an axis shrinks unless it
    gets `antialias=False`: by default it equals `antialias=True`, its "nearest" "nearest-exact". Its "cubic" always has
    a = -0.5.
    """
    x = as_array("x", x)
    x, out, factors = _read(x, output_shape, scale)
    kind = _read_method(method, align_corners, antialias)
    spatial, first = spatial_shape(x, len(out)), x.ndim - 1 - len(out)
    if kind == "area":
        return adaptive_avg_pool(x, out)
    if any(map(is_symbolic, (*spatial, *out))):
        return _resize_symbolic(x, out, factors, kind, bool(align_corners), antialias)
    if kind == "nearest" and len(out) == 2:  # PyTorch ignores a factor that keeps or doubles the size, in 2-D alone
        factors = [None if m in (n, 2 * n) else factor for n, m, factor in zip(spatial, out, factors)]
    steps = [_step(n, m, factor, bool(align_corners)) for n, m, factor in zip(spatial, out, factors)]
    # axes that shrink come first, so that later steps are smaller
    numbers = sorted(range(len(out)), key=lambda i: out[i] / spatial[i])
    if kind.startswith("nearest"):
        wide = np.float64 if x.dtype == jnp.float64 else np.float32
        for i in numbers:
            axis = Axis(spatial[i], out[i], steps[i], False)
            x = choose(x, first + i, axis, nearest_positions(axis, kind == "nearest-exact", wide))
        return x
    if x.dtype == bool:
        raise argument_error("x", "have a number dtype", x.dtype.name, f"method {kind!r}", kind=TypeError)
    y = x.astype(accumulation_dtype(x))
    for i in numbers:
        axis = Axis(spatial[i], out[i], steps[i], bool(align_corners))
        if axis.n == axis.m and (antialias or kind == "linear"):
            continue  # as PyTorch does for every factor that gives this size
        if antialias:
            y = interpolate(y, first + i, antialiased_taps(axis, kind))
        elif kind == "cubic":
            y = interpolate(y, first + i, cubic_taps(axis))
        else:
            y = interpolate(y, first + i, linear_taps(axis))
    return y.astype(average_dtype(x))


def _resize_symbolic(
    x: Array, out: Sequence[Any], factors: Sequence[float | None], kind: str, align_corners: bool, antialias: Any
) -> Array:
    """Resize an image whose sizes, or those of the result, are symbolic."""
    if antialias:
        raise argument_error("antialias", "be False", antialias, "symbolic sizes")
    first = x.ndim - 1 - len(out)
    y = x if kind.startswith("nearest") else x.astype(accumulation_dtype(x))
    for number, (m, factor) in enumerate(zip(out, factors), first):
        n = x.shape[number]
        if n == m:
            continue
        exact = None if factor is None or align_corners else _step(1, 1, factor, False)
        step = (exact.numerator, exact.denominator) if exact else (n - 1, m - 1) if align_corners else (n, m)
        if kind.startswith("nearest"):
            y = choose_symbolic(y, number, m, step, kind == "nearest-exact")
        else:
            y = interpolate_symbolic(y, number, m, step, kind, align_corners)
    return y if kind.startswith("nearest") else y.astype(average_dtype(x))


def _step(n: int, m: int, factor: float | None, align_corners: bool) -> Fraction:
    """Return the distance in the image between neighbouring positions of the result."""
    if align_corners:
        return Fraction(n - 1, m - 1) if m > 1 else Fraction(0)
    if factor is None:
        return Fraction(n, m)
    simple = Fraction(factor).limit_denominator(64)
    return 1 / (simple if simple > 0 and float(simple) == factor else Fraction(factor))


def _read(x: Array, output_shape: Any, scale: Any) -> tuple[Array, tuple[int, ...], Sequence[float | None]]:
    """Return the image, the sizes of the result and the given factors."""
    if (output_shape is None) == (scale is None):
        rule = "be given, or `scale`" if scale is None else "be None"
        raise argument_error("output_shape", rule, output_shape, "" if scale is None else f"scale {scale!r}")
    given, name = (scale, "scale") if output_shape is None else (output_shape, "output_shape")
    check_not_empty(name, given)
    rank = len(given) if is_sequence(given) else image_rank(x, name)
    check_image(x, rank)
    spatial = spatial_shape(x, rank)
    if 0 in (*spatial, x.shape[-1]):
        raise argument_error("x", "have no empty spatial or channel axis", x.shape)
    if scale is None:
        return x, broadcast_sizes("output_shape", output_shape, rank), (None,) * rank
    factors = _factors(scale, rank)
    out = tuple(_size(n, factor) for n, factor in zip(spatial, factors))
    if any(is_int(m) and m < 1 for m in out):
        raise argument_error("scale", "leave a result", scale, f"spatial shape {spatial}")
    return x, out, factors


def _size(n: Any, factor: float) -> Any:
    if not is_symbolic(n):
        return int(n * factor)
    exact = 1 / _step(1, 1, factor, False)
    return n * exact.numerator // exact.denominator


def _factors(scale: Any, rank: int) -> tuple[float, ...]:
    rule = "be a number > 0 or one number > 0 per axis"
    several = to_list(scale if is_sequence(scale) else (scale,) * rank)
    values = [v.item() if isinstance(v, np.generic) else v for v in several]
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        raise argument_error("scale", rule, scale, describe_axes(rank), tracing_hint(scale), TypeError)
    if not all(0 < v < math.inf for v in values):
        raise argument_error("scale", rule, scale, describe_axes(rank))
    return tuple(map(float, values))


def _read_method(method: Any, align_corners: bool, antialias: bool) -> str:
    if not isinstance(method, str):
        raise argument_error("method", f"be one of {', '.join(map(repr, METHODS))}", method, kind=TypeError)
    name = _ALIASES.get(method, method)
    if name not in METHODS:
        raise argument_error("method", f"be one of {', '.join(map(repr, METHODS))}", method)
    for option, value in (("align_corners", align_corners), ("antialias", antialias)):
        if value and name not in ("linear", "cubic"):
            raise argument_error(option, "be False", value, f"method {method!r}", 'Only "linear" and "cubic" have it.')
    return name
