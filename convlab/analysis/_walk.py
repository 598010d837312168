"""One walk over a program, with what it computes left open: spans, or the numbers themselves."""

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
    """Evaluates a closed jaxpr: `step(eqn, following, inputs) -> outputs` for every equation, calls entered.

    `constant` turns literals and constants into values; `following` are the equations after `eqn`.
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
    """The closed jaxpr of an equation that only calls it."""
    if eqn.primitive.name not in CALLS:
        return None
    from jax.extend import core

    inner = next(core.jaxprs_in_params(eqn.params), None)
    if inner is None or len(getattr(inner, "jaxpr", inner).invars) != len(eqn.invars):
        return None
    return inner if hasattr(inner, "consts") else core.ClosedJaxpr(inner, ())
