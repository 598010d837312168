#!/usr/bin/env python3
"""Computes every call of the tests' table on this device, in float32 and bfloat16, and compares it with NumPy.

    python benchmarks/gpu/check.py --out check.jsonl [--only conv,max_pool] [--seconds 60]

The values are compared with the tests' oracle in float64, the gradients in float32 with the oracle's differences along
a random direction, and the gradients in bfloat16 with those in float32. Each result is a line of JSON; calls in the
file are not computed again. The first call of each function comes first.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from cases import CASES, Case  # noqa: E402
from command_line import Parser, output, positive  # noqa: E402
from reference import wide  # noqa: E402

# Relative errors in the L2 norm; float32 products of a GPU have TF32's 10 bits.
BOUNDS = {"float32": 5e-3, "bfloat16": 3e-2, "float16": 1e-2, "complex64": 5e-3}
STEP = 1e-6  # the step of the oracle's differences
FIXED = ("places", "samples", "boxes", "segments", "valid")  # arrays that choose positions

Line = dict[str, Any]


def numbers(result: Any) -> Any:
    """Return the result without its indices."""
    return result[0] if isinstance(result, tuple) else result


def distance(actual: Any, expected: np.ndarray) -> float:
    """Return the relative distance in the L2 norm; infinite where a non-finite number is not the same on both sides."""
    actual = wide(actual)
    if actual.shape != expected.shape:
        return float("inf")
    same = (actual == expected) | ((actual != actual) & (expected != expected))
    if not (np.isfinite(actual[~same]).all() and np.isfinite(expected[~same]).all()):
        return float("inf")
    size = np.linalg.norm(expected[np.isfinite(expected)])
    return float(np.linalg.norm(actual[~same] - expected[~same]) / (size or 1.0))


class Call:
    """A case in a dtype: a compiled program for the values and the gradients of all operands, and its operands."""

    def __init__(self, case: Case, dtype: str):
        self.case, self.dtype = case, dtype
        drawn = case.draw(dtype if case.dtype.kind == "f" else None)
        specs = (*case.arrays, *case.named.values())
        self.arrays = drawn
        self.moves = [a.dtype.kind not in "iub" and spec.fill not in FIXED for a, spec in zip(drawn, specs)]
        self.differentiable = case.smooth and any(self.moves)

    def function(self, arrays: list[Any]) -> Callable:
        """Return the call as a function of the arrays that have a gradient."""

        def call(*moving: Any) -> Any:
            rest = iter(moving)
            return self.case.convlab(*(next(rest) if moves else a for a, moves in zip(arrays, self.moves)))

        return call

    def run(self, arrays: list[Any]) -> tuple[Any, tuple[Any, ...]]:
        """Return the values, and the gradients of half the sum of their squares."""
        moving = [a for a, moves in zip(arrays, self.moves) if moves]
        if not self.differentiable:
            return numbers(jax.jit(self.function(arrays))(*moving)), ()

        def both(*moving: Any) -> Any:
            y, backward = jax.vjp(lambda *m: numbers(self.function(arrays)(*m)), *moving)
            return y, backward(y.conj())

        return jax.jit(both)(*moving)

    def results(self) -> dict[str, tuple[float, float]]:
        """Return the errors of values and gradients, each with its bound."""
        values, gradients = self.run(self.arrays)
        expected = numbers(self.case.oracle(*self.arrays))
        found = {"values": (distance(values, wide(expected)), BOUNDS.get(str(values.dtype), 0.0))}
        if self.differentiable and self.dtype == "bfloat16":
            exact = self.run([a.astype(np.float32) if a.dtype.kind not in "iub" else a for a in self.arrays])[1]
            errors = [distance(g, wide(e)) for g, e in zip(gradients, exact)]
            found["gradients"] = (max(errors), 2 * BOUNDS["bfloat16"])
        elif self.differentiable:
            found["gradients"] = (self.slope(gradients), BOUNDS[self.dtype])
        return found

    def slope(self, gradients: tuple[Any, ...]) -> float:
        """Compare the gradients with the oracle's differences along a direction in each operand, half of it random and
        half the gradient's."""
        rng, worst, turn = np.random.default_rng(0), 0.0, 0
        points = [wide(a) if moves else a for a, moves in zip(self.arrays, self.moves)]
        for place, moves in enumerate(self.moves):
            if not moves:
                continue
            gradient, turn = wide(gradients[turn]), turn + 1
            if not np.isfinite(gradient).all():
                return float("inf")
            drawn = rng.uniform(-1, 1, points[place].shape)
            along = drawn / (np.abs(drawn).max(initial=0) or 1.0) + gradient.real / (
                np.abs(gradient).max(initial=0) or 1.0
            )
            ends = []
            for sign in (1, -1):
                moved = [p + sign * STEP * along if n == place else p for n, p in enumerate(points)]
                y = numbers(self.case.oracle(*moved))
                ends.append(0.5 * float((np.abs(y) ** 2).sum()))
            size = np.linalg.norm(gradient) * np.linalg.norm(along)
            error = abs((ends[0] - ends[1]) / (2 * STEP) - float((gradient * along).real.sum()))
            worst = max(worst, error / (size or 1.0))
        return worst


def lines(case: Case, dtype: str) -> list[Line]:
    name = {"function": case.function, "case": str(case), "dtype": dtype}
    try:
        found = Call(case, dtype).results()
    except Exception as error:  # the page lists the errors
        why = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        return [name | {"what": "values", "right": False, "why": why}]
    return [
        name | {"what": what, "right": bool(error <= bound), "error": error if np.isfinite(error) else "inf"}
        for what, (error, bound) in found.items()
    ]


def wanted(only: str, only_first: bool) -> list[tuple[Case, str]]:
    """Return the cases in their dtypes, the first of each function first."""
    chosen = [case for case in CASES if any(text in f"{case.function} {case}" for text in only.split(","))]
    first = {case.function: case for case in reversed(chosen)}.values()
    ordered = [*(case for case in chosen if case in first), *(case for case in chosen if case not in first)]
    dtypes = lambda case: ("float32", "bfloat16") if case.dtype == np.float32 else (str(case.dtype),)
    return [(case, dtype) for case in (list(first) if only_first else ordered) for dtype in dtypes(case)]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=output, required=True, help="file for the results, a line of JSON each")
    parser.add_argument("--only", default="", help="cases whose function or name contains one of these texts")
    parser.add_argument("--seconds", type=positive, default=3600, help="begin no call after this number of seconds")
    parser.add_argument("--first", action="store_true", help="one call of each function")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args, began = parse(argv), time.monotonic()
    before = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(line["case"], line["dtype"]) for line in before}
    left = [(case, dtype) for case, dtype in wanted(args.only, args.first) if (str(case), dtype) not in done]
    device = jax.devices()[0].device_kind

    def timed(pair: tuple[Case, str]) -> list[Line]:
        return lines(*pair) if time.monotonic() - began < args.seconds else []

    with args.out.open("a") as file, concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for some in pool.map(timed, left):  # threads: XLA compiles without Python's lock
            for line in some:
                before.append(line | {"device": device})
                print(json.dumps(before[-1]), file=file, flush=True)
    print(summary(before, len({(str(c), d) for c, d in wanted(args.only, args.first)})))
    return 0


def summary(found: list[Line], calls: int) -> str:
    """Return the counts in a line."""
    reached = len({(line["case"], line["dtype"]) for line in found})
    wrong = [line for line in found if not line["right"]]
    text = f"{reached} of {calls} calls computed, {len(found)} results, {len(found) - len(wrong)} of them right"
    return text + "".join(f"\n  {w['case']} {w['dtype']} {w['what']}: {w.get('why', w.get('error'))}" for w in wrong)


if __name__ == "__main__":
    sys.exit(main())
