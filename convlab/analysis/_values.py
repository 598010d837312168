"""The results that the layers of a program compute."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import jax

from ._layers import Row
from ._tracing import Trace
from ._walk import walk


def values_of(traced: Trace, rows: Sequence[Row]) -> dict[str, jax.Array]:
    """Return the results of the equations of `rows`, by path."""
    wanted, found, event = {row.event: row for row in rows}, {}, -1
    times: collections.Counter = collections.Counter()

    def step(eqn: Any, following: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        nonlocal event
        event += 1
        result = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
        outputs = list(result) if eqn.primitive.multiple_results else [result]
        if event in wanted:
            path = wanted[event].path
            times[path] += 1
            found[path if times[path] == 1 else f"{path}#{times[path]}"] = outputs[0]
        return outputs

    walk(traced.program, traced.arguments, lambda value: value, step)
    return found
