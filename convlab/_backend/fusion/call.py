"""How a fused call is lowered: as one call of the engine where it serves the convolution, as it is written elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .. import compat, dispatch
from ..formulations import onednn
from ..problem import Problem
from ..tables import Target, choose
from .chains import Chain, chains
from .program import PREFIX, of_jaxpr

Array = jax.Array
KINDS = {"bias": "BIAS", "add": "BINARY_ADD"}


@dataclasses.dataclass(frozen=True)
class Fused:
    """A fused call that the engine computes: `order` are the operands' places among the call's arguments."""

    chain: Chain
    problem: Problem
    order: tuple[int, ...]


def is_fused(name: str) -> bool:
    return name.startswith(PREFIX)


def plan(jaxpr: Any, target: Target) -> Fused | None:
    """How the engine computes the call with this jaxpr; None if it does not.

    The name of a call outlives transformations that change what is in it, so what counts is the jaxpr.
    """
    if target.platform != "cpu" or not target.engine:
        return None
    program = of_jaxpr(jaxpr)
    found = chains(program)
    others = [op for op in program.ops if len(found) != 1 or op not in found[0].ops]
    if (
        not found
        or any(v.constant is None for op in others for v in op.outputs)
        or program.outputs != [found[0].result]
    ):
        return None
    chain, sizes = found[0], [n for value in program.inputs for n in value.aval.shape]
    if not chain.kinds or not all(isinstance(n, int) for n in sizes) or not set(chain.inputs) <= set(program.inputs):
        return None
    lhs, rhs = (value.aval for value in chain.conv.inputs)
    kind, p = dispatch.read(lhs, rhs, chain.conv.params, "auto", target)
    serves = kind == "forward" and not p.empty and p.dtype == p.out_dtype == jnp.float32 and onednn.takes_epilogues(p)
    if not serves or choose(kind, p, "auto", target).formulation.name != "onednn":
        return None
    return Fused(chain, p, tuple(map(program.inputs.index, chain.inputs)))


def compute(fused: Fused, *arguments: Array) -> Array:
    """One call of the engine on the call's arguments."""
    chain = fused.chain
    x, kernel, *extras = (arguments[place] for place in fused.order)
    numbers = chain.conv.params["dimension_numbers"]
    batch, feature, *space = numbers.lhs_spec
    out = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    out_feature, in_feature, *window = numbers.rhs_spec
    extras = [
        extra.reshape(-1) if value is chain.bias else dispatch.permuted(extra, out)
        for extra, value in zip(extras, [v for v in (chain.bias, chain.residual) if v is not None])
    ]
    ops = [KINDS.get(kind, kind.upper()) for kind in chain.kinds]
    image = dispatch.permuted(x, (batch, *space, feature))
    y = onednn.with_epilogues(image, kernel, fused.problem, (*window, in_feature, out_feature), ops, extras)
    return dispatch.permuted(y, sorted(range(y.ndim), key=out.__getitem__))


def rule(former: Callable, target_of: Callable[[Any], Target]) -> Callable:
    """`jit`'s lowering rule, with fused calls as the engine's."""

    def lower(ctx: Any, *args: Any, **params: Any) -> Sequence[Any]:
        try:
            if is_fused(params["name"]) and compat.is_for_cpu_alone(ctx) and not compat.has_explicit_axes(ctx):
                fused = plan(params["jaxpr"], target_of(ctx)) if len(args) == len(params["jaxpr"].in_avals) else None
                if fused is not None:
                    return compat.lower(ctx, lambda *arrays: compute(fused, *arrays), *args)
        except compat.MOVED as error:
            compat.say_once(error)
        return former(ctx, *args, **params)

    return lower
