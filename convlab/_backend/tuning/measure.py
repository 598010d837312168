"""Measure one equation with every formulation that supports it: check them against lax, then time them in turns."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import lowering
from ..tables import Target
from . import active
from .equation import Equation, draw_operands
from .tuning import Entry

SECONDS_PER_ROUND = 0.02  # for the calls of one formulation
MARGIN = 1.05  # a choice other than the table's must be faster by this factor, which is more than the noise
_SLOW = 1.5  # a formulation that is slower than the fastest by this factor at its first call is not timed further
_SLOW_LAX = 10.0  # the same for lax, whose time the report needs
_ACCURACY = {"float64": 1e-9, "float32": 5e-5, "float16": 4e-3, "bfloat16": 3e-2}
_TENSOR_CORES = 5e-3  # accuracy of float32 on a GPU or TPU, which by default multiplies with fewer bits


@dataclasses.dataclass
class Comparison:
    """An equation, the formulations that support it, and their times so far."""

    equation: Equation
    target: Target

    def __post_init__(self) -> None:
        operation = lowering.OPERATIONS[self.equation.primitive]
        self.operation, self.swapped = operation, getattr(operation, "swapped", False)
        facts = (self.equation.operands, self.equation.params)
        plan = operation.plan(*facts, "auto", dataclasses.replace(self.target, measured=False))
        self.kind, self.static = plan.operation, operation.name_of(plan)
        supported = operation.candidates(*facts, self.target)
        # A budget may end before the others. fft, which for some problems takes minutes, is the last.
        first = [self.static, *(name for name in supported if name == "lax")]
        self.candidates = list(dict.fromkeys(first + sorted(supported, key=lambda name: name == "fft")))
        self.seconds: dict[str, float] = {}
        self.refused: dict[str, str] = {}
        self.calls: dict[str, Callable[[], Any]] = {}
        self.wins: dict[str, int] = {}
        self.repeats, self.rounds = 0, list[bool]()

    @property
    def cost(self) -> float:
        """Seconds that the table's choice takes in a run of the program; 0 if not measured yet."""
        return self.equation.count * self.seconds.get(self.static, 0.0)

    @property
    def has_alternative(self) -> bool:
        """Return whether the table's choice can be compared with another that was measured."""
        return self.static in self.calls and len(self.calls) > 1

    def _compile(self, name: str, equation: Equation, operands: list) -> Callable[[], Any]:
        method = "lax" if name == "lax" and not self.operation.own else "auto"
        with active.force(equation.key, name):
            call = jax.jit(lambda *a: equation.bind(*a, method=method)).lower(*operands).compile()
        return lambda: call(*operands)

    def prepare(self) -> None:
        """Draw the operands and compute lax's result."""
        compared = None if self.equation.is_convolution else -1 if self.swapped else 0
        self.operands = draw_operands(self.equation, compared)
        wide = self.equation.in_float32()
        reference = wide or self.equation
        operands = [a.astype(o.dtype) for a, o in zip(self.operands, reference.operands)]
        name = "lax" if not self.operation.own else self.static
        self.expected: np.ndarray | None = np.asarray(self._compile(name, reference, operands)())

    def release(self) -> None:
        """Release arrays and programs."""
        self.operands, self.expected, self.calls = [], None, {}

    def measure(self, name: str) -> None:
        """Compile a formulation, compare it with lax, and time a first call."""
        far = "lax" in self.seconds and self.seconds["lax"] > _SLOW_LAX * min(self.seconds.values())
        if name == "channels_last" and far:
            self.refused[name] = "not timed: it is lax in another layout, and lax takes over 10 times as long"
            return
        try:
            call = self._compile(name, self.equation, self.operands)
            assert self.expected is not None
            began = time.perf_counter()
            actual = np.asarray(call())
            first = time.perf_counter() - began
            error = _distance(actual, self.expected)
        except Exception as problem:  # that a formulation fails is a result
            if name == self.static:
                raise
            self.refused[name] = f"{type(problem).__name__}: {problem}".splitlines()[0][:80]
            return
        if not error <= self._bound() and name != self.static and name != "lax":
            self.refused[name] = f"error {error:.0e}"
            return
        slow = self.seconds and first > 2 * _SLOW * min(self.seconds.values())
        self.calls[name], self.seconds[name] = call, first if slow and name != self.static else time_calls(call, 0.0)

    def _bound(self) -> float:
        """Return the largest relative error that is rounding."""
        dtype = self.equation.result.dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            return 0.0
        bound = _ACCURACY[str(min((a.dtype for a in self.equation.operands), key=lambda d: jnp.finfo(d).bits))]
        highest = "HIGHEST" in str(self.equation.params.get("precision"))
        fewer = self.target.platform != "cpu" and self.equation.is_convolution and not highest
        return max(bound, _TENSOR_CORES) if fewer else bound

    def time_in_turns(self, repeats: int) -> None:
        """Time the promising formulations in turns, so that other load on the machine affects all alike."""
        fastest = min(self.seconds.values())
        limits = {self.static: math.inf, "lax": _SLOW_LAX} if self.static != "lax" else {"lax": math.inf}
        candidates = [n for n in self.calls if self.seconds[n] <= limits.get(n, _SLOW) * fastest]
        self.wins = dict.fromkeys(candidates, 0)
        for _ in range(repeats):
            round_ = {name: time_calls(self.calls[name], SECONDS_PER_ROUND) for name in candidates}
            for name, seconds in round_.items():
                self.seconds[name] = min(self.seconds[name], seconds)
                self.wins[name] += seconds < round_[self.static]
        self.repeats = repeats
        self.rounds = [self._beats_static(name) for name in self._faster()[:1] for _ in range(2 * repeats)]

    def _faster(self) -> list[str]:
        """Return the formulations that are faster than the table's by `MARGIN` and in most rounds, fastest first."""
        ordered = sorted(self.seconds, key=lambda name: self.seconds[name])
        limit = self.seconds[self.static]
        return [n for n in ordered if 2 * self.wins.get(n, 0) > self.repeats and self.seconds[n] * MARGIN < limit]

    def _beats_static(self, name: str) -> bool:
        """Time a formulation and the table's choice once more; return whether the former is faster."""
        times = {one: time_calls(self.calls[one], 2 * SECONDS_PER_ROUND) for one in (name, self.static)}
        for one, seconds in times.items():
            self.seconds[one] = min(self.seconds[one], seconds)
        return times[name] < times[self.static]

    def entry(self) -> Entry:
        """Return the result: the table's choice, unless a faster one was faster in three of four rounds of the two."""
        ordered = dict(sorted(self.seconds.items(), key=lambda pair: pair[1]))
        proven = self._faster()[:1] if 4 * sum(self.rounds) >= 3 * len(self.rounds) else []
        return Entry(
            key=self.equation.key,
            operation=self.kind,
            problem=self.equation.text(),
            count=self.equation.count,
            static=self.static,
            choice=proven[0] if proven else self.static,
            seconds=ordered,
            refused=dict(self.refused),
        )


def time_calls(call: Callable[[], Any], seconds: float) -> float:
    """Call for some seconds, at least once, and return the shortest time of a call."""
    least, now = math.inf, time.perf_counter()
    end = now + seconds
    while now < end or least == math.inf:
        began = time.perf_counter()
        jax.block_until_ready(call())
        now = time.perf_counter()
        least = min(least, now - began)
    return least


def _distance(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 distance; infinite if one result has a non-finite value where the other differs."""
    if actual.shape != expected.shape:
        return math.inf
    a, b = (np.asarray(v, np.float64).ravel() for v in (actual, expected))
    differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not (np.isfinite(a[differs]).all() and np.isfinite(b[differs]).all()):
        return math.inf
    size = np.linalg.norm(b[np.isfinite(b)])
    return float(np.linalg.norm(a[differs] - b[differs]) / (size or 1.0))
