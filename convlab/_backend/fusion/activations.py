"""Recognise the engine's activations in elementwise operations, in any spelling, by their values on samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import numbers
from .program import Op, Program, Value

LONGEST = 16  # most operations of an activation; gelu has nine


def _gelu_tanh(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "gelu_tanh": _gelu_tanh,
    "gelu_erf": lambda x: 0.5 * x * (1 + numbers.ELEMENTWISE["erf"](x / math.sqrt(2))),
    "tanh": np.tanh,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}
# The samples are dense around 0, where the functions bend, and include large numbers, where one might be clipped.
_SMALL, _LARGE = np.geomspace(1e-6, 1e-2, 41), np.array([20, 100, 1e4, 1e8, 1e30])
GRID = np.concatenate([np.linspace(-12, 12, 1201), _SMALL, -_SMALL, _LARGE, -_LARGE]).astype(np.float32)
with np.errstate(all="ignore"):
    EXPECTED = {name: function(GRID.astype(np.float64)) for name, function in ACTIVATIONS.items()}


def match(ops: list[Op], value: Value, result: Value) -> str | None:
    """Return the name of the activation that the operations compute from `value`; None if the engine has no such."""
    known: dict[Value, Any] = {value: GRID}
    for op in ops:
        for constant in op.inputs:
            if constant.constant is not None:
                known[constant] = np.ravel(constant.constant)[0]
    try:
        numbers.evaluate_on_samples(ops, known)
    except (TypeError, ValueError):
        return None
    actual = known.get(result)
    if actual is None or np.shape(actual) != GRID.shape:
        return None
    close = functools.partial(np.allclose, np.asarray(actual, np.float64), rtol=2e-5, atol=2e-6)
    return next((name for name, expected in EXPECTED.items() if close(expected)), None)


def find(value: Value, program: Program, users: dict[Value, list[Op]]) -> tuple[str, list[Op]] | None:
    """Return the longest activation that is the only use of `value`, and its operations; None if there is none."""
    inside, ops, best = {value}, [], None
    dependents = _dependents(value, users)
    waiting = [op for op in program.ops if op in dependents]
    for op in waiting[:LONGEST]:
        if not numbers.is_elementwise(op) or not all(v in inside or _is_uniform(v) for v in op.inputs):
            break
        ops.append(op)
        inside.add(op.outputs[0])
        read_within = all(set(users[v]) <= set(ops) and v not in program.outputs for v in inside - {op.outputs[0]})
        name = match(ops, value, op.outputs[0]) if read_within else None
        if name:
            best = name, list(ops)
    return best


def _dependents(value: Value, users: dict[Value, list[Op]]) -> set[Op]:
    """Return the operations that depend on a value, at most `LONGEST` deep."""
    found: set[Op] = set()
    front = {value}
    for _ in range(LONGEST):
        ops = {op for v in front for op in users.get(v, ())} - found
        if not ops or len(found) > 4 * LONGEST:
            break
        found |= ops
        front = {v for op in ops for v in op.outputs}
    return found


def _is_uniform(value: Value) -> bool:
    """Return whether a value is a constant whose elements are all equal."""
    if value.constant is None:
        return False
    array = np.asarray(value.constant)
    elements = np.ravel(array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)])
    return elements.size > 0 and bool(np.all(elements == elements[0]))
