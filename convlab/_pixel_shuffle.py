"""Rearrangement of channels into positions and back (subpixel convolution)."""

from __future__ import annotations

import math
from typing import Any

import jax

from ._arguments import (
    argument_error,
    as_array,
    broadcast_to_rank,
    check_image,
    check_not_empty,
    image_rank,
    is_sequence,
)
from .typing import Ints

Array = jax.Array


def pixel_shuffle(x: Array, factor: Ints) -> Array:
    """Rearrange groups of channels into blocks of positions, which enlarges the image.

    Args:
        x: `(*batch, *spatial, c)` of any dtype; the product of the factors divides `c`.
        factor: by which every axis of an `x` with one batch axis grows, an int >= 1, or one per axis.

    Returns:
        `(*batch, *larger, c / product of factors)` of the dtype of `x`; neighbouring channels become neighbouring
        positions, the last axis fastest.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: factors out of range or of the wrong number, channels that they do not divide.

    Example:
        >>> pixel_shuffle(jnp.arange(4).reshape(1, 1, 1, 4), 2)[0, :, :, 0].tolist()
        [[0, 1], [2, 3]]

    Equals `torch.nn.functional.pixel_shuffle`, in any rank.
    Source: Shi et al., "Real-time single image and video super-resolution", arXiv 1609.05158.
    """
    x, factors = _read(x, factor)
    rank, first = len(factors), x.ndim - 1 - len(factors)
    if x.shape[-1] % math.prod(factors):
        rule = f"have channels that {math.prod(factors)} divides"
        raise argument_error("x", rule, x.shape, f"factor {factor!r}")
    split = x.reshape(*x.shape[:-1], x.shape[-1] // math.prod(factors), *factors)
    positions = (axis for i in range(rank) for axis in (first + i, x.ndim + i))
    spatial = (n * f for n, f in zip(x.shape[first:-1], factors))
    return split.transpose(*range(first), *positions, x.ndim - 1).reshape(
        *x.shape[:first], *spatial, split.shape[x.ndim - 1]
    )


def pixel_unshuffle(x: Array, factor: Ints) -> Array:
    """Rearrange blocks of positions into channels, which shrinks the image: the inverse of `pixel_shuffle`.

    Args:
        x: `(*batch, *spatial, c)` of any dtype; each factor divides its axis.
        factor: by which every axis of an `x` with one batch axis shrinks, an int >= 1, or one per axis.

    Returns:
        `(*batch, *smaller, c * product of factors)` of the dtype of `x`.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: factors out of range or of the wrong number, axes that they do not divide.

    Example:
        >>> pixel_unshuffle(jnp.arange(4).reshape(1, 2, 2, 1), 2).tolist()
        [[[[0, 1, 2, 3]]]]

    Equals `torch.nn.functional.pixel_unshuffle`, in any rank.
    """
    x, factors = _read(x, factor)
    rank, first = len(factors), x.ndim - 1 - len(factors)
    spatial = x.shape[first:-1]
    if any(n % f for n, f in zip(spatial, factors)):
        raise argument_error("factor", "divide the spatial axes", factor, f"spatial shape {spatial}")
    split = x.reshape(*x.shape[:first], *(n for size, f in zip(spatial, factors) for n in (size // f, f)), x.shape[-1])
    blocks, within = range(first, first + 2 * rank, 2), range(first + 1, first + 2 * rank, 2)
    smaller = split.transpose(*range(first), *blocks, split.ndim - 1, *within)
    return smaller.reshape(*smaller.shape[: first + rank], x.shape[-1] * math.prod(factors))


def _read(x: Any, factor: Any) -> tuple[Array, tuple[int, ...]]:
    x = as_array("x", x)
    check_not_empty("factor", factor)
    factors = broadcast_to_rank("factor", factor, len(factor) if is_sequence(factor) else image_rank(x, "factor"))
    check_image(x, len(factors))
    if 0 in x.shape[x.ndim - 1 - len(factors) :]:
        raise argument_error("x", "have no empty spatial or channel axis", x.shape)
    return x, factors
