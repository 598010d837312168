"""`explain()`: which formulation each convolution and pool of a program takes, and why.

It traces the program and asks `lowering.plan_of`, which the lowering rules use too, about each equation; it lowers
and runs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from . import compat, engine, lowering
from .accelerate import is_active
from .fusion import call
from .tables import Target
from .tuning import active, device


@dataclasses.dataclass(frozen=True)
class Step:
    """One convolution or pool of a program.

    Attributes:
        operation: "forward" or "kernel gradient" for convolutions, else the kind of pool.
        shapes: the shapes of the operands.
        formulation: the name of the formulation.
        reason: why it was chosen.
        parts: the formulations of its inner convolutions, if it has any.
    """

    operation: str
    shapes: tuple[tuple[int, ...], ...]
    formulation: str
    reason: str
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        shapes = " * ".join("x".join(map(str, s)) or "scalar" for s in self.shapes)
        parts = f" of {', '.join(self.parts)}" if self.parts else ""
        return f"{self.operation:16} {shapes:40} {self.formulation + parts:24} {self.reason}"


class Explanation(tuple):
    """The steps of a program in order; prints as a table."""

    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "\n".join([*map(str, self), *self.notes]) or "no convolution and no pool"


def explain(fn: Callable, *args: Any, platform: str | None = None, **kwargs: Any) -> Explanation:
    """Say which formulation each convolution and pool of a program takes, and why; nothing is run.

    Args:
        fn: a function of arrays, jitted or not; pass `jax.grad(f)` to see the gradients.
        *args, **kwargs: its arguments, or `jax.ShapeDtypeStruct`s in their place.
        platform: "cpu", "gpu" or "tpu"; by default the platform that JAX would run the program on.

    Returns:
        A tuple of steps (`operation`, `shapes`, `formulation`, `reason`, `parts`) that prints as a table. It contains
        lax's own convolutions and pools too, with the formulations that `accelerate()` gives them if it is active.

    Raises:
        TypeError, ValueError: the error that `fn` raises when it is traced.

    Example:
        >>> from convlab import conv
        >>> x, k = jnp.ones((8, 14, 14, 512)), jnp.ones((1, 1, 512, 64))
        >>> explain(conv, x, k, platform="cpu")[0].operation
        'forward'

    Reads the program as `jax.make_jaxpr` traces it.
    """
    platform = device.canonical(platform or jax.default_backend())
    closed = jax.make_jaxpr(lambda *a, **k: fn(*a, **k))(*args, **kwargs)
    steps = (_step(eqn, platform) for eqn in _equations(closed.jaxpr, platform))
    found = Explanation(step for step in steps if step is not None)
    convolves = any(step.operation in ("forward", "kernel gradient") for step in found)
    reason = engine.unavailable_reason() if platform == "cpu" and convolves else None
    found.notes = (f"onednn is not used: {reason}.",) if reason else ()
    unused = active.unused_reason(platform)
    if unused:
        found.notes += (f"The tuning is not used: {unused}.",)
    return found


def _equations(jaxpr: Any, platform: str) -> Iterator[Any]:
    """Yield the equations of a jaxpr and of the jaxprs inside it, except those inside a fused call."""
    from jax.extend import core  # slow to import, and only needed here

    for eqn in jaxpr.eqns:
        yield eqn
        if _fused(eqn, platform) is None:
            for inner in core.jaxprs_in_params(eqn.params):
                yield from _equations(getattr(inner, "jaxpr", inner), platform)


def _fused(eqn: Any, platform: str) -> call.Fused | None:
    """Return the engine's call for an equation that is a fused call; None if it is no such call."""
    if not call.is_fused(str(eqn.params.get("name", ""))) or "jaxpr" not in eqn.params:
        return None
    return call.plan(eqn.params["jaxpr"], Target(platform, engine.supports(platform)))


def _step(eqn: Any, platform: str) -> Step | None:
    """Return the step of an equation; None if it is no convolution and no pool."""
    fused = _fused(eqn, platform)
    if fused is not None:
        shapes = tuple(tuple(value.aval.shape) for value in fused.chain.conv.inputs)
        kinds = " + ".join(fused.chain.kinds)
        reason = f"one call with {kinds}" if kinds else "jaxlib's own engine"
        if fused.is_matmul:
            reason += " as a matrix product" + (", its kernel laid out once" if fused.is_packed else "")
        return Step("forward", shapes, "onednn", reason)
    if eqn.primitive not in lowering.OPERATIONS:
        return None
    operands, shapes = [v.aval for v in eqn.invars], tuple(tuple(v.aval.shape) for v in eqn.invars)
    mark = compat.mark_of(eqn.ctx)
    own = lowering.OPERATIONS[eqn.primitive].own
    unmarked = mark is None and not own and not (platform == "cpu" and is_active())
    target = Target(platform, engine.supports(platform), measured=active.applies_to(platform))
    method = "measured" if unmarked and is_active() and target.measured else mark or "auto"
    plan = lowering.plan_of(eqn.primitive, operands, eqn.params, method, target)
    if unmarked and (plan.formulation == "lax" or method != "measured"):
        reason = "lax's, without convlab.accelerate()" if platform == "cpu" else f"XLA's own on {platform}"
        return Step(plan.operation, shapes, "lax", reason)
    return Step(plan.operation, shapes, plan.formulation, plan.reason, plan.parts)
