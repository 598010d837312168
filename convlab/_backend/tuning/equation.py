"""A convolution or window reduction as it stands in a program: what a measured choice is keyed by."""

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
_MOST_EXACT = 256  # integers that bfloat16 holds


def key_of(primitive: Any, operands: Sequence[Any], params: dict) -> str:
    """A text that is the same for equations that are, in every process."""
    facts = {
        "primitive": primitive.name,
        "operands": [[*map(int, a.shape), str(a.dtype)] for a in operands],
        "params": {name: _plain(value) for name, value in sorted(params.items()) if name != "out_sharding"},
    }
    return json.dumps(facts, sort_keys=True)


def _plain(value: Any) -> Any:
    """A parameter as JSON has it."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if hasattr(value, "name"):  # a primitive, a dtype
        return value.name
    try:
        return int(value)
    except (TypeError, ValueError):
        return str(value)


@dataclasses.dataclass(frozen=True)
class Equation:
    """A primitive with its parameters on operands of these shapes and dtypes; `count`: how often a run of the program
    comes to it."""

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
        """An estimate by which the dearest come first: multiply-adds, elements times window's elements."""
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
        """The equation, marked; `method="lax"` is as JAX has it."""
        with compat.marked(method):
            return self.primitive.bind(*operands, **self.params)

    def widened(self) -> Equation | None:
        """The same with operands and sums in float32, if they are narrower floats."""
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
        """In a line, for a table."""
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


# --- what a program has of them -----------------------------------------------------------------------------------


def collect(jaxpr: Any, primitives: Any) -> list[Equation]:
    """The distinct equations of some primitives that ask for no method of their own, in the order of their first
    places."""
    found: dict[str, Equation] = {}
    for eqn, times in _walk(jaxpr, 1):
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
    real = all(jnp.issubdtype(a.dtype, jnp.floating) for a in avals)
    pooled = eqn.primitive is not compat.CONVOLUTION and all(jnp.issubdtype(a.dtype, jnp.integer) for a in avals)
    return real or pooled


def _walk(jaxpr: Any, times: int) -> Iterator[tuple[Any, int]]:
    from jax.extend import core  # slow to import, and only needed here

    for eqn in jaxpr.eqns:
        yield eqn, times
        inside = times * (eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1)
        for inner in core.jaxprs_in_params(eqn.params):
            yield from _walk(getattr(inner, "jaxpr", inner), inside)


# --- data ---------------------------------------------------------------------------------------------------------


def draw(equation: Equation, compared: int | None) -> list[Array]:
    """Random operands. In the one whose values are compared, those of a window differ: equal maxima have no order in
    common."""
    rng = np.random.default_rng(0)
    arrays = []
    for nth, a in enumerate(equation.operands):
        if compared is not None and nth == compared % len(equation.operands):
            values = _different(a.shape, equation.params, rng)
        elif jnp.issubdtype(a.dtype, jnp.integer):
            values = rng.integers(0, 100, a.shape)
        else:
            values = rng.standard_normal(a.shape, np.float32)
        arrays.append(jnp.asarray(values).astype(a.dtype))
    return arrays


def _different(shape: tuple[int, ...], params: dict, rng: np.random.Generator) -> np.ndarray:
    """Numbers of which no window holds one twice, if it has no more elements than bfloat16 has integers."""
    dilation = params.get("window_dilation") or (1,) * len(shape)
    reach = [min((w - 1) * d + 1, n) for w, d, n in zip(params["window_dimensions"], dilation, shape)]
    number = np.zeros((1,) * len(shape), np.int64)
    for axis, (n, r) in enumerate(zip(shape, reach)):
        place = (np.arange(n) % r).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        number = number * r + place
    count = math.prod(reach)
    shift = rng.integers(0, count, [n if r == 1 else 1 for n, r in zip(shape, reach)])
    number = rng.permutation(count)[(number + shift) % count]
    return number if count <= _MOST_EXACT else number / count
