"""Which formulation each convolution and pool of a program takes, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax

from . import dispatch, engine, tables
from .accelerate import is_active

POOLS = {
    "convlab_window_sum": "sum",
    "convlab_window_max": "max",
    "convlab_window_min": "min",
    "convlab_max_tangent": "max tangent",
    "convlab_min_tangent": "min tangent",
    "convlab_max_cotangent": "max gradient",
    "convlab_min_cotangent": "min gradient",
}
LAX_POOLS = {
    lax.reduce_window_sum_p: "sum",
    lax.reduce_window_max_p: "max",
    lax.reduce_window_min_p: "min",
    lax.select_and_gather_add_p: "max tangent",
    lax.select_and_scatter_add_p: "max gradient",
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One convolution or pool of a program.

    `operation` is "forward", "kernel gradient" (convolutions) or the kind of pool; `shapes` those of the operands; `parts` the
    formulations of the convolutions that the formulation is made of, if it is made of any.
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
        A tuple of steps (`operation`, `shapes`, `formulation`, `reason`, `parts`) that prints as a table. lax's own operations are among
        them; inside `accelerate()` they are what convlab makes of them.

    Raises:
        TypeError, ValueError: what `fn` raises when it is traced.

    Example:
        >>> from convlab import conv
        >>> x, k = jnp.ones((8, 14, 14, 512)), jnp.ones((1, 1, 512, 64))
        >>> explain(conv, x, k, platform="cpu")[0].operation
        'forward'

    Reads the program as `jax.make_jaxpr` traces it.
    """
    platform = platform or jax.default_backend()
    closed = jax.make_jaxpr(lambda *a, **k: fn(*a, **k))(*args, **kwargs)
    found = Explanation(step for eqn in _equations(closed.jaxpr) for step in _steps(eqn, platform))
    why = (
        engine.available()
        if platform == "cpu" and any(step.operation in ("forward", "kernel gradient") for step in found)
        else None
    )
    found.notes = (f"onednn is not used: {why}.",) if why else ()
    return found


def _equations(jaxpr: Any) -> Iterator[Any]:
    from jax.extend import core  # slow to import, and only needed here

    for eqn in jaxpr.eqns:
        yield eqn
        for inner in core.jaxprs_in_params(eqn.params):
            yield from _equations(getattr(inner, "jaxpr", inner))


def _steps(eqn: Any, platform: str) -> Iterator[Step]:
    name, shapes = eqn.primitive.name, tuple(tuple(v.aval.shape) for v in eqn.invars)
    ours, accelerated = name.startswith("convlab_"), is_active()
    here = platform == "cpu" and (ours or accelerated)
    tuned = here or ours and platform == "tpu"
    elsewhere = "lax's, without convlab.accelerate()" if platform == "cpu" else f"what XLA makes of it on {platform}"
    if name.startswith("convlab_conv") or eqn.primitive is lax.conv_general_dilated_p:
        yield _convolution(eqn, shapes, name.partition("convlab_conv_")[2] or "auto", platform, tuned, elsewhere)
    elif name in POOLS or eqn.primitive in LAX_POOLS:
        kind = POOLS.get(name) or LAX_POOLS[eqn.primitive]
        derivative = ours and " " in kind and platform != "tpu"
        formulation, reason = ("windows", "slices and selects, no scatter") if here or derivative else ("lax", elsewhere)
        yield Step(kind, shapes, formulation, reason)


def _convolution(eqn: Any, shapes: tuple, method: str, platform: str, tuned: bool, elsewhere: str) -> Step:
    lhs, rhs = (v.aval for v in eqn.invars)
    kind, _ = dispatch.read(lhs, rhs, eqn.params)
    operation = kind.replace("_", " ")
    if not dispatch.is_static(lhs, rhs):
        return Step(operation, shapes, "lax", "a size is symbolic: nothing to choose by")
    if not tuned and method == "auto":
        return Step(operation, shapes, "lax", elsewhere)
    with tables.recorded() as choices:
        jax.eval_shape(lambda x, k: dispatch.conv(x, k, method, platform=platform, **eqn.params), lhs, rhs)
    (formulation, reason), *parts = choices or [("lax", "nothing to compute")]
    return Step(operation, shapes, formulation, reason, tuple(dict.fromkeys(name for name, _ in parts)))
