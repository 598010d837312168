"""Twins: lax's primitives under another name, so that they can be lowered otherwise without touching anything global.

A twin borrows lax's mathematics by replay: its abstract value is lax's; its derivatives and batched forms are what JAX derives
for lax's primitive, traced and evaluated with the twin in lax's place. So derivatives of any order, and any `vmap` of them, reach
the twin's lowering rules, and what JAX changes in its derivatives changes here with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching, mlir

if TYPE_CHECKING:
    from jax.extend.core import Primitive
else:
    Primitive = type(lax.add_p)  # that import costs more than all of convlab's


def replay(original: Primitive, twin: Primitive, fun: Callable, *args: jax.Array) -> Any:
    """`fun(*args)`, for one result, with `twin` in the place of `original`."""
    closed = jax.make_jaxpr(fun)(*args)
    values = dict(zip([*closed.jaxpr.constvars, *closed.jaxpr.invars], [*closed.consts, *args]))

    def value(atom):
        return atom.val if hasattr(atom, "val") else values[atom]

    for eqn in closed.jaxpr.eqns:
        primitive = twin if eqn.primitive is original else eqn.primitive
        outs = primitive.bind(*map(value, eqn.invars), **eqn.primitive.get_bind_params(eqn.params))
        values.update(zip(eqn.outvars, outs if primitive.multiple_results else [outs]))
    return value(closed.jaxpr.outvars[0])


@functools.lru_cache(maxsize=4096)
def _compiled(primitive: Primitive, params: tuple) -> Callable:
    return jax.jit(functools.partial(primitive.bind, **dict(params)))


def new_primitive(name: str, abstract: Callable) -> Primitive:
    """A primitive with one result that compiles itself when it is called outside `jit`."""
    primitive = Primitive(name)
    primitive.def_impl(lambda *args, **params: _compiled(primitive, tuple(sorted(params.items())))(*args))
    primitive.def_abstract_eval(abstract)
    return primitive


def abstract_of(original: Primitive) -> Callable:
    return lambda *avals, **params: original.abstract_eval(*avals, **params)[0]


def make_twin(original: Primitive, name: str) -> Primitive:
    """A primitive with one result that means what `original` means; its derivatives are the caller's to define."""
    twin = new_primitive(name, abstract_of(original))

    def batch(args, dims, **params):
        mapped = jax.vmap(functools.partial(original.bind, **params), in_axes=tuple(dims))
        return replay(original, twin, mapped, *args), 0

    batching.primitive_batchers[twin] = batch
    mlir.register_lowering(twin, mlir.lower_fun(original.bind, multiple_results=False))
    return twin


def transpose_by_replay(original: Primitive, twin: Primitive, at: int) -> Callable:
    """The rule that transposes `twin` in its argument `at`."""

    def rule(cotangent, *args, **params):
        if type(cotangent) is ad.Zero:
            return cotangent
        others = [a for i, a in enumerate(args) if i != at]
        aval = args[at].aval

        def transpose(cotangent, *others):
            def linear(x):
                return original.bind(*others[:at], x, *others[at:], **params)

            return jax.linear_transpose(linear, aval)(cotangent)[0]

        return replay(original, twin, transpose, cotangent, *others)

    return rule


def zero_like(out: jax.Array) -> ad.Zero:
    """The symbolic zero that is the tangent of a result on which nothing depends."""
    return ad.Zero(jax.typeof(out).to_tangent_aval())


def make_linear(name: str, abstract: Callable) -> Primitive:
    """A primitive `f(x, v)` linear in `v` and constant almost everywhere in `x`, both with one window parameter an axis."""
    primitive = new_primitive(name, abstract)

    def jvp(primals, tangents, **params):
        (x, v), (_, dv) = primals, tangents
        out = primitive.bind(x, v, **params)
        return out, zero_like(out) if type(dv) is ad.Zero else primitive.bind(x, dv, **params)

    def batch(args, dims, **params):
        size = next(a.shape[d] for a, d in zip(args, dims) if d is not None)
        args = [jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims)]
        return primitive.bind(*args, **with_batch_axis(params)), 0

    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    return primitive


def make_transposes(f: Primitive, g: Primitive) -> None:
    """Declares `v -> f(x, v)` and `v -> g(x, v)` each other's transpose."""
    for primitive, other in ((f, g), (g, f)):

        def rule(cotangent, x, v, other=other, **params):
            return None, cotangent if type(cotangent) is ad.Zero else other.bind(x, cotangent, **params)

        ad.primitive_transposes[primitive] = rule


def with_batch_axis(params: dict) -> dict:
    """Window parameters for operands with one more axis in front."""
    first = {"padding": (0, 0)}
    return {k: (first.get(k, 1), *v) if isinstance(v, tuple) else v for k, v in params.items()}
