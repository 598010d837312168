"""A walk over the equations of a program, for any values: spans or arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "checkpoint",
    "remat",
    "remat2",
}


def walk(closed: Any, arguments: Sequence[Any], constant: Callable, step: Callable) -> list[Any]:
    """Evaluate a closed jaxpr with `step(eqn, following, inputs) -> outputs` for every equation, including those of
    calls.

    `constant` converts literals and constants to values; `following` are the equations after `eqn`.
    """
    return _walk(closed.jaxpr, [constant(c) for c in closed.consts], arguments, constant, step)


def _walk(jaxpr: Any, consts: Iterable[Any], arguments: Iterable[Any], constant: Callable, step: Callable) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments]))

    def value(atom: Any) -> Any:
        return constant(atom.val) if hasattr(atom, "val") else values[atom]

    for number, eqn in enumerate(jaxpr.eqns):
        inputs = [value(v) for v in eqn.invars]
        inner = _called(eqn)
        if inner is None:
            outputs = step(eqn, jaxpr.eqns[number + 1 :], inputs)
        else:
            outputs = _walk(inner.jaxpr, [constant(c) for c in inner.consts], inputs, constant, step)
        values.update(zip(eqn.outvars, outputs))
    return [value(v) for v in jaxpr.outvars]


def _called(eqn: Any) -> Any:
    """Return the closed jaxpr that an equation calls, or None if the equation does more than call it."""
    if eqn.primitive.name not in CALLS:
        return None
    from jax.extend import core

    inner = next(core.jaxprs_in_params(eqn.params), None)
    if inner is None or len(getattr(inner, "jaxpr", inner).invars) != len(eqn.invars):
        return None
    return inner if hasattr(inner, "consts") else core.ClosedJaxpr(inner, ())
