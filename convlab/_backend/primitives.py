"""Make convlab's own primitives, with every rule that JAX's interpreters ask for except a lowering.

`pooling.maxima` makes the few primitives for which lax has no derivative or no operation; `lowering` adds their rules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from . import compat


def _new_primitive(name: str, abstract: Callable, with_batch_axis: Callable[[dict], dict], jvp: Callable) -> Any:
    """Make a primitive with evaluation, abstract evaluation, batching and a JVP rule."""
    primitive = compat.Primitive(name)
    primitive.def_impl(functools.partial(compat.apply_primitive, primitive))
    primitive.def_abstract_eval(abstract)

    def batch(args: Any, dims: Any, **params: Any) -> Any:
        size = next(a.shape[d] for a, d in zip(args, dims) if d is not None)
        moved = [
            jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims)
        ]
        return primitive.bind(*moved, **with_batch_axis(params)), 0

    compat.JVPS[primitive], compat.BATCHERS[primitive] = functools.partial(jvp, primitive), batch
    return primitive


def _zero_like(out: Any) -> Any:
    return compat.Zero(jax.typeof(out).to_tangent_aval())


def new_discrete_primitive(name: str, abstract: Callable, with_batch_axis: Callable[[dict], dict]) -> Any:
    """Make a primitive `f(x)` with integer results, which has no derivative."""

    def jvp(primitive: Any, primals: Any, tangents: Any, **params: Any) -> Any:
        out = primitive.bind(*primals, **params)
        return out, _zero_like(out)

    return _new_primitive(name, abstract, with_batch_axis, jvp)


def new_linear_primitive(name: str, abstract: Callable, with_batch_axis: Callable[[dict], dict]) -> Any:
    """Make a primitive `f(x, v)` that is linear in `v` and constant almost everywhere in `x`."""

    def jvp(primitive: Any, primals: Any, tangents: Any, **params: Any) -> Any:
        (x, v), (_, dv) = primals, tangents
        out = primitive.bind(x, v, **params)
        return out, _zero_like(out) if type(dv) is compat.Zero else primitive.bind(x, dv, **params)

    return _new_primitive(name, abstract, with_batch_axis, jvp)


def make_transposes(f: Any, g: Any) -> None:
    """Declare `v -> f(x, v)` and `v -> g(x, v)` each other's transpose."""
    for primitive, other in ((f, g), (g, f)):

        def rule(cotangent: Any, x: Any, v: Any, other: Any = other, **params: Any) -> Any:
            return None, cotangent if type(cotangent) is compat.Zero else other.bind(x, cotangent, **params)

        compat.TRANSPOSES[primitive] = rule
