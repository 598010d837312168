"""What depends on parameters alone, computed once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .._backend import compat
from .._backend.fusion import numbers
from .._backend.fusion.program import Op, Program, without_dead_ops

SMALL = 2**14  # bytes that are always worth keeping


def folded(program: Program) -> Program:
    """The program with every value that depends on no argument as a constant.

    A large array that a few numbers fill is known to those who ask, but computed where it is used and not kept.
    """
    ops = []
    with compat.ensure_compile_time_eval():
        for op in program.ops:
            if not _is_known(op) or not _evaluate(op) or not _is_worth_keeping(op):
                ops.append(op)
    return without_dead_ops(Program(program.inputs, program.outputs, ops))


def _is_known(op: Op) -> bool:
    ordinary = all(isinstance(getattr(v.aval, "dtype", None), np.dtype) for v in (*op.inputs, *op.outputs))
    return ordinary and not op.has_effects and all(v.constant is not None for v in op.inputs)


def _evaluate(op: Op) -> bool:
    """Gives the outputs their constants; false where that fails."""
    operands = [v.constant for v in op.inputs]
    quick = numbers.evaluate(op, operands)
    results: Iterable[Any] = [quick]
    if quick is None:
        if not op.inputs:  # iota and the like: cheap to make anew
            return False
        results = map(np.asarray, op.run(*operands))
    for value, result in zip(op.outputs, results):
        value.constant = result
    return True


def _is_worth_keeping(op: Op) -> bool:
    own = sum(v.constant.nbytes for v in op.outputs)
    return own <= max(SMALL, 2 * sum(np.asarray(v.constant).nbytes for v in op.inputs))
