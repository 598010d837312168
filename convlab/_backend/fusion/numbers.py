"""Evaluate a program's operations on known numbers by NumPy, without tracing or compiling.

`activations` recognises functions by their values, and `freeze` computes constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .program import Op, Program, from_jaxpr, inlinable_jaxpr, read

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _power(x: Any, y: Any) -> Any:
    return np.power(x, y)


def _logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _select(which: Any, *cases: Any) -> Any:
    return np.choose(np.asarray(which).astype(np.int32), cases)


# Elementwise operations.
ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": np.abs, "add": np.add, "add_any": np.add, "and": np.logical_and,
    "clamp": lambda lo, x, hi: np.minimum(np.maximum(x, lo), hi),
    "copy": np.asarray, "copy_p": np.asarray, "cos": np.cos, "div": np.true_divide, "eq": np.equal, "erf": _erf,
    "erfc": lambda x: 1 - _erf(x), "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
    "ge": np.greater_equal, "gt": np.greater,
    "le": np.less_equal, "log": np.log, "log1p": np.log1p, "logistic": _logistic, "lt": np.less, "max": np.maximum,
    "min": np.minimum, "mul": np.multiply, "ne": np.not_equal, "neg": np.negative, "not": np.logical_not,
    "or": np.logical_or,
    "pow": _power, "rsqrt": lambda x: 1 / np.sqrt(x), "select_n": _select, "sign": np.sign, "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square, "stop_gradient": np.asarray, "sub": np.subtract, "tanh": np.tanh,
}  # fmt: skip


def _broadcast(x: Any, params: dict) -> Any:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], np.shape(x)):
        shape[axis] = size
    return np.broadcast_to(np.reshape(x, shape), params["shape"])


# Operations on one array with parameters. Most of them rearrange its elements.
_MOVES: dict[str, Callable[[Any, dict], Any]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": lambda x, params: np.reshape(x, params["new_sizes"]),
    "squeeze": lambda x, params: np.squeeze(x, tuple(params["dimensions"])),
    "transpose": lambda x, params: np.transpose(x, params["permutation"]),
    "rev": lambda x, params: np.flip(x, params["dimensions"]),
    "integer_pow": lambda x, params: np.power(x, params["y"]) if params["y"] > 0 else 1 / np.power(x, -params["y"]),
    "convert_element_type": lambda x, params: x,  # the result's dtype is that of the value
}


def evaluate(op: Op, operands: Sequence[Any]) -> Any:
    """Compute an operation of known numbers; None if the tables above do not have it."""
    (out,) = op.outputs if len(op.outputs) == 1 else (None,)
    if out is None or not all(isinstance(getattr(v.aval, "dtype", None), np.dtype) for v in (*op.inputs, out)):
        return None
    dtypes = [v.aval.dtype for v in op.inputs]
    whole = any(np.issubdtype(d, np.integer) for d in dtypes) and op.name in (
        "div",
        "and",
        "or",
        "not",
        "convert_element_type",
        "pow",
    )
    if whole and op.name != "convert_element_type":
        return None
    with np.errstate(all="ignore"):
        if op.name in ELEMENTWISE:
            given = [np.asarray(x, d) for x, d in zip(operands, dtypes)]
            return np.asarray(ELEMENTWISE[op.name](*given), out.aval.dtype)
        if op.name in _MOVES:
            moved = _MOVES[op.name](np.asarray(operands[0], dtypes[0]), op.params)
            return moved if moved.dtype == out.aval.dtype else np.asarray(moved, out.aval.dtype)
    return None


def inner_program(op: Op) -> Program | None:
    """Return the program inside a call, or inside a function with its own derivative; None if there is none."""
    if op.equation is None:
        return None
    inner = inlinable_jaxpr(op.equation)
    if inner is None and op.name in ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"):
        inner = next((op.params[key] for key in ("call_jaxpr", "fun_jaxpr") if key in op.params), None)
    return None if inner is None else from_jaxpr(inner)


def is_elementwise(op: Op) -> bool:
    """Return whether an operation, or the program inside it, is elementwise with one result."""
    if op.name in ELEMENTWISE or op.name in ("integer_pow", "convert_element_type"):
        return len(op.outputs) == 1
    inner = inner_program(op)
    return inner is not None and len(op.outputs) == 1 and all(map(_maps_or_fills, inner.ops))


def _maps_or_fills(op: Op) -> bool:
    return is_elementwise(op) or op.name == "broadcast_in_dim" and op.inputs[0].aval.shape == ()


def evaluate_on_samples(ops: Sequence[Op], known: dict[Any, Any]) -> None:
    """Evaluate elementwise operations on vectors of samples instead of arrays; `known` receives the results."""
    for op in ops:
        operands = [read(known, value) for value in op.inputs]
        inner = inner_program(op)
        if inner is not None:
            within = dict(zip(inner.inputs, operands))
            evaluate_on_samples(inner.ops, within)
            known[op.outputs[0]] = read(within, inner.outputs[0])
        elif op.name == "broadcast_in_dim":
            known[op.outputs[0]] = operands[0]
        else:
            known[op.outputs[0]] = evaluate(op, np.broadcast_arrays(*operands) if len(operands) > 1 else operands)
