"""`optimize`: fuse convolutions with the operations that follow them, in any program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax

from .._backend import compat
from .._backend.fusion.chains import find_chains, replace_chains
from .._backend.fusion.program import Op, Program, from_jaxpr, mark_operations
from .trace import Arguments

F = TypeVar("F", bound=Callable[..., Any])
BODIES = {
    "scan": ("jaxpr",),
    "while": ("body_jaxpr",),
    "cond": ("branches",),
    "remat2": ("jaxpr",),
    "checkpoint": ("jaxpr",),
}


def optimize(fn: F) -> F:
    """Fuse a function's convolutions with the bias, the sum and the activation that follow them, on the CPU.

    A convolution of float32 can be followed by a bias, a sum with an array of its shape and an activation (ReLU, ReLU6,
    SiLU, sigmoid, tanh, ELU, GELU), each optional, in this order. If no other operation reads its result, all of them
    become a call of a function jitted under the name `convlab_conv_...`, with the same operations inside. On the CPU,
    if jaxlib has oneDNN, this is one call of oneDNN. Other convolutions and pools are computed as under `accelerate`.

    Equals `fn` up to rounding, except that a NaN before a fused ReLU or ReLU6 becomes 0. Derivatives
    are those of `fn`. On other platforms, and in an export, the program is that of `fn`.

    Args:
        fn: a function of arrays, jitted or not. It is traced at every call, as by `jax.grad`, so jit the caller of the
            result; programs are cached for a jitted function only.

    Returns:
        A function with `fn`'s signature. `explain` shows its fused operations.

    Raises:
        TypeError: `fn` is not a function.

    Example:
        >>> from convlab import conv
        >>> def block(x, kernel, bias):
        ...     return jax.nn.relu(conv(x, kernel, bias))
        >>> x, kernel, bias = jnp.ones((1, 8, 8, 16)), jnp.ones((3, 3, 16, 16)), jnp.ones(16)
        >>> jax.jit(optimize(block))(x, kernel, bias).shape
        (1, 8, 8, 16)
        >>> explain(optimize(block), x, kernel, bias, platform="cpu")[0].operation
        'forward'

    It works on the program that `jax.make_jaxpr` traces, also in the bodies of `lax.scan`, `cond`, `while_loop` and
    `jax.checkpoint`.
    """
    if not callable(fn):
        raise TypeError(f"`fn` must be a function, got {fn!r}.")
    cache: dict[Hashable, tuple[Any, Any]] | None = {} if hasattr(fn, "lower") else None

    @functools.wraps(fn)
    def optimized(*args: Any, **kwargs: Any) -> Any:
        arguments = Arguments.of(args, kwargs)
        if cache is None:
            run, structure = _optimized(arguments, fn)
        else:
            if arguments.key not in cache:
                run, structure = _optimized(arguments, fn)
                cache[arguments.key] = jax.jit(run.__call__), structure
            run, structure = cache[arguments.key]
        return jax.tree.unflatten(structure, run(*arguments.arrays))

    return optimized  # type: ignore[return-value]  # of the same signature


def _optimized(arguments: Arguments, fn: Callable) -> tuple[Any, Any]:
    program, structure = arguments.trace(fn)
    return fuse(program), structure


def fuse(program: Program) -> Program:
    """Fuse each convolution with the operations that follow it, in the program and in the bodies of its loops and
    branches."""
    found = [chain for chain in find_chains(program) if chain.kinds]
    program = mark_operations(replace_chains(program, found))
    return Program(program.inputs, program.outputs, list(map(_with_fused_bodies, program.ops)))


def _with_fused_bodies(op: Op) -> Op:
    if op.name not in BODIES or op.equation is None:
        return op
    changed = {key: _fused_jaxpr(op.params[key]) for key in BODIES[op.name]}
    equation = op.equation.replace(params=op.params | changed)
    return Op(op.name, op.inputs, op.outputs, equation.params, lambda *xs: compat.bind(equation, xs), equation)


def _fused_jaxpr(jaxpr: Any) -> Any:
    """Fuse a closed jaxpr, an open one, or a tuple of them, and return the same kind."""
    if isinstance(jaxpr, tuple):
        return tuple(map(_fused_jaxpr, jaxpr))
    program = from_jaxpr(jaxpr)
    avals = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype, weak_type=v.aval.weak_type) for v in program.inputs]
    new = jax.make_jaxpr(lambda *arrays: fuse(program)(*arrays))(*avals)
    if hasattr(jaxpr, "jaxpr"):
        return new
    return jaxpr if new.consts else new.jaxpr
