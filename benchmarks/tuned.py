#!/usr/bin/env python3
"""Measures programs by the static tables, by `convlab.autotune`'s choices and by plain JAX through Flax.

    python benchmarks/tuned.py [--only TEXT,TEXT] [--networks mobilenet,unet3d] [--markdown benchmarks/tuned.md]

A program is a layer of suite.json with the gradients of all operands, or a network's training step. Each is autotuned;
then the three compiled programs take turns, and the minimum time of a call counts.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import layers_jax
import networks_jax
import report
import subjects
import suite
import tables
import worker
from command_line import Parser, output, positive, some_of

import convlab

MARGIN = 1.05  # a smaller gain can be noise
COLUMNS = ("program", "by the tables, ms", "tuned, ms", "gain", "plain JAX, ms", "what changed")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="layers whose family and name contain one of these texts")
    parser.add_argument("--networks", type=some_of(subjects.NETWORKS), help="comma separated; default none")
    parser.add_argument("--tiny", action="store_true", help="networks small enough to try the command")
    parser.add_argument("--budget", type=positive, default=60, help="seconds to tune a program, default %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="autotune's rounds, default %(default)s")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each program, default %(default)s")
    parser.add_argument("--save", type=output, metavar="OUT", help="write the tuning of all programs together")
    parser.add_argument("--markdown", type=output, metavar="OUT", help="write the table, between the file's marks")
    return parser.parse_args(argv)


def layer(case: dict[str, Any], contestant: str) -> tuple[Callable, Callable[[], tuple]]:
    f, parameters = layers_jax.layer(contestant, case)
    function, shapes, _ = layers_jax.programs(f, (parameters, layers_jax.images(case)))["gradients"]
    return function, functools.partial(layers_jax.draw, shapes)


def network(name: str, tiny: bool, contestant: str) -> tuple[Callable, Callable[[], tuple]]:
    payload = {"network": name, "tiny": tiny, "steps": 1}
    (call,), _ = networks_jax.calls(contestant, payload)["step"]
    return call.compiled.__wrapped__, call.make


def compiled(function: Callable, args: tuple) -> tuple[Callable[[], Any], str]:
    lowered = jax.jit(lambda *a: function(*a)).lower(*args)
    call = lowered.compile()
    return lambda: jax.block_until_ready(call(*args)), lowered.as_text()


def measure(make: Callable[[str], tuple[Callable, Callable[[], tuple]]], options: argparse.Namespace):
    """Return the milliseconds of the three programs and the tuning."""
    function, arguments = make("convlab")
    args = arguments()
    tuning = convlab.autotune(function, *args, repeats=options.repeats, budget=options.budget)
    calls: dict[str, Callable[[], Any]] = {}
    calls["static"], before = compiled(function, args)
    with tuning:
        changed, after = compiled(function, args)
    if after != before:
        calls["tuned"] = changed
    with contextlib.suppress(ValueError):  # neither JAX nor Flax has the layer
        calls["plain"], _ = compiled(make("flax")[0], args)
    for call in calls.values():
        call()
    times = dict.fromkeys(calls, math.inf)
    for _ in range(options.rounds):
        for name, call in calls.items():
            times[name] = min(times[name], 1e3 * worker.turn(call, 0.05))
    return times, tuning


def row(name: str, times: dict[str, float], tuning: convlab.Tuning) -> tuple[str, ...]:
    tuned = times.get("tuned", times["static"])
    changed = [f"{e.operation}: {e.static} to {e.choice}" for e in tuning.entries if e.choice != e.static]
    what = "; ".join(dict.fromkeys(changed)) or "nothing"
    plain = f"{times['plain']:.3g}" if "plain" in times else "–"
    stopped = f" ({tuning.stopped})" if tuning.stopped else ""
    return (name, f"{times['static']:.3g}", f"{tuned:.3g}", f"{times['static'] / tuned:.2f}", plain, what + stopped)


def main() -> int:
    options = parse()
    programs = [
        (f"{case['family']}: {case['name']}", functools.partial(layer, case))
        for case in suite.cases()
        if any(text and text in f"{case['family']} {case['name']}" for text in options.only.split(","))
    ]
    programs += [
        (name, functools.partial(network, name, options.tiny)) for name in (options.networks or "").split(",") if name
    ]
    if not programs:
        print(f"tuned.py: no layer is called {options.only!r}, and no network is named", file=sys.stderr)
        return 2
    load, rows, gains, whole = os.getloadavg()[0], [], [], None
    for name, make in programs:
        try:
            times, tuning = measure(make, options)
        except KeyboardInterrupt:  # the rows measured so far are written
            break
        whole = tuning if whole is None else whole | tuning
        rows.append(row(name, times, tuning))
        gains.append(times["static"] / times.get("tuned", times["static"]))
        print("  ".join(rows[-1]), flush=True)
    if not rows:
        return 130
    mean = math.exp(sum(map(math.log, gains)) / len(gains))
    where = (
        f"{report.started({}).machine}, load {load:.1f} at the start, {datetime.date.today()}, jax {jax.__version__}"
    )
    faster = sum(gain > MARGIN for gain in gains)
    summary = f"{len(gains)} programs, {faster} of them faster by more than 5 %, "
    summary += f"the gain in the geometric mean {mean:.2f}, the smallest {min(gains):.2f}."
    command = " ".join(["python benchmarks/tuned.py", *(f"'{a}'" if " " in a else a for a in sys.argv[1:])])
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    print(summary)
    if options.save and whole is not None:
        whole.save(options.save)
    if options.markdown:
        tables.write_markdown(f"`{command}`: {where}. {summary}\n\n{table}\n", options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
