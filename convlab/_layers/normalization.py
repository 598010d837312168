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


def batch_statistics(x: Array, features: tuple[int, ...], **options: Any) -> tuple[Array, Array]:
    """Return the mean and the variance over all axes except `features`; `options` as in `statistics`."""
    return statistics(x, tuple(a for a in range(x.ndim) if a not in features), **options)


@promoting
def statistics(
    x: Array,
    axes: tuple[int, ...],
    *,
    dtype: Any,
    fast: bool,
    mask: Array | None,
    axis_name: Any = None,
    axis_index_groups: Any = None,
) -> tuple[Array, Array]:
    """Return the mean and the variance over `axes`, with the sizes of the other axes, in `dtype`, at least float32.

    Args:
        x: the input.
        axes: the axes to average over.
        dtype: the dtype of the layer; None is that of `x`.
        fast: whether to compute the variance as `mean(x ** 2) - mean(x) ** 2`.
        mask: the positions that count, broadcast to `x`.
        axis_name, axis_index_groups: the mapped axis of devices over which statistics are averaged.
    """
    dtype = jnp.promote_types(x.dtype if dtype is None else dtype, jnp.float32)
    mean_of = functools.partial(jnp.mean, axis=axes, where=None if mask is None else mask.astype(bool))

    def across_devices(*means: Array) -> Sequence[Array] | Array:
        if axis_name is None:
            return means
        return lax.pmean(jnp.stack(means), axis_name, axis_index_groups=axis_index_groups)

    @_from_x
    def mean_of_squares(x: Array, center: Array | None = None) -> Array:
        x = x.astype(dtype)
        return mean_of(lax.square(x if center is None else x - lax.expand_dims(center, axes)))

    mean = mean_of(x.astype(dtype))
    if not fast:
        (mean,) = across_devices(mean)
        (variance,) = across_devices(mean_of_squares(x, mean))
        return mean, variance
    mean, squares = across_devices(mean, mean_of_squares(x))
    return mean, jnp.maximum(jnp.zeros((), dtype), squares - lax.square(mean))


@promoting
def running(former: Array, batch: Array, momentum: float) -> Array:
    """Return the new running average of a statistic."""
    return momentum * former + (1 - momentum) * batch


@promoting
def normalize(
    x: Array,
    features: tuple[int, ...],
    mean: Array,
    variance: Array,
    scale: Array | None,
    bias: Array | None,
    *,
    epsilon: float,
    dtype: Any,
    fast: bool,
    reduced: tuple[int, ...] | None = None,
) -> Array:
    """Compute `(x - mean) / sqrt(variance + epsilon) * scale + bias`.

    Args:
        x: the input.
        features: the axes of `scale` and `bias`; without `reduced`, also those of `mean` and `variance`.
        mean, variance: the statistics.
        scale, bias: the parameters, or None.
        epsilon: a number that is added to the variance.
        dtype: the dtype of the result; None is that of `x` and the parameters.
        fast: whether the derivative sums products with `x`, and not with `x - mean`.
        reduced: for layer normalization, the axes over which the statistics were computed.
    """
    computed = _floating(x, mean, variance, scale, bias)
    shape = [size if a in features else 1 for a, size in enumerate(x.shape)]
    if reduced is None:
        mean, variance = (a.reshape(shape).astype(computed) for a in (mean, variance))
        root = lax.rsqrt(variance + epsilon)
    else:
        mean, root = (lax.expand_dims(a.astype(computed), reduced) for a in (mean, lax.rsqrt(variance + epsilon)))
    factor, shift = (None if p is None else p.reshape(shape).astype(computed) for p in (scale, bias))
    if reduced is None:
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


def _layer_value(x: Array, mean: Array, root: Array, scale: Array | None, bias: Array | None) -> Array:
    y = (x.astype(root.dtype) - mean) * (root if scale is None else root * scale)
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
    constant = -dmean * root if center else -dmean * root - mean * droot

    # Arrays of their own keep XLA from storing intermediate results, and `root` at every position, for the sums, and
    # from computing the cotangent once for each of its readers.
    @_from_x
    def tangent(x: Array, mean: Array, root: Array, scale: Array | None, constant: Array, tangents: tuple) -> Array:
        dx, _, droot, dscale, dbias = tangents
        (x, mean, root), (dx,) = distinct(x, mean, root), distinct(dx)
        wide = x.astype(root.dtype) - mean if center else x.astype(root.dtype)
        if scale is None:
            y = dx.astype(root.dtype) * root + wide * droot + constant
        else:
            y = dx.astype(root.dtype) * (root * scale) + wide * _outer(droot, scale) + _outer(constant, scale)
            y = y + (x.astype(root.dtype) - mean) * root * dscale
        return y if dbias is None else y + dbias

    return tangent(x, mean, root, scale, constant, tangents)


@jax.custom_jvp
def _layer(x: Array, mean: Array, root: Array, scale: Array | None, bias: Array | None) -> Array:
    """Compute `_layer_value` with a derivative that sums the cotangent and its product with `x`."""
    return _layer_value(x, mean, root, scale, bias)


@_layer.defjvp
def _layer_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return _layer(*primals), _layer_tangent(False, primals, tangents)


@jax.custom_jvp
def _layer_centered(x: Array, mean: Array, root: Array, scale: Array | None, bias: Array | None) -> Array:
    """Compute `_layer_value` with a derivative whose sums stay accurate if the mean is large beside the deviation."""
    return _layer_value(x, mean, root, scale, bias)


@_layer_centered.defjvp
def _layer_centered_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return _layer_centered(*primals), _layer_tangent(True, primals, tangents)
