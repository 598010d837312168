"""Which of the engine's activations a few elementwise operations are: whatever their spelling, by what they make of
numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import numbers
from .program import Op, Program, Value

LONGEST = 16  # operations of an activation; gelu has nine


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
# Small steps where the functions bend, smaller ones at 0, large numbers where a cap might be.
_SMALL, _LARGE = np.geomspace(1e-6, 1e-2, 41), np.array([20, 100, 1e4, 1e8, 1e30])
GRID = np.concatenate([np.linspace(-12, 12, 1201), _SMALL, -_SMALL, _LARGE, -_LARGE]).astype(np.float32)
with np.errstate(all="ignore"):
    EXPECTED = {name: function(GRID.astype(np.float64)) for name, function in ACTIVATIONS.items()}


def named(ops: list[Op], value: Value, result: Value) -> str | None:
    """The activation that these operations make of `value`; None if it is none of the engine's."""
    known: dict[Value, Any] = {value: GRID}
    for op in ops:
        for constant in op.inputs:
            if constant.constant is not None:
                known[constant] = np.ravel(constant.constant)[0]
    try:
        numbers.on_grid(ops, known)
    except (TypeError, ValueError):
        return None
    got = known.get(result)
    if got is None or np.shape(got) != GRID.shape:
        return None
    return next((name for name, expected in EXPECTED.items() if _agree(np.asarray(got, np.float64), expected)), None)


def _agree(got: Any, expected: Any) -> bool:
    return bool(np.allclose(got, expected, rtol=2e-5, atol=2e-6))


def of(value: Value, program: Program, users: dict[Value, list[Op]]) -> tuple[str, list[Op]] | None:
    """The activation that is all that becomes of `value`, and its operations; None if there is none."""
    inside, ops, best = {value}, [], None
    waiting = [op for op in program.ops if op in _reached(value, users)]
    for op in waiting[:LONGEST]:
        if not numbers.is_elementwise(op) or not all(v in inside or _is_uniform(v) for v in op.inputs):
            break
        ops.append(op)
        inside.add(op.outputs[0])
        read_within = all(set(users[v]) <= set(ops) and v not in program.outputs for v in inside - {op.outputs[0]})
        name = named(ops, value, op.outputs[0]) if read_within else None
        if name:
            best = name, list(ops)
    return best


def _reached(value: Value, users: dict[Value, list[Op]]) -> set[Op]:
    """What depends on a value, a few operations deep."""
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
    if value.constant is None:
        return False
    numbers_ = np.ravel(
        np.asarray(value.constant)[
            tuple(slice(0, 1) if s == 0 else slice(None) for s in np.asarray(value.constant).strides)
        ]
    )
    return numbers_.size > 0 and bool(np.all(numbers_ == numbers_[0]))
