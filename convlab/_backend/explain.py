"""Which formulation each convolution and pool of a program takes, and why."""

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

    `operation` is "forward", "kernel gradient" (convolutions) or the kind of pool; `shapes` those of the operands;
    `parts` the formulations of the convolutions that the formulation is made of, if it is made of any.
    """

    operation: str
    shapes: tuple[tuple[int, ...], ...]
    formulation: str
    reason: str
    parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        shapes = " * ".join("x".join(map(str, s)) or "scalar" for s in self.shapes)
        made = f" of {', '.join(self.parts)}" if self.parts else ""
        return f"{self.operation:16} {shapes:40} {self.formulation + made:24} {self.reason}"


class Explanation(tuple):
    """The steps of a program in the order in which it takes them; prints as a table."""

    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "\n".join([*map(str, self), *self.notes]) or "no convolution and no pool"


def explain(fn: Callable, *args: Any, platform: str | None = None, **kwargs: Any) -> Explanation:
    """Says which formulation each convolution and pool of a program takes, and why. Nothing is run.

    Args:
        fn: a function of arrays, jitted or not; pass `jax.grad(f)` to see the gradients.
        *args, **kwargs: its arguments, or `jax.ShapeDtypeStruct`s in their place.
        platform: "cpu", "gpu" or "tpu"; default where JAX would run it.

    Returns:
        A tuple of steps (`operation`, `shapes`, `formulation`, `reason`, `parts`) that prints as a table. lax's own
        operations are among them; inside `accelerate()` they are what convlab makes of them.

    Raises:
        TypeError, ValueError: what `fn` raises when it is traced.

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
    why = (
        engine.available()
        if platform == "cpu" and any(step.operation in ("forward", "kernel gradient") for step in found)
        else None
    )
    found.notes = (f"onednn is not used: {why}.",) if why else ()
    unused = active.unused(platform)
    if unused:
        found.notes += (f"The tuning is not used: {unused}.",)
    return found


def _equations(jaxpr: Any, platform: str) -> Iterator[Any]:
    from jax.extend import core  # slow to import, and only needed here

    for eqn in jaxpr.eqns:
        yield eqn
        if _fused(eqn, platform) is None:
            for inner in core.jaxprs_in_params(eqn.params):
                yield from _equations(getattr(inner, "jaxpr", inner), platform)


def _fused(eqn: Any, platform: str) -> call.Fused | None:
    """What the engine makes of an equation that is a convolution and what follows it."""
    if not call.is_fused(str(eqn.params.get("name", ""))) or "jaxpr" not in eqn.params:
        return None
    return call.plan(eqn.params["jaxpr"], Target(platform, platform == "cpu" and engine.available() is None))


def _step(eqn: Any, platform: str) -> Step | None:
    fused = _fused(eqn, platform)
    if fused is not None:
        shapes = tuple(tuple(value.aval.shape) for value in fused.chain.conv.inputs)
        kinds = " + ".join(fused.chain.kinds)
        return Step("forward", shapes, "onednn", f"one call with {kinds}" if kinds else "jaxlib's own engine")
    if eqn.primitive not in lowering.OPERATIONS:
        return None
    operands, shapes = [v.aval for v in eqn.invars], tuple(tuple(v.aval.shape) for v in eqn.invars)
    mark = compat.mark_of(eqn.ctx)
    own = lowering.OPERATIONS[eqn.primitive].own
    unmarked = mark is None and not own and not (platform == "cpu" and is_active())
    target = Target(platform, platform == "cpu" and engine.available() is None, measured=active.serves(platform))
    method = "measured" if unmarked and is_active() and target.measured else mark or "auto"
    plan = lowering.plan_of(eqn.primitive, operands, eqn.params, method, target)
    if unmarked and plan.formulation == "lax" or unmarked and method != "measured":
        elsewhere = (
            "lax's, without convlab.accelerate()" if platform == "cpu" else f"what XLA makes of it on {platform}"
        )
        return Step(plan.operation, shapes, "lax", elsewhere)
    return Step(plan.operation, shapes, plan.formulation, plan.reason, plan.parts)
