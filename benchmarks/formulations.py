#!/usr/bin/env python3
"""Measures the layers of suite.json on the CPU with each formulation in the tables and without it.

    python benchmarks/formulations.py [--formulations toeplitz,fft] [--networks mobilenet] [--markdown OUT]

A program is a layer forward, a layer with the gradients of all operands, or a network's training step. If a
formulation's rows change the lowered program, the programs with and without them take turns, and the minimum time of a
call counts. CONVLAB_ENGINE=off in the environment measures the formulations that are used without the engine.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import layers_jax
import networks_jax
import report
import subjects
import suite
import tables as markdown
import worker
from command_line import Parser, output, some_of

from convlab._backend import tables
from convlab._backend.pooling import operations

FORMULATIONS = ("batch_vectorized", "swapped_operands", "output_blocking", "toeplitz", "winograd", "fft")
MARGIN = 1.03
COLUMNS = ("formulation", "program", "with, ms", "without, ms", "without / with")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--formulations", type=some_of(tables.FORMULATIONS), default=",".join(FORMULATIONS), help="default %(default)s"
    )
    parser.add_argument("--only", default="", help="layers whose family and name contain one of these texts")
    parser.add_argument("--networks", type=some_of(subjects.NETWORKS), help="their training steps as well")
    parser.add_argument("--tiny", action="store_true", help="networks small enough to try the command")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each program, default %(default)s")
    parser.add_argument("--markdown", type=output, metavar="OUT", help="write the table, between the file's marks")
    return parser.parse_args(argv)


@contextlib.contextmanager
def without(formulation: str) -> Iterator[None]:
    """Remove the rows of a formulation from the CPU's tables within the context."""
    rows, fits = tables.TABLES["cpu"], operations._fits_vectors
    tables.TABLES["cpu"] = {kind: tuple(r for r in table if r[0] != formulation) for kind, table in rows.items()}
    if formulation == "batch_vectorized":
        operations._fits_vectors = lambda *_: False
    jax.clear_caches()
    try:
        yield
    finally:
        tables.TABLES["cpu"], operations._fits_vectors = rows, fits


def programs(options: argparse.Namespace) -> Iterator[tuple[str, Callable, Callable[[], tuple]]]:
    """Yield names, functions, and functions that draw their arguments."""
    for case in suite.cases():
        if not any(text in f"{case['family']} {case['name']}" for text in options.only.split(",")):
            continue
        f, parameters = layers_jax.layer("convlab", case)
        modes = layers_jax.programs(f, (parameters, layers_jax.images(case)))
        for mode in ("forward", "gradients"):
            if mode in modes:
                function, shapes, _ = modes[mode]
                yield f"{case['name']}, {mode}", function, lambda shapes=shapes: layers_jax.draw(shapes)
    for name in filter(None, (options.networks or "").split(",")):
        payload = {"network": name, "tiny": options.tiny, "steps": 1}
        (call,), _ = networks_jax.calls("convlab", payload)["step"]
        yield f"{name}, a training step", call.compiled.__wrapped__, call.make


def lowered(function: Callable, args: tuple) -> tuple[Any, str]:
    program = jax.jit(lambda *a: function(*a)).lower(*args)
    return program, program.as_text()


def times_of(compiled: dict[str, Any], args: tuple, rounds: int) -> dict[str, float]:
    calls = {name: lambda call=call: jax.block_until_ready(call(*args)) for name, call in compiled.items()}
    for call in calls.values():
        call()
    times = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for name, call in calls.items():
            times[name] = min(times[name], 1e3 * worker.turn(call, 0.05))
    return times


def main() -> int:
    options = parse()
    names = options.formulations.split(",")
    load, rows, ratios = os.getloadavg()[0], [], {name: [] for name in names}
    for program, function, draw in programs(options):
        shapes = jax.eval_shape(draw)
        full, text = lowered(function, shapes)
        changed: dict[str, Any] = {}
        for name in names:
            with without(name):
                other, other_text = lowered(function, shapes)
            if other_text != text:
                changed[name] = other.compile()
        if not changed:
            continue
        times = times_of({"": full.compile()} | changed, draw(), options.rounds)
        for name in changed:
            ratios[name].append(times[name] / times[""])
            rows.append((name, program, f"{times['']:.3g}", f"{times[name]:.3g}", f"{ratios[name][-1]:.2f}"))
            print("  ".join(rows[-1]), flush=True)
    sums = [
        f"{name}: {len(found)} programs, "
        + (
            f"{sum(r > MARGIN for r in found)} slower without it, {sum(r < 1 / MARGIN for r in found)} faster, "
            f"mean {math.exp(sum(map(math.log, found)) / len(found)):.2f}"
            if found
            else "none changes"
        )
        for name, found in ratios.items()
    ]
    print("\n".join(sums))
    engine = "without the engine" if os.environ.get("CONVLAB_ENGINE") == "off" else "with the engine"
    where = f"{report.started({}).machine}, {engine}, load {load:.1f} at the start, "
    where += f"{datetime.date.today()}, jax {jax.__version__}"
    command = " ".join(["python benchmarks/formulations.py", *(f"'{a}'" if " " in a else a for a in sys.argv[1:])])
    lines = [COLUMNS, ("---",) * len(COLUMNS), *sorted(rows, key=lambda r: names.index(r[0]))]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    if options.markdown:
        markdown.write_markdown(f"`{command}`: {where}.\n\n- " + "\n- ".join(sums) + f"\n\n{table}\n", options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
