"""Lower a fused call: as one call of the engine if `onednn` supports its convolution, otherwise by JAX's own rule.

`lowering` registers `rule` for the primitive of `jax.jit`; `chains.make_call` makes the fused calls.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import compat, dispatch, engine
from ..formulations import onednn
from ..problem import Kind, Problem
from ..tables import Target, choose
from . import packing
from .chains import Chain, Packed, axes_of, find_chains, is_product
from .program import FUSED, Op, Value, from_jaxpr

Array = jax.Array
MATMUL_ROWS = 1024
KINDS = {"bias": "BIAS", "add": "BINARY_ADD"}


@dataclasses.dataclass(frozen=True)
class Fused:
    """A fused call that the engine computes.

    `order` are the positions of the chain's operands among the call's arguments. `is_packed` tells whether the kernel
    is packed as the engine's matrix product reads it.
    """

    chain: Chain
    problem: Problem
    order: tuple[int, ...]
    is_packed: bool = False

    @property
    def is_matmul(self) -> bool:
        """Return whether the call is the engine's matrix product, and not its convolution."""
        return self.is_packed or is_matmul(self.problem)


def is_matmul(p: Problem) -> bool:
    """Return whether the engine's matrix product computes a problem faster than its convolution.

    Both are as fast on many positions; on few, most of a convolution's time goes into its kernel's new layout and into
    the call itself. Without AVX-512 the product was not measured.
    """
    rows = p.batch * math.prod(p.spatial)
    moves = p.groups != 1 or p.out != p.spatial
    few = packing.is_pointwise(p) and not moves and rows < MATMUL_ROWS
    return few and "avx512bw" in engine.instructions()


def is_fused(name: str) -> bool:
    """Return whether a jitted function of that name is a fused call."""
    return name.startswith(FUSED)


def plan(jaxpr: Any, target: Target) -> Fused | None:
    """Return how the engine computes the call with this jaxpr; None if it cannot.

    A call keeps its name under transformations that change its jaxpr, so only the jaxpr decides.
    """
    if target.platform != "cpu" or not target.engine:
        return None
    program = from_jaxpr(jaxpr)
    found = find_chains(program)
    if len(found) != 1 or program.outputs != [found[0].result]:
        return None
    chain = found[0]
    if not all(isinstance(n, int) for value in program.inputs for n in value.aval.shape):
        return None
    p = _engine_problem(chain.conv, target)
    if p is None:
        return None
    x, kernel, *extras = chain.inputs
    packed = packing.find_packed(kernel, program, p, _kernel_axes(chain.conv))
    source, unpacking = packed or (kernel, [])
    if packed and not packing.is_known(p, engine_ops(chain)):
        return None
    computes_more = any(v.constant is None for op in {*program.ops} - {*chain.ops, *unpacking} for v in op.outputs)
    operands = [x, source, *extras]
    if computes_more or not set(operands) <= set(program.inputs):
        return None
    return Fused(chain, p, tuple(map(program.inputs.index, operands)), packed is not None)


def engine_ops(chain: Chain) -> tuple[str, ...]:
    """Return the engine's names of what follows a chain's convolution."""
    return tuple(KINDS.get(kind, kind.upper()) for kind in chain.kinds)


def pack_kernels(chains: Sequence[Chain]) -> dict[Chain, Packed]:
    """Return the chains' constant kernels in the layout of the engine's matrix product, where that is faster.

    Each kernel in lax's layout is removed from its chain.
    """
    target = Target("cpu", engine.supports("cpu"))
    problems = {chain: p for chain in chains if (p := _packable(chain, target)) is not None}
    packing.try_products([(p, engine_ops(chain)) for chain, p in problems.items()])
    found = {}
    for chain, p in problems.items():
        if packing.is_known(p, engine_ops(chain)):
            (x, kernel), axes = chain.conv.inputs, _kernel_axes(chain.conv)
            chain.conv.inputs = x, Value(kernel.aval)
            found[chain] = Packed(packing.pack(np.transpose(kernel.constant, np.argsort(axes)), p), _unpacking(p, axes))
            del kernel
    return found


def _packable(chain: Chain, target: Target) -> Problem | None:
    """Return the problem of a chain with a constant kernel that is better packed; None if it is better as it is."""
    sizes = [n for v in chain.inputs for n in v.aval.shape]
    if chain.conv.inputs[1].constant is None or not target.engine or not all(isinstance(n, int) for n in sizes):
        return None
    p = _engine_problem(chain.conv, target)
    return p if p is not None and packing.pays(p) else None


def _unpacking(p: Problem, axes: tuple[int, ...]) -> Callable[[Array], Array]:
    return lambda packed: packing.unpack(packed, p, axes)


def _kernel_axes(conv: Op) -> tuple[int, ...]:
    """Return the kernel's axes as positions in (*window, in, out)."""
    out_feature, in_feature, *window = axes_of(conv).rhs_spec
    return tuple(int(i) for i in np.argsort((*window, in_feature, out_feature)))


def _engine_problem(conv: Op, target: Target) -> Problem | None:
    """Return the problem of a chain's convolution or product if the engine computes it and what follows; else None."""
    kind, p = _problem(conv, target)
    supported = kind == "forward" and not p.empty and p.dtype == p.out_dtype == jnp.float32
    if not supported or not onednn.takes_epilogues(p):
        return None
    return p if choose(kind, p, "auto", target).formulation.name == "onednn" else None


def _problem(conv: Op, target: Target) -> tuple[Kind, Problem]:
    """Return the map and the problem of a chain's convolution or product."""
    lhs, rhs = (value.aval for value in conv.inputs)
    if not is_product(conv):
        return dispatch.read(lhs, rhs, conv.params, "auto", target)
    numbers, rank = axes_of(conv), lhs.ndim - 2
    ones = (1,) * rank
    return "forward", Problem(
        batch=lhs.shape[0],
        spatial=lhs.shape[1:-1],
        channels=lhs.shape[-1],
        window=ones,
        features=rhs.shape[numbers.rhs_spec[0]],
        strides=ones,
        pads=((0, 0),) * rank,
        input_dilation=ones,
        kernel_dilation=ones,
        groups=1,
        dtype=jnp.dtype(lhs.dtype),
        out_dtype=jnp.dtype(conv.params["preferred_element_type"] or lhs.dtype),
    )


def compute(fused: Fused, *arguments: Array) -> Array:
    """Compute a fused call from its arguments by one call of the engine."""
    chain = fused.chain
    x, kernel, *extras = (arguments[position] for position in fused.order)
    numbers = axes_of(chain.conv)
    batch, feature, *space = numbers.lhs_spec
    out = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    out_feature, in_feature, *window = numbers.rhs_spec
    extras = [
        extra.reshape(-1) if value is chain.bias else dispatch.permute(extra, out)
        for extra, value in zip(extras, [v for v in (chain.bias, chain.residual) if v is not None])
    ]
    ops = list(engine_ops(chain))
    image = dispatch.permute(x, (batch, *space, feature))
    if fused.is_packed:
        y = packing.multiply(image, kernel, fused.problem, ops, extras)
        return dispatch.unpermute(y, out)
    if is_product(chain.conv):
        kernel = kernel.reshape(*(1 for _ in space), *kernel.shape)
        out_feature, in_feature, window = out_feature + len(space), in_feature + len(space), list(range(len(space)))
    if fused.is_matmul:
        y = _product(image, kernel, fused.problem, out_feature < in_feature, ops, extras)
        return dispatch.unpermute(y, out)
    y = onednn.with_epilogues(image, kernel, fused.problem, (*window, in_feature, out_feature), ops, extras)
    return dispatch.unpermute(y, out)


def _product(x: Array, kernel: Array, p: Problem, transpose: bool, ops: list[str], extras: list[Array]) -> Array:
    """Compute a problem of one tap by the engine's matrix product; `transpose` for a kernel with its outputs first."""
    shape = (p.features, p.channels) if transpose else (p.channels, p.features)
    extras = [extra if extra.ndim == 1 else extra.reshape(-1, p.features) for extra in extras]
    y = engine.matmul(x.reshape(-1, p.channels), kernel.reshape(shape), transpose_b=transpose, ops=ops, extras=extras)
    return y.reshape(p.batch, *p.out, p.features)


def rule(original_rule: Callable, target_of: Callable[[Any], Target]) -> Callable:
    """Return a lowering rule for `jit` that lowers fused calls to the engine's, and others by the original rule."""

    def lower(ctx: Any, *args: Any, **params: Any) -> Sequence[Any]:
        try:
            if is_fused(params["name"]) and compat.is_cpu_only(ctx) and not compat.has_explicit_axes(ctx):
                fused = plan(params["jaxpr"], target_of(ctx)) if len(args) == len(params["jaxpr"].in_avals) else None
                if fused is not None:
                    return compat.lower(ctx, lambda *arrays: compute(fused, *arrays), *args)
        except compat.API_ERRORS as error:
            compat.warn_once(error)
        return original_rule(ctx, *args, **params)

    return lower
