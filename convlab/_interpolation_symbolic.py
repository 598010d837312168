"""Interpolation along an axis whose size is symbolic (`jax.export`): positions and weights are computed at run time."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def keys_cubic(d: Array, far: bool) -> Array:
    """Evaluate Keys' cubic with a = -0.75 for distances from 0 to 1 or, if `far`, from 1 to 2."""
    a = -0.75
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a if far else ((a + 2) * d - (a + 3)) * d * d + 1


def interpolate_symbolic(x: Array, number: int, m: Any, step: tuple[Any, Any], kind: str, align_corners: bool) -> Array:
    """Interpolate along axis `number` to `m` positions, `step[0] / step[1]` positions of `x` apart."""
    i, p, q = lax.iota(jnp.int32, m), *(jnp.asarray(part, jnp.int32) for part in step)
    above, below = (i * p, jnp.maximum(q, 1)) if align_corners else ((2 * i + 1) * p - q, 2 * q)
    first, real = above // below, jnp.finfo(x.dtype).dtype
    beyond = (above % below).astype(real) / below.astype(real)
    if kind == "linear":
        taps = {0: 1 - beyond, 1: beyond}
    else:
        taps = {-1: keys_cubic(beyond + 1, True), 0: keys_cubic(beyond, False)}
        taps |= {1: keys_cubic(1 - beyond, False), 2: keys_cubic(2 - beyond, True)}
    return functools.reduce(operator.add, [_weighted(x, number, first + t, weight) for t, weight in taps.items()])


def _weighted(x: Array, number: int, position: Array, weight: Array) -> Array:
    """Multiply the values at the nearest real positions by weights; a weight of 0 adds no 0 * inf."""
    weight = weight.reshape(-1, *(1,) * (x.ndim - 1 - number))
    return jnp.where(weight == 0, 0, weight * _take(x, number, position))


def choose_symbolic(x: Array, number: int, m: Any, step: tuple[Any, Any], exact: bool) -> Array:
    """Select the nearest positions, in PyTorch's arithmetic, along axis `number`."""
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    p, q = (jnp.asarray(part, wide) for part in step)
    i = lax.iota(jnp.int32, m).astype(wide)
    return _take(x, number, jnp.floor((i + 0.5 if exact else i) * (p / q)).astype(jnp.int32))


def _take(x: Array, number: int, position: Array) -> Array:
    return jnp.take(x, jnp.clip(position, 0, x.shape[number] - 1), number, mode="clip")
