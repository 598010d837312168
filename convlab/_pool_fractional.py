"""Fractional max pooling: windows at pseudo-random distances."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._arguments import (
    argument_error,
    as_array,
    broadcast_to_rank,
    check_axis_sizes,
    check_not_empty,
    check_ordered_dtype,
    describe_axes,
    index_dtype,
    is_sequence,
    spatial_shape,
)
from ._pool import max_pool
from ._pool_windows import read_pool
from ._window import Window
from .typing import Floats, Ints

Array = jax.Array


@overload
def fractional_max_pool(
    x: Array, window_shape: Ints, *, output_shape: Ints | None = ..., output_ratio: Floats | None = ...,
    key: Array | None = ..., samples: Array | None = ..., return_indices: Literal[False] = ...,
) -> Array: ...  # fmt: skip
@overload
def fractional_max_pool(
    x: Array, window_shape: Ints, *, output_shape: Ints | None = ..., output_ratio: Floats | None = ...,
    key: Array | None = ..., samples: Array | None = ..., return_indices: Literal[True],
) -> tuple[Array, Array]: ...  # fmt: skip
@overload
def fractional_max_pool(
    x: Array, window_shape: Ints, *, output_shape: Ints | None = ..., output_ratio: Floats | None = ...,
    key: Array | None = ..., samples: Array | None = ..., return_indices: bool,
) -> Array | tuple[Array, Array]: ...  # fmt: skip
def fractional_max_pool(
    x: Array,
    window_shape: Ints,
    *,
    output_shape: Ints | None = None,
    output_ratio: Floats | None = None,
    key: Array | None = None,
    samples: Array | None = None,
    return_indices: bool = False,
) -> Array | tuple[Array, Array]:
    """Take the maximum of windows at pseudo-random, nearly equal distances, which shrinks an image by any factor.

    Args:
        x: `(*batch, *spatial, c)` of a real dtype.
        window_shape: taps along each spatial axis; an int means every axis of an `x` with one batch axis.
        output_shape: the sizes of the result, an int or one per axis; at most `n - window + 1`.
        output_ratio: instead, the sizes as parts of the input's, a number between 0 and 1 or one per axis.
        key: a JAX random key, to draw the samples with.
        samples: instead, `(*batch, c, n_spatial)` numbers in [0, 1): the offset of the first window of each channel and
            axis within a step. Their order is that of the axes; PyTorch's is reversed in two dimensions.
        return_indices: also return the positions of the maxima.

    Returns:
        `(*batch, *output_shape, c)` of the dtype of `x`; with `return_indices` also indices of that shape, flat over
        the spatial axes. Ties, NaN, the gradient and the dtype of the indices as in `max_pool`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: windows that do not fit, both or neither of `output_shape` and `output_ratio`, or of `key` and
            `samples`.

    Example:
        >>> x = jnp.array([1.0, 4.0, 2.0, 3.0, 0.0]).reshape(1, 5, 1)
        >>> fractional_max_pool(x, 2, output_shape=3, samples=jnp.full((1, 1, 1), 0.4)).ravel().tolist()
        [4.0, 3.0, 3.0]

    Equals `torch.nn.functional.fractional_max_pool2d` with the same samples; 16-bit samples are converted to float32,
    where PyTorch rounds every step of its sequence to 16 bits.
    It has no `valid`: windows follow from the size of the image.
    Source: Graham, "Fractional max-pooling", arXiv 1412.6071.
    """
    x, window = read_pool(x, window_shape, 1, "VALID")
    check_ordered_dtype(x)
    spatial, rank = spatial_shape(x, window.rank), window.rank
    out = _fractional_shape(output_shape, output_ratio, spatial, window)
    batch, channels = x.shape[: x.ndim - 1 - rank], x.shape[-1]
    samples = _samples(key, samples, (*batch, channels, rank))
    images, dtype = math.prod(batch), index_dtype(spatial) if return_indices else jnp.dtype(jnp.int32)
    y = x.reshape(images, *spatial, channels)
    positions = []
    for axis, (n, k, m) in enumerate(zip(spatial, window.size, out)):
        check_axis_sizes("window_shape", [m * k], window_shape, f"output_shape {out}")
        starts = _starts(samples[..., axis].reshape(images, channels), n, k, m)
        position = starts[:, :, None] + lax.broadcasted_iota(jnp.int32, (1, 1, k, 1), 2)
        position = position.reshape(images, m * k, channels)
        y = jnp.take_along_axis(y, jnp.expand_dims(position, [a + 1 for a in range(rank) if a != axis]), axis + 1)
        positions.append(position)
    y = y.reshape(*batch, *y.shape[1:])
    if not return_indices:
        return max_pool(y, window.size, window.size)
    cut = y.shape[len(batch) : -1]
    y, at = max_pool(y, window.size, window.size, return_indices=True)
    flat, index = at.reshape(images, math.prod(out), channels), jnp.zeros((), dtype)
    for axis, (n, position) in enumerate(zip(spatial, positions)):
        along = flat // math.prod(cut[axis + 1 :]) % cut[axis]
        index = index * n + jnp.take_along_axis(position, along, 1).astype(dtype)
    return y, index.reshape(at.shape)


def _fractional_shape(output_shape: Any, output_ratio: Any, spatial, window: Window) -> tuple[int, ...]:
    if (output_shape is None) == (output_ratio is None):
        rule = "be given" if output_shape is None else "be None"
        raise argument_error(
            "output_shape", rule, output_shape, f"output_ratio {output_ratio!r}", "Give one of the two."
        )
    if output_ratio is not None:
        ratios = output_ratio if is_sequence(output_ratio) else (output_ratio,) * window.rank
        rule = "be a number between 0 and 1, or one per axis"
        if not all(isinstance(r, (int, float, np.number)) for r in ratios):
            raise argument_error("output_ratio", rule, output_ratio, describe_axes(window.rank), kind=TypeError)
        if len(ratios) != window.rank or not all(0 < r < 1 for r in ratios):
            raise argument_error("output_ratio", rule, output_ratio, describe_axes(window.rank))
        output_shape = tuple(int(n * r) for n, r in zip(spatial, ratios))
    check_not_empty("output_shape", output_shape)
    out, most = broadcast_to_rank("output_shape", output_shape, window.rank), window.out(spatial)
    if any(m > limit for m, limit in zip(out, most)):
        rule = f"be at most {most}"
        raise argument_error(
            "output_shape", rule, output_shape, f"spatial shape {spatial} and window_shape {window.size}"
        )
    return out


def _samples(key: Any, samples: Any, shape: tuple[int, ...]) -> Array:
    if (key is None) == (samples is None):
        rule = "be given" if samples is None else "be None"
        raise argument_error("samples", rule, samples, f"key {key!r}", "Give one of the two.")
    if samples is None:
        return jax.random.uniform(key, shape)
    samples = as_array("samples", samples)
    if not jnp.issubdtype(samples.dtype, jnp.floating):
        raise argument_error("samples", "be floating-point numbers", samples.dtype.name, kind=TypeError)
    if samples.shape != shape:
        raise argument_error("samples", f"have shape {shape}, (*batch, c, n_spatial)", samples.shape)
    return samples.astype(jnp.float32) if jnp.finfo(samples.dtype).bits < 32 else samples


def _starts(samples: Array, n: int, k: int, m: int) -> Array:
    """Return the starts of the `m` windows of size `k` on an axis of size `n`, `(batch, m, c)`; the last ends with
    it."""
    step = jnp.asarray((n - k) / max(m - 1, 1), samples.dtype)
    u = samples[:, None]
    number = lax.broadcasted_iota(samples.dtype, (1, m - 1, 1), 1)
    at = ((number + u) * step).astype(jnp.int32) - (u * step).astype(jnp.int32)
    return jnp.concatenate([at, jnp.full((*samples.shape[:1], 1, samples.shape[-1]), n - k, jnp.int32)], 1)
