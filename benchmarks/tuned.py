#!/usr/bin/env python3
"""Measures programs by the static tables, by `convlab.autotune`'s choices and by plain JAX through Flax.

    python benchmarks/tuned.py [--only TEXT,TEXT] [--networks mobilenet,unet3d] [--json tuned.json]
    python benchmarks/tuned.py problems [--suite benchmarks/uncommon.json] [--dtypes float32,bfloat16] [--json all.json]
    python benchmarks/tuned.py report tuned.json --markdown benchmarks/tuned.md

A program is a layer of suite.json with the gradients of all operands, or a network's training step. Each is autotuned;
then the three compiled programs take turns, and the least time of a call counts. `problems` instead lists the choices
that autotune changes, one for each convolution, kernel gradient and pool of the layers, with autotune's own times.
What is in the JSON file already is not measured again. CONVLAB_ENGINE=off in the environment measures what serves
where there is no engine; float64 needs JAX_ENABLE_X64=1.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import itertools
import json
import math
import os
import pathlib
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
from conditions import DEVICE

import convlab

MARGIN = 1.05  # of noise
PATIENT = 0.5  # seconds of a call; a program that takes longer has one turn
COLUMNS = ("program", "by the tables, ms", "tuned, ms", "gain", "plain JAX, ms", "what changed")
PROBLEMS = ("problem", "calls of a step", "by the tables", "ms", "chosen", "ms", "gain", "lax, ms")
DTYPES = ("float32", "bfloat16", "float16", "float64")
Row = dict[str, Any]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="?", default="measure", choices=["measure", "problems", "report"], help="default: measure"
    )
    parser.add_argument("results", nargs="*", type=pathlib.Path, help="for `report`: JSON files of earlier runs")
    parser.add_argument("--only", default="", help="layers whose family and name contain one of these texts")
    parser.add_argument("--suite", type=pathlib.Path, default=suite.SUITE, help="layers; uncommon.json has others")
    parser.add_argument("--dtypes", type=some_of(DTYPES), default="float32", help="for `problems`, default %(default)s")
    parser.add_argument("--networks", type=some_of(subjects.NETWORKS), help="comma separated; default none")
    parser.add_argument("--tiny", action="store_true", help="networks small enough to try the command")
    parser.add_argument("--budget", type=positive, default=60, help="seconds to tune a program, default %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="autotune's rounds, default %(default)s")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each program, default %(default)s")
    parser.add_argument("--json", type=output, metavar="OUT", help="keep all numbers, and go on from those in there")
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
    if tuning.stopped == "interrupted":
        raise KeyboardInterrupt
    calls: dict[str, Callable[[], Any]] = {}
    calls["static"], before = compiled(function, args)
    with tuning:
        changed, after = compiled(function, args)
    if after != before:
        calls["tuned"] = changed
    with contextlib.suppress(ValueError):  # neither JAX nor Flax has the layer
        calls["plain"], _ = compiled(make("flax")[0], args)
    times = {name: min(worker.turn(call, 0), worker.turn(call, 0)) for name, call in calls.items()}
    for _ in range(options.rounds):
        for name, call in calls.items():
            if times[name] < PATIENT:
                times[name] = min(times[name], worker.turn(call, 0.05))
    return {name: 1e3 * seconds for name, seconds in times.items()}, tuning


def conditions(options: argparse.Namespace) -> Row:
    """Return what rows of one table have in common."""
    engine = ", without the engine" if os.environ.get("CONVLAB_ENGINE") == "off" else ", with the engine"
    layers = "" if options.suite == suite.SUITE else f"--suite benchmarks/{options.suite.name} "
    settings = f"{layers}--budget {options.budget:g} --repeats {options.repeats} --rounds {options.rounds}"
    machine = report.started({}).machine + engine * (DEVICE == "cpu")
    return {"machine": machine, "jax": jax.__version__, "date": str(datetime.date.today()), "settings": settings}


# --- problems -----------------------------------------------------------------------------------------------------


def tune_layer(case: dict[str, Any], dtype: str, options: argparse.Namespace) -> convlab.Tuning:
    f, parameters = layers_jax.layer("convlab", case)
    operands = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), (parameters, layers_jax.images(case)))
    function, shapes, _ = layers_jax.programs(f, operands)["gradients"]
    return convlab.autotune(function, *shapes, repeats=options.repeats, budget=options.budget)


def tune_problems(options: argparse.Namespace) -> dict[str, Row]:
    """Tune each layer in each dtype that the JSON file does not have; return all rows by name, dtype and conditions."""
    rows: dict[str, Row] = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    here = conditions(options)
    for dtype, case in itertools.product(options.dtypes.split(","), suite.cases(options.suite)):
        name = f"{case['family']}: {case['name']}"
        key = f"{name}|{dtype}, {here['machine']}, {here['jax']}"
        wanted = any(text in name.replace(":", "") for text in options.only.split(","))
        if key in rows or not wanted or "call" in case:
            continue
        tuning = tune_layer(case, dtype, options)
        if tuning.stopped == "interrupted":
            break
        rows[key] = here | {"load": os.getloadavg()[0], "dtype": dtype, "stopped": tuning.stopped}
        rows[key]["entries"] = [
            {"operation": e.operation, "problem": e.problem, "count": e.count, "static": e.static, "choice": e.choice}
            | {"ms": {way: float(f"{1e3 * t:.4g}") for way, t in e.seconds.items()}}
            for e in tuning.entries
        ]
        for entry in rows[key]["entries"]:
            print(name, dtype, *problem_cells(entry), tuning.stopped or "", sep="  ", flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def problem_gain(entry: Row) -> float:
    return entry["ms"][entry["static"]] / entry["ms"][entry["choice"]]


def problem_cells(entry: Row) -> tuple[str, ...]:
    before, after = (f"{entry['ms'][entry[way]]:.3g}" for way in ("static", "choice"))
    lax = f"{entry['ms']['lax']:.3g}" if "lax" in entry["ms"] else "–"
    facts = f"{entry['operation']} {entry['problem']}", str(entry["count"])
    return (*facts, entry["static"], before, entry["choice"], after, f"{problem_gain(entry):.2f}", lax)


def problems_markdown(rows: dict[str, Row]) -> str:
    """Return for each set of conditions what was tried, and the problems that gain, by dtype and gain."""
    grouped: dict[tuple[str, ...], list[Row]] = {}
    for row in rows.values():
        grouped.setdefault(tuple(row[key] for key in ("machine", "jax", "settings")), []).append(row)
    parts = []
    for (machine, version, settings), some in grouped.items():
        loads, dates = [row["load"] for row in some], sorted({row["date"] for row in some})
        off = "CONVLAB_ENGINE=off " * ("without the engine" in machine)
        command = f"`{off}python benchmarks/tuned.py problems {settings}`"
        where = f"{machine}, jax {version}, load {min(loads):.1f} to {max(loads):.1f}, {' to '.join(dates)}"
        lines = [f"{command}: {where}.", ""]
        gaining = []
        for dtype in dict.fromkeys(row["dtype"] for row in some):
            mine = [row for row in some if row["dtype"] == dtype]
            entries = list({(e["operation"], e["problem"]): e for row in mine for e in row["entries"]}.values())
            better = [e for e in entries if problem_gain(e) > MARGIN]
            gaining += sorted(better, key=problem_gain, reverse=True)
            cut = sum(row["stopped"] is not None for row in mine)
            tried = f"- {dtype}: {len(entries)} problems of {len(mine)} layers"
            lines.append(f"{tried}, {len(better)} of them faster by more than 5 %")
            lines[-1] += f"; the budget ended before all candidates of {cut} layers" if cut else ""
        table = [PROBLEMS, ("---",) * len(PROBLEMS), *map(problem_cells, gaining)]
        parts.append("\n".join([*lines, "", *("| " + " | ".join(line) + " |" for line in table), ""]))
    return "\n".join(parts)


def measured(times: dict[str, float], tuning: convlab.Tuning, options: argparse.Namespace) -> Row:
    changed = [f"{e.operation}: {e.static} to {e.choice}" for e in tuning.entries if e.choice != e.static]
    problems = [dict(zip(("problem", "static", "choice", "ms"), facts(e))) for e in tuning.entries]
    row = {"times": times, "changed": list(dict.fromkeys(changed)), "stopped": tuning.stopped, "problems": problems}
    return conditions(options) | {"load": os.getloadavg()[0]} | row


def facts(entry: Any) -> tuple[str, str, str, dict[str, float]]:
    fastest = dict(itertools.islice(entry.seconds.items(), 4)) | {entry.static: entry.seconds[entry.static]}
    milliseconds = {name: float(f"{1e3 * seconds:.4g}") for name, seconds in fastest.items()}
    return f"{entry.operation} {entry.problem}", entry.static, entry.choice, milliseconds


def gain(row: Row) -> float:
    return row["times"]["static"] / row["times"].get("tuned", row["times"]["static"])


def cells(name: str, row: Row) -> tuple[str, ...]:
    times = row["times"]
    tuned = times.get("tuned", times["static"])
    plain = f"{times['plain']:.3g}" if "plain" in times else "–"
    stopped = f" ({row['stopped']})" if row["stopped"] else ""
    what = "; ".join(row["changed"]) or "nothing"
    return (name, f"{times['static']:.3g}", f"{tuned:.3g}", f"{gain(row):.2f}", plain, what + stopped)


def summary(rows: list[Row]) -> str:
    gains = list(map(gain, rows))
    mean = math.exp(sum(map(math.log, gains)) / len(gains))
    text = f"{len(gains)} programs, {sum(g > MARGIN for g in gains)} of them faster by more than 5 %, "
    text += f"the gain in the geometric mean {mean:.2f}, the least {min(gains):.2f}."
    met = [row["times"] for row in rows if "plain" in row["times"]]
    over = sum(times.get("tuned", times["static"]) > MARGIN * times["plain"] for times in met)
    return f"{text} Slower than plain JAX by more than 5 % are {over} of {len(met)}."


def markdown(rows: dict[str, Row]) -> str:
    """Return a table for each set of conditions."""
    grouped: dict[tuple[str, ...], dict[str, Row]] = {}
    for name, row in rows.items():
        grouped.setdefault(tuple(row[key] for key in ("machine", "jax", "settings")), {})[name.rsplit("|", 1)[0]] = row
    parts = []
    for (machine, version, settings), some in grouped.items():
        loads, dates = [row["load"] for row in some.values()], sorted({row["date"] for row in some.values()})
        command = f"`{'CONVLAB_ENGINE=off ' * ('without the engine' in machine)}python benchmarks/tuned.py {settings}`"
        where = f"{machine}, jax {version}, load {min(loads):.1f} to {max(loads):.1f}, {' to '.join(dates)}"
        table = [COLUMNS, ("---",) * len(COLUMNS), *itertools.starmap(cells, some.items())]
        lines = ["| " + " | ".join(line) + " |" for line in table]
        parts.append("\n".join([f"{command}: {where}. {summary(list(some.values()))}", "", *lines, ""]))
    return "\n".join(parts)


def programs(options: argparse.Namespace) -> list[tuple[str, Callable]]:
    found: list[tuple[str, Callable]] = []
    if options.only or not options.networks:
        for case in suite.cases(options.suite):
            name = f"{case['family']} {case['name']}"
            if any(text in name for text in options.only.split(",")) and not suite.is_of_integers(case):
                found.append((f"{case['family']}: {case['name']}", functools.partial(layer, case)))
    names = filter(None, (options.networks or "").split(","))
    return found + [(name, functools.partial(network, name, options.tiny)) for name in names]


def run(options: argparse.Namespace) -> dict[str, Row]:
    """Measure what the JSON file has not yet; return all rows by name and conditions."""
    rows: dict[str, Row] = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    here, whole = conditions(options), None
    for name, make in programs(options):
        key = f"{name}|{here['machine']}, {here['jax']}"
        if key in rows:
            continue
        try:
            times, tuning = measure(make, options)
        except KeyboardInterrupt:  # the rows measured so far are written
            break
        whole = tuning if whole is None else whole | tuning
        rows[key] = measured(times, tuning, options)
        print("  ".join(cells(name, rows[key])), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.save and whole is not None:
        whole.save(options.save)
    return rows


def main() -> int:
    options = parse()
    if options.what == "measure" and not programs(options):
        print(f"tuned.py: no layer is called {options.only!r}, and no network is named", file=sys.stderr)
        return 2
    try:
        if options.what == "measure":
            rows = run(options)
        elif options.what == "problems":
            rows = tune_problems(options)
        else:
            rows = {name: row for path in options.results for name, row in json.loads(path.read_text()).items()}
    except (OSError, ValueError) as error:
        print(f"tuned.py: {error}", file=sys.stderr)
        return 2
    if not rows:
        return 130
    programs_, problems = ({n: r for n, r in rows.items() if ("entries" in r) is kind} for kind in (False, True))
    if programs_:
        print(summary(list(programs_.values())))
    if options.markdown:
        parts = [write(some) for write, some in ((problems_markdown, problems), (markdown, programs_)) if some]
        tables.write_markdown("\n".join(parts), options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
