#!/usr/bin/env python3
"""Measures the three maps of convolutions of suite.json, and compares their rates with that of a matrix product.

    python benchmarks/rates.py --only "stem,volume w3 32" [--markdown OUT]

The maps are the convolution, its input gradient and its kernel gradient. The multiply-adds of a map include products
with padding. The peak is that of a product of matrices of 2048. CONVLAB_ENGINE=off in the environment measures the
formulations that are used without the engine.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import dearest
import jax
import layers_jax
import report
import suite
import tables
import worker
from command_line import Parser, output

import convlab

COLUMNS = ("layer", "map", "formulation", "ms", "GFLOP/s", "of the peak", "plain JAX, ms")
MAPS = ("forward", "by the image", "by the kernel")
ROUNDS = 5


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="layers whose family and name contain one of these texts")
    parser.add_argument("--markdown", type=output, metavar="OUT", help="write the table, between the file's marks")
    return parser.parse_args(argv)


def operations(case: dict[str, Any], out: jax.ShapeDtypeStruct) -> int:
    """Return the floating-point operations of one of the layer's maps."""
    positions = math.prod(case["spatial"] if case["op"] == "conv_transpose" else out.shape[1:-1])
    return (
        2
        * case["batch"]
        * positions
        * math.prod(case["window"])
        * case["channels"]
        * case["features"]
        // case["groups"]
    )


def maps(contestant: str, case: dict[str, Any]) -> Iterator[tuple[str, Callable, tuple[Any, ...]]]:
    """Yield the layer's maps as functions, and the shapes of their arguments."""
    f, kernel = layers_jax.layer(contestant, case)
    x = layers_jax.images(case)
    dy = jax.eval_shape(f, kernel, x)
    yield "forward", f, (kernel, x)
    yield "by the image", lambda kernel, dy: jax.linear_transpose(functools.partial(f, kernel), x)(dy), (kernel, dy)
    yield "by the kernel", lambda x, dy: jax.linear_transpose(lambda kernel: f(kernel, x), kernel)(dy), (x, dy)


def measure(case: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield the cells of each map, and its operations a second."""
    plain = {name: (function, shapes) for name, function, shapes in maps("flax", case)}
    for name, function, shapes in maps("convlab", case):
        args = layers_jax.draw(shapes)
        programs = [jax.jit(g).lower(*args).compile() for g in (function, plain[name][0])]
        calls = [lambda program=program: jax.block_until_ready(program(*args)) for program in programs]
        seconds = [min(worker.turn(call, 0), worker.turn(call, 0)) for call in calls]
        for _ in range(ROUNDS):
            seconds = [least if least > 0.5 else min(least, worker.turn(c, 0.05)) for c, least in zip(calls, seconds)]
        flops = operations(case, jax.eval_shape(layers_jax.layer("convlab", case)[0], *_operands(case))) / seconds[0]
        step = convlab.explain(function, *shapes)[-1]
        formulation = " of ".join(dict.fromkeys((step.formulation, *step.parts)))
        times = [f"{1e3 * s:.3g}" for s in seconds]
        title = f"{case['family']}: {case['name']}"
        yield (title, name, formulation, times[0], f"{flops / 1e9:.1f}", times[1]), flops


def _operands(case: dict[str, Any]) -> tuple[Any, Any]:
    return layers_jax.layer("convlab", case)[1], layers_jax.images(case)


def chosen(only: str) -> list[dict[str, Any]]:
    """Return the convolutions whose name contains one of the texts."""
    convolutions = [case for case in suite.cases() if case["op"].startswith("conv") and "call" not in case]
    takes = lambda case: any(text in f"{case['family']} {case['name']}" for text in only.split(","))
    return [case for case in convolutions if takes(case)]


def main() -> int:
    options = parse()
    cases = chosen(options.only)
    if not cases:
        print(f"rates.py: no convolution is called {options.only!r}", file=sys.stderr)
        return 2
    load, (peak, _), rows = os.getloadavg()[0], dearest.peaks(), []
    try:
        for case in cases:
            for (*facts, plain), flops in measure(case):
                rows.append((*facts, f"{flops / peak:.0%}", plain))
                print("  ".join(rows[-1]), flush=True)
    except KeyboardInterrupt:  # the rows measured so far are written
        pass
    engine = "without the engine" if os.environ.get("CONVLAB_ENGINE") == "off" else "with the engine"
    where = f"{report.started({}).machine}, {engine}, peak {peak / 1e9:.0f} GFLOP/s, load {load:.1f} at the start, "
    where += f"{datetime.date.today()}, jax {jax.__version__}"
    print(where)
    if options.markdown and rows:
        off = "CONVLAB_ENGINE=off " * (os.environ.get("CONVLAB_ENGINE") == "off")
        command = " ".join([f"{off}python benchmarks/rates.py", *(f"'{a}'" if " " in a else a for a in sys.argv[1:])])
        lines = ["| " + " | ".join(line) + " |" for line in (COLUMNS, ("---",) * len(COLUMNS), *rows)]
        tables.write_markdown("\n".join([f"`{command}`: {where}.", "", *lines, ""]), options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
