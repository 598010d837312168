"""Constant folding: compute values that depend only on parameters once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from .._backend import compat
from .._backend.fusion import numbers
from .._backend.fusion.program import Op, Program, Value, without_dead_ops

SMALL = 2**14  # bytes: constants up to this size are always stored
EMBEDDED = 2**10  # bytes: constants up to this size stay constants for XLA


def fold_constants(program: Program) -> Program:
    """Replace every value that depends on no argument by a constant.

    A large array computed from a few numbers, such as a broadcast, is recomputed where it is used and not stored.
    """
    ops = []
    with compat.ensure_compile_time_eval():
        for op in program.ops:
            if not _is_constant(op) or not _evaluate(op) or not _is_worth_storing(op):
                ops.append(op)
    return without_dead_ops(Program(program.inputs, program.outputs, ops))


def _is_constant(op: Op) -> bool:
    ordinary = all(map(_is_ordinary, (*op.inputs, *op.outputs)))
    return ordinary and not op.has_effects and all(v.constant is not None for v in op.inputs)


def _is_ordinary(value: Value) -> bool:
    """Return whether a value is an array of a dtype of NumPy's, and not of random keys."""
    return isinstance(getattr(value.aval, "dtype", None), np.dtype)


def _evaluate(op: Op) -> bool:
    """Set the constants of the outputs; return False if the operation cannot be evaluated."""
    operands = [v.constant for v in op.inputs]
    by_numpy = numbers.evaluate(op, operands)
    results: Iterable[Any] = [by_numpy]
    if by_numpy is None:
        if not op.inputs:  # iota and the like: cheap to recompute
            return False
        results = map(np.asarray, op.run(*operands))
    for value, result in zip(op.outputs, results):
        value.constant = result
    return True


def _is_worth_storing(op: Op) -> bool:
    own = sum(v.constant.nbytes for v in op.outputs)
    return own <= max(SMALL, 2 * sum(np.asarray(v.constant).nbytes for v in op.inputs))


def as_arguments(program: Program) -> tuple[Program, list[Any]]:
    """Return the program with its large constants as the first arguments, and these constants as JAX's arrays.

    XLA would copy a constant several times while it compiles, and keep one more copy for each program.
    """
    made = {*program.inputs, *(v for op in program.ops for v in op.outputs)}
    read = dict.fromkeys(v for op in program.ops for v in op.inputs if v not in made)
    stored, arrays = [], []
    for value in read:
        if not isinstance(value.constant, (jax.Array, np.ndarray)) or not _is_ordinary(value):
            continue  # a number, or a random key
        if value.constant.nbytes > EMBEDDED:
            # A copy, for the caller may delete, donate or overwrite arrays that the function has beside its parameters.
            with compat.ensure_compile_time_eval():  # the first call for these shapes may be traced
                arrays.append(jax.device_put(value.constant, may_alias=False))
            stored.append(value)
            value.constant = None  # frees the array of NumPy before the next is copied
        else:
            value.constant = np.array(value.constant)
    return Program([*stored, *program.inputs], program.outputs, program.ops), arrays
