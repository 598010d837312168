"""Batch normalization in training, and layer normalization: statistics, and derivatives that keep only the input.

The arithmetic of the results is Flax's, operation for operation. The derivatives are Flax's up to rounding, but the
only array of the image's size that they keep is the input `x`, in its own dtype. Automatic differentiation of Flax's
layers also keeps `x - mean`, and sums three products where two are enough.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .._backend import distinct, is_in_jet, with_stored_derivative
from .._promotion import promoting

Array = jax.Array

# Derivatives recompute elementwise functions of `x` from `x`, so that XLA fuses them into the loop that reads them.
_from_x = functools.partial(jax.checkpoint, prevent_cse=False)


def feature_axes(ndim: int, axis: int | Sequence[int]) -> tuple[int, ...]:
    """Return the nonnegative axes of the features in ascending order."""
    axes = (axis,) if isinstance(axis, int) else axis
    return tuple(sorted({a % ndim for a in axes}))


def needs_flax(x: Array) -> bool:
    """Return whether Flax's own layer must normalize `x`: if it is complex, or under `jax.experimental.jet`, which
    knows neither checkpoints nor custom derivatives."""
    return jnp.iscomplexobj(x) or is_in_jet(x)


def _floating(*arrays: Array | None) -> Any:
    """Return the dtype of the computation: the arrays' common dtype, at least float32 for integers."""
    dtype = functools.reduce(jnp.promote_types, (a.dtype for a in arrays if a is not None))
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.promote_types(dtype, jnp.float32)


def normalized_once(x: Array) -> Array:
    """Return `x`, whose derivative by its statistics and its normalization is then one array, computed once."""
    return with_stored_derivative(x) if jnp.issubdtype(x.dtype, jnp.floating) else x


def other_axes(ndim: int, axes: Sequence[int]) -> tuple[int, ...]:
    """Return the axes that are not in `axes`."""
    return tuple(a for a in range(ndim) if a not in axes)


def group_size(x: Array, num_groups: int | None, size: int | None) -> int | None:
    """Return the number of channels of each group, from one of both options; None if Flax refuses them."""
    channels = x.shape[-1] if x.ndim else 0
    if (num_groups is None) == (size is None):
        return None
    if num_groups is not None:
        return channels // num_groups if num_groups > 0 and channels % num_groups == 0 else None
    return size if size and channels % size == 0 else None


@promoting
def statistics(
    x: Array,
    reduced: tuple[int, ...],
    *,
    dtype: Any,
    fast: bool,
    mask: Array | None,
    axis_name: Any = None,
    axis_index_groups: Any = None,
    group_size: int | None = None,
    center: bool = True,
) -> tuple[Array | None, Array]:
    """Return the mean and the variance over `reduced`, with the sizes of the other axes, in `dtype`, at least float32.

    Args:
        x: the input.
        reduced: the axes to average over.
        dtype: the dtype of the layer; None is that of `x`.
        fast: whether to compute the variance as `mean(x ** 2) - mean(x) ** 2`.
        mask: the positions that count, broadcast to `x`.
        axis_name, axis_index_groups: the mapped axis of devices over which statistics are averaged.
        group_size: the number of neighbouring channels, along the last axis, that share their statistics.
        center: whether the variance is that around the mean; otherwise it is `mean(x ** 2)`, and the mean is None.
    """
    dtype = jnp.promote_types(x.dtype if dtype is None else dtype, jnp.float32)
    where = None if mask is None else mask.astype(bool)

    def in_groups(a: Array) -> Array:
        return a if group_size is None else a.reshape(*a.shape[:-1], a.shape[-1] // group_size, group_size)

    def mean_of(a: Array) -> Array:
        if group_size is None:
            return jnp.mean(a, reduced, where=where)
        if where is None:  # XLA computes sums that keep the channels faster than those over a part of them
            return in_groups(jnp.mean(a, reduced)).mean(-1)
        return jnp.mean(in_groups(a), (*reduced, -1), where=in_groups(where))

    def per_channel(a: Array) -> Array:
        return a if group_size is None else jnp.repeat(a, group_size, -1)

    def across_devices(*means: Array) -> Sequence[Array] | Array:
        if axis_name is None:
            return means
        return lax.pmean(jnp.stack(means), axis_name, axis_index_groups=axis_index_groups)

    @_from_x
    def mean_of_squares(x: Array, around: Array | None = None) -> Array:
        x = x.astype(dtype)
        return mean_of(lax.square(x if around is None else x - lax.expand_dims(around, reduced)))

    if not center:
        (squares,) = across_devices(mean_of_squares(x))
        return None, per_channel(squares)
    mean = mean_of(x.astype(dtype))
    if not fast:
        (mean,) = map(per_channel, across_devices(mean))
        (variance,) = across_devices(mean_of_squares(x, mean))
        return mean, per_channel(variance)
    mean, squares = across_devices(mean, mean_of_squares(x))
    variance = jnp.maximum(jnp.zeros((), dtype), squares - lax.square(mean))
    return per_channel(mean), per_channel(variance)


@promoting
def running(former: Array, batch: Array, momentum: float) -> Array:
    """Return the new running average of a statistic."""
    return momentum * former + (1 - momentum) * batch


@promoting
def normalize(
    x: Array,
    reduced: tuple[int, ...],
    features: tuple[int, ...],
    mean: Array | None,
    variance: Array,
    scale: Array | None,
    bias: Array | None,
    *,
    epsilon: float,
    dtype: Any,
    fast: bool,
) -> Array:
    """Compute `(x - mean) / sqrt(variance + epsilon) * scale + bias`.

    Args:
        x: the input.
        reduced: the axes over which the statistics were computed.
        features: the axes of `scale` and `bias`.
        mean, variance: the statistics; a mean of None is 0.
        scale, bias: the parameters, or None.
        epsilon: a number that is added to the variance.
        dtype: the dtype of the result; None is that of `x` and the parameters.
        fast: whether the derivative sums products with `x`, and not with `x - mean`.
    """
    computed = _floating(x, mean, variance, scale, bias)
    shape = [size if a in features else 1 for a, size in enumerate(x.shape)]
    mean = None if mean is None else lax.expand_dims(mean.astype(computed), reduced)
    root = lax.expand_dims(lax.rsqrt(variance + epsilon).astype(computed), reduced)
    factor, shift = (None if p is None else p.reshape(shape).astype(computed) for p in (scale, bias))
    # Statistics of each channel are multiplied by its scale; others would give an array of the size of `x`.
    if not set(features) & set(reduced):
        y = (_affine if fast else _affine_centered)(x, mean, root if factor is None else root * factor, shift)
    else:
        y = (_layer if fast else _layer_centered)(x, mean, root, factor, shift)
    return y.astype(_floating(x, scale, bias) if dtype is None else dtype)


# --- batch normalization ------------------------------------------------------------------------------------------


def _affine_value(x: Array, mean: Array, factor: Array, shift: Array | None) -> Array:
    y = (x.astype(factor.dtype) - mean) * factor
    return y if shift is None else y + shift


def _constant(mean: Array, factor: Array, tangents: tuple) -> Array:
    """Return the part of the tangent that is equal at all positions of a channel."""
    _, dmean, _, dshift = tangents
    return -factor * dmean if dshift is None else dshift - factor * dmean


@jax.custom_jvp
def _affine(x: Array, mean: Array, factor: Array, shift: Array | None) -> Array:
    """Compute `_affine_value` with a derivative that sums the cotangent and its product with `x`.

    Both factors are stored arrays, so XLA sums the product while it reads them; it would first write `x - mean`."""
    return _affine_value(x, mean, factor, shift)


@_affine.defjvp
def _affine_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, mean, factor, _ = primals
    dx, _, dfactor, _ = tangents
    constant = _constant(mean, factor, tangents) - mean * dfactor

    @_from_x
    def tangent(x: Array, factor: Array, dx: Array, dfactor: Array, constant: Array) -> Array:
        return dx.astype(factor.dtype) * factor + x.astype(factor.dtype) * dfactor + constant

    return _affine(*primals), tangent(x, factor, dx, dfactor, constant)


@jax.custom_jvp
def _affine_centered(x: Array, mean: Array, factor: Array, shift: Array | None) -> Array:
    """Compute `_affine_value` with a derivative whose sums stay accurate if the mean is large beside the deviation."""
    return _affine_value(x, mean, factor, shift)


@_affine_centered.defjvp
def _affine_centered_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, mean, factor, _ = primals
    dx, _, dfactor, _ = tangents

    @_from_x
    def tangent(x: Array, mean: Array, factor: Array, dx: Array, dfactor: Array, constant: Array) -> Array:
        return dx.astype(factor.dtype) * factor + (x.astype(factor.dtype) - mean) * dfactor + constant

    return _affine_centered(*primals), tangent(x, mean, factor, dx, dfactor, _constant(mean, factor, tangents))


# --- layer normalization ------------------------------------------------------------------------------------------


def _centered(x: Array, mean: Array | None, dtype: Any) -> Array:
    return x.astype(dtype) if mean is None else x.astype(dtype) - mean


def _layer_value(x: Array, mean: Array | None, root: Array, scale: Array | None, bias: Array | None) -> Array:
    y = _centered(x, mean, root.dtype) * (root if scale is None else root * scale)
    return y if bias is None else y + bias


def _outer(a: Array, b: Array) -> Array:
    """Multiply two arrays that broadcast, one with the sizes of the leading axes and one with those of the others.

    It is an outer product, so that its transpose is a product of a matrix and a vector: XLA computes that at the speed
    of memory on the CPU, but not sums of products over the last axis.
    """
    leading = next((n for n in range(a.ndim) if all(m == 1 for m in (*a.shape[n:], *b.shape[:n]))), None)
    if leading is None:
        return a * b
    numbers: Any = (((), ()), ((), ()))
    return lax.dot_general(
        a.reshape(a.shape[:leading]), b.reshape(b.shape[leading:]), numbers, precision=lax.Precision.HIGHEST
    )


def _layer_tangent(center: bool, primals: tuple, tangents: tuple) -> Array:
    """Return the tangent of a normalization from `x`, or from `x - mean` if `center`."""
    x, mean, root, scale, _ = primals
    _, dmean, droot, _, _ = tangents
    constant = None  # the part of the tangent, before the scale, that is equal at all reduced positions
    if mean is not None:
        constant = -dmean * root if center else -dmean * root - mean * droot

    # Arrays of their own keep XLA from storing intermediate results, and `root` at every position, for the sums, and
    # from computing the cotangent once for each of its readers.
    @_from_x
    def tangent(
        x: Array, mean: Array | None, root: Array, scale: Array | None, constant: Array | None, tangents: tuple
    ) -> Array:
        dx, _, droot, dscale, dbias = tangents
        x, root, *means = distinct(x, root, *([] if mean is None else [mean]))
        mean, (dx,) = means[0] if means else None, distinct(dx)
        wide = _centered(x, mean if center else None, root.dtype)
        if scale is None:
            y = dx.astype(root.dtype) * root + wide * droot
            y = y if constant is None else y + constant
        else:
            y = dx.astype(root.dtype) * (root * scale) + wide * _outer(droot, scale)
            y = y if constant is None else y + _outer(constant, scale)
            y = y + _centered(x, mean, root.dtype) * root * dscale
        return y if dbias is None else y + dbias

    return tangent(x, mean, root, scale, constant, tangents)


@jax.custom_jvp
def _layer(x: Array, mean: Array | None, root: Array, scale: Array | None, bias: Array | None) -> Array:
    """Compute `_layer_value` with a derivative that sums the cotangent and its product with `x`."""
    return _layer_value(x, mean, root, scale, bias)


@_layer.defjvp
def _layer_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return _layer(*primals), _layer_tangent(False, primals, tangents)


@jax.custom_jvp
def _layer_centered(x: Array, mean: Array | None, root: Array, scale: Array | None, bias: Array | None) -> Array:
    """Compute `_layer_value` with a derivative whose sums stay accurate if the mean is large beside the deviation."""
    return _layer_value(x, mean, root, scale, bias)


@_layer_centered.defjvp
def _layer_centered_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return _layer_centered(*primals), _layer_tangent(True, primals, tangents)
