"""Max unpooling: the inverse of a max pool with indices."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from . import _backend
from ._arguments import (
    argument_error,
    as_array,
    broadcast_sizes,
    check_axis_sizes,
    check_image,
    check_not_empty,
    image_rank,
    index_dtype,
    is_int,
    is_sequence,
)
from ._backend.unpool import unpool
from .typing import Ints

Array = jax.Array


def max_unpool(x: Array, indices: Array, output_shape: Ints) -> Array:
    """Scatter every value of `x` to its position in an image of zeros: the inverse of a max pool.

    Args:
        x: `(*batch, *spatial, c)` of any dtype.
        indices: integers of the shape of `x`, flat over `output_shape`, as `max_pool` returns them with
            `return_indices`.
        output_shape: the spatial sizes of the result, those of the image that was pooled; an int means every axis of an
            `x` with one batch axis.

    Returns:
        `(*batch, *output_shape, c)` of the dtype of `x`. Indices are known only at run time: an index outside the
        result is dropped, where PyTorch raises, and so is the -1 of a window of padding only. Of values with equal
        indices one is stored, and the gradient goes to all of them.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: `indices` of another shape than `x`, sizes out of range or of the wrong number.

    Example:
        >>> y, at = max_pool(jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1), 2, 2, return_indices=True)
        >>> max_unpool(y, at, 4).ravel().tolist()
        [0.0, 3.0, 2.0, 0.0]

    Equals `torch.nn.functional.max_unpool2d` with its `output_size`, in any rank.
    Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks", arXiv 1311.2901.
    """
    if _backend.is_split(x, len(output_shape) if is_sequence(output_shape) else getattr(x, "ndim", 0) - 2):
        return _backend.map_over_batch(lambda x, indices: max_unpool(x, indices, output_shape), (x, indices))
    x, indices = as_array("x", x), as_array("indices", indices)
    check_not_empty("output_shape", output_shape)
    rank = len(output_shape) if is_sequence(output_shape) else image_rank(x, "output_shape")
    shape = broadcast_sizes("output_shape", output_shape, rank)
    check_image(x, rank)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise argument_error("indices", "be integers", indices.dtype.name, kind=TypeError)
    if indices.shape != x.shape:
        raise argument_error("indices", f"have the shape of `x`, {x.shape}", indices.shape)
    check_axis_sizes("output_shape", shape, output_shape)
    if all(map(is_int, shape)) and math.prod(shape) - 1 > jnp.iinfo(indices.dtype).max:
        rule = f"have at most {jnp.iinfo(indices.dtype).max + 1} positions"
        raise argument_error("output_shape", rule, output_shape, f"indices of dtype {indices.dtype.name}")
    index_dtype(shape, "output_shape")
    if 0 in x.shape[x.ndim - 1 - rank :]:
        raise argument_error("x", "have no empty spatial or channel axis", x.shape)
    batch, channels = x.shape[: x.ndim - 1 - rank], x.shape[-1]
    images = (math.prod(batch), *x.shape[len(batch) :])
    y = _put(x.reshape(images), indices.reshape(images), shape)
    return y.reshape(*batch, *shape, channels)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _put(x: Array, indices: Array, shape: tuple[int, ...]) -> Array:
    """Scatter `(n, *spatial, c)` values to their indices in `(n, *shape, c)` zeros."""
    return unpool(x, indices, shape, adding=False)


@_put.defjvp
def _put_jvp(shape: tuple[int, ...], primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # a scatter that adds: its transpose brings the cotangent of a position to every value with that index
    (x, indices), (dx, _) = primals, tangents
    return _put(x, indices, shape), unpool(dx, indices, shape, adding=True)
