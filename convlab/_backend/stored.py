"""Identities that determine what XLA stores: `with_stored_derivative` and `distinct`.

XLA fuses an elementwise result into everything that reads it, and so computes it once for each reader. Where
derivatives add up along a chain of layers, as those of DenseNet's blocks, the last reader computes all of the chain
again: loops whose length grows with the depth, and a time to compile that grows with its square.

Where a derivative recomputes functions of `x`, XLA may find that they are equal to those of the value, and store them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from . import compat
from .buffers import no_inline

Array = jax.Array

STORED, DISTINCT = "stored", "distinct"  # the marks of a barrier


@jax.custom_jvp
def with_stored_derivative(x: Array) -> Array:
    """Return `x`, of a floating dtype."""
    return x


@with_stored_derivative.defjvp
def _jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    if not compat.has_hooks or not all(isinstance(n, int) for n in x.shape):
        return x, dx
    with compat.marked(STORED):  # an operation of lax that JAX differentiates, maps and transposes
        return x, lax.optimization_barrier(dx)


def distinct(*arrays: Array) -> Sequence[Array]:
    """Return the arrays, as ones that XLA does not know to be equal to the given ones.

    On a TPU they are the given ones: XLA stores little there for the value and the derivative in common, and does not
    fuse a sum over a barrier into the product before it."""
    with compat.marked(DISTINCT, *arrays):
        return lax.optimization_barrier(arrays)


def rule(original_rule: Callable) -> Callable:
    """Return the lowering rule of `lax.optimization_barrier`.

    Marked as stored, it stores its operand on the CPU if it is on one device, and is the identity elsewhere. Marked as
    distinct, it is the identity on a TPU."""

    def lower(ctx: Any, *args: Any, **params: Any) -> Sequence[Any]:
        if compat.method_of(ctx) == DISTINCT and compat.platforms_of(ctx) == ("tpu",):
            return args
        if compat.method_of(ctx) != STORED or len(args) != 1:
            return original_rule(ctx, *args, **params)
        split = compat.is_partitioned(ctx) or compat.has_explicit_axes(ctx)
        if split or compat.platforms_of(ctx) != ("cpu",):
            return args
        # XLA removes barriers before it fuses; a function that is not inlined stays, and copies nothing.
        return compat.lower(ctx, lambda x: no_inline(lax.optimization_barrier, x), *args)

    return lower
