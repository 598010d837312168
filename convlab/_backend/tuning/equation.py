"""The convolutions and window reductions of a program, as problems to measure: collect them, key them, draw operands.

`autotune` collects them from a jaxpr; `active` looks an equation up by the same key while it is lowered.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import compat

Array = jax.Array
_MOST_EXACT = 256  # bfloat16 represents all integers up to here


def key_of(primitive: Any, operands: Sequence[Any], params: dict) -> str:
    """Return a text that is the same for equal equations, in every process."""
    facts = {
        "primitive": primitive.name,
        "operands": [[*map(int, a.shape), str(a.dtype)] for a in operands],
        "params": {name: _as_json(value) for name, value in sorted(params.items()) if name != "out_sharding"},
    }
    return json.dumps(facts, sort_keys=True)


def _as_json(value: Any) -> Any:
    """Convert a parameter to a value of JSON."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, (tuple, list)):
        return [_as_json(v) for v in value]
    if hasattr(value, "name"):  # a primitive, a dtype
        return value.name
    try:
        return int(value)
    except (TypeError, ValueError):
        return str(value)


@dataclasses.dataclass(frozen=True)
class Equation:
    """A primitive with its parameters and its operands' shapes and dtypes; `count`: how often the program runs it."""

    primitive: Any
    operands: tuple[jax.ShapeDtypeStruct, ...]
    params: dict
    count: int = 1

    @functools.cached_property
    def key(self) -> str:
        return key_of(self.primitive, self.operands, self.params)

    @property
    def is_convolution(self) -> bool:
        return self.primitive is compat.CONVOLUTION

    @property
    def work(self) -> float:
        """An estimate of the cost: multiply-adds, or elements times the window's elements."""
        sizes = [math.prod(a.shape) for a in self.operands]
        if not self.is_convolution:
            return float(self.count * max(sizes) * math.prod(self.params["window_dimensions"]))
        lhs, rhs = self.operands
        spec = self.params["dimension_numbers"]
        features = rhs.shape[spec.rhs_spec[0]]
        out = math.prod(self.result.shape)
        return float(self.count * out * sizes[1] // max(features, 1))

    @functools.cached_property
    def result(self) -> Any:
        return jax.eval_shape(self.bind, *self.operands)

    def bind(self, *operands: Array, method: str = "auto") -> Array:
        """Bind the equation, marked with a method."""
        with compat.marked(method):
            return self.primitive.bind(*operands, **self.params)

    def in_float32(self) -> Equation | None:
        """Return the equation with operands and sums in float32; None if no operand is a narrower float."""
        narrow = [jnp.issubdtype(a.dtype, jnp.floating) and jnp.finfo(a.dtype).bits < 32 for a in self.operands]
        if not any(narrow):
            return None
        wide = tuple(
            jax.ShapeDtypeStruct(a.shape, jnp.float32) if thin else a for a, thin in zip(self.operands, narrow)
        )
        params = dict(self.params)
        if "preferred_element_type" in params:
            params["preferred_element_type"] = None
        return dataclasses.replace(self, operands=wide, params=params)

    def text(self) -> str:
        """Describe the equation in a line, for a table."""
        shapes = " * ".join("x".join(map(str, a.shape)) for a in self.operands)
        return f"{shapes} {self.operands[0].dtype}{_window_text(self.params, self.is_convolution)}"


def _window_text(params: dict, is_convolution: bool) -> str:
    names = (
        (("window_strides", "s"), ("rhs_dilation", "d"), ("lhs_dilation", "up"))
        if is_convolution
        else (("window_dimensions", "w"), ("window_strides", "s"), ("window_dilation", "d"))
    )
    words = [""]
    for name, letter in names:
        value = tuple(params.get(name) or ())
        if max(value, default=1) > 1:
            words.append(letter + "x".join(map(str, value)))
    for name, letter in (("feature_group_count", "g"), ("batch_group_count", "bg")):
        if params.get(name, 1) > 1:
            words.append(f"{letter}{params[name]}")
    return " ".join(words)


# --- the equations of a program -----------------------------------------------------------------------------------


def collect(jaxpr: Any, primitives: Any) -> list[Equation]:
    """Return the distinct equations of some primitives that are not marked with a method, in the program's order.

    Equations whose results nobody reads are left out, because XLA does not compute them.
    """
    found: dict[str, Equation] = {}
    for eqn, times in _walk(compat.without_unread(jaxpr), 1):
        if eqn.primitive not in primitives or compat.mark_of(eqn.ctx) not in (None, "auto"):
            continue
        avals = [v.aval for v in eqn.invars]
        if not all(isinstance(n, int) and n for a in avals for n in a.shape) or not _is_tuned(eqn, avals):
            continue
        operands = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals)
        params = eqn.params | ({"out_sharding": None} if "out_sharding" in eqn.params else {})
        one = Equation(eqn.primitive, operands, params, times)
        if one.key in found:
            one = dataclasses.replace(one, count=found[one.key].count + times)
        if math.prod(one.result.shape):
            found[one.key] = one
    return list(found.values())


def _is_tuned(eqn: Any, avals: Sequence[Any]) -> bool:
    """Return whether the operands are real floats, or the integers of a pool."""
    real = all(jnp.issubdtype(a.dtype, jnp.floating) for a in avals)
    pooled = eqn.primitive is not compat.CONVOLUTION and all(jnp.issubdtype(a.dtype, jnp.integer) for a in avals)
    return real or pooled


def _walk(jaxpr: Any, times: int) -> Iterator[tuple[Any, int]]:
    """Yield the equations of a jaxpr and of the jaxprs inside it, and how often each of them runs."""
    from jax.extend import core  # slow to import, and only needed here

    for eqn in jaxpr.eqns:
        yield eqn, times
        inside = times * (eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1)
        for inner in core.jaxprs_in_params(eqn.params):
            yield from _walk(getattr(inner, "jaxpr", inner), inside)


# --- data ---------------------------------------------------------------------------------------------------------


def draw_operands(equation: Equation, compared: int | None) -> list[Array]:
    """Draw random operands. The values of a window differ in the operand number `compared`, whose maxima are taken."""
    rng = np.random.default_rng(0)
    arrays = []
    for nth, a in enumerate(equation.operands):
        if compared is not None and nth == compared % len(equation.operands):
            values = _distinct_values(a.shape, equation.params, rng)
        elif jnp.issubdtype(a.dtype, jnp.integer):
            values = rng.integers(0, 100, a.shape)
        else:
            values = rng.standard_normal(a.shape, np.float32)
        arrays.append(jnp.asarray(values).astype(a.dtype))
    return arrays


def _distinct_values(shape: tuple[int, ...], params: dict, rng: np.random.Generator) -> np.ndarray:
    """Draw numbers that differ within each window, if it has no more elements than bfloat16 has exact integers."""
    dilation = params.get("window_dilation") or (1,) * len(shape)
    sizes = [min((w - 1) * d + 1, n) for w, d, n in zip(params["window_dimensions"], dilation, shape)]
    index = np.zeros((1,) * len(shape), np.int64)
    for axis, (n, size) in enumerate(zip(shape, sizes)):
        along = (np.arange(n) % size).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        index = index * size + along
    count = math.prod(sizes)
    shift = rng.integers(0, count, [n if size == 1 else 1 for n, size in zip(shape, sizes)])
    values = rng.permutation(count)[(index + shift) % count]
    return values if count <= _MOST_EXACT else values / count
