#!/usr/bin/env python3
"""Compares each layer of suite.json with plain JAX through Flax: by the static tables and, where those are not clearly
faster, with `convlab.autotune(..., whole_program=True)`.

    python benchmarks/against_plain.py --json plain.json [--only TEXT,TEXT] [--modes forward,gradients]
    python benchmarks/against_plain.py report old.json new.json --markdown benchmarks/against_plain.md

The compiled programs take turns in one process, and the least time of a call counts. A layer is autotuned only if the
tables' program is not at least 10 % faster than plain JAX's. What is in the JSON file already is not measured again;
`--minutes` ends the run after the layer that is being measured.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import layers_jax
import report
import suite
import tables
import worker
from command_line import Parser, output, positive, some_of
from tuned import compiled

import convlab

MODES = ("forward", "gradients")
CLEAR = 1.1  # times as fast as plain JAX: the layer is not autotuned
LIMIT = 1.05  # times plain JAX's time: a layer above it is slower
PATIENT = 0.3  # seconds of a call; a program that takes longer has no further turns if the other is clearly faster
COLUMNS = ("layer", "mode", "by the tables, ms", "autotuned, ms", "plain JAX, ms", "ratio", "what changed")
Row = dict[str, Any]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="measure", choices=["measure", "report"], help="default: measure")
    parser.add_argument("results", nargs="*", type=pathlib.Path, help="for `report`: JSON files of earlier runs")
    parser.add_argument("--only", default="", help="layers whose family and name contain one of these texts")
    parser.add_argument("--modes", type=some_of(MODES), default=",".join(MODES), help="default %(default)s")
    parser.add_argument("--budget", type=positive, default=8, help="seconds to tune a layer, default %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="autotune's rounds, default %(default)s")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each program, default %(default)s")
    parser.add_argument("--minutes", type=positive, default=math.inf, help="end the run after so many minutes")
    parser.add_argument("--json", type=output, metavar="OUT", help="keep all numbers, and go on from those in there")
    parser.add_argument("--markdown", type=output, metavar="OUT", help="write the table, between the file's marks")
    return parser.parse_args(argv)


def layers(only: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the convolutions and pools of the suite whose name contains one of the texts, with their names."""
    named = [(f"{case['family']} {case['name']}", case) for case in suite.cases() if "call" not in case]
    return [(name, case) for name, case in named if any(text in name for text in only.split(","))]


def program(contestant: str, case: dict[str, Any], mode: str) -> tuple[Callable, tuple]:
    f, parameters = layers_jax.layer(contestant, case)
    function, shapes, _ = layers_jax.programs(f, (parameters, layers_jax.images(case)))[mode]
    return function, shapes


def take_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the least seconds of a call of each program; the first call does not count unless it is the only one."""
    times = {name: worker.turn(call, 0) for name, call in calls.items()}
    if max(times.values()) > PATIENT and max(times.values()) > 2 * CLEAR * min(times.values()):
        return times
    times = dict.fromkeys(times, math.inf)
    for _ in range(rounds):
        for name, call in calls.items():
            times[name] = min(times[name], worker.turn(call, 0.02))
    return times


def measure(case: dict[str, Any], mode: str, options: argparse.Namespace) -> Row:
    """Return the milliseconds of each program, and what autotune changed if it was asked."""
    function, shapes = program("convlab", case, mode)
    args = layers_jax.draw(shapes)
    calls, texts = {}, {}
    calls["tables"], texts["tables"] = compiled(function, args)
    try:
        calls["plain"], texts["plain"] = compiled(program("flax", case, mode)[0], args)
    except (TypeError, ValueError):  # Flax does not have the layer
        times = take_turns(calls, 3)
        return {"times": milliseconds(times), "changed": None, "stopped": None}
    times = take_turns(calls, 3)
    if times["tables"] * CLEAR <= times["plain"]:
        return {"times": milliseconds(times), "changed": None, "stopped": None}
    tuning = convlab.autotune(function, *args, repeats=options.repeats, budget=options.budget, whole_program=True)
    if tuning.stopped == "interrupted":
        raise KeyboardInterrupt
    with tuning:
        changed, texts["tuned"] = compiled(function, args)
    if texts["tuned"] != texts["tables"]:
        calls["tuned"] = changed
    times = take_turns(calls, options.rounds)
    what = [f"{e.operation}: {e.static} to {e.choice}" for e in tuning.entries if e.choice != e.static]
    return {"times": milliseconds(times), "changed": list(dict.fromkeys(what)), "stopped": tuning.stopped}


def milliseconds(times: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{1e3 * seconds:.4g}") for name, seconds in times.items()}


def run(options: argparse.Namespace) -> dict[str, Row]:
    """Measure what the JSON file does not have; return all rows by layer, mode and conditions."""
    rows: dict[str, Row] = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    end = time.monotonic() + 60 * options.minutes
    engine = ", without the engine" * (os.environ.get("CONVLAB_ENGINE") == "off")
    here = {"machine": report.started({}).machine + engine, "jax": jax.__version__}
    for name, case in layers(options.only):
        for mode in options.modes.split(","):
            key = "|".join([name, mode, *here.values()])
            if key in rows or time.monotonic() > end:
                continue
            try:
                found = measure(case, mode, options)
            except KeyboardInterrupt:  # the rows measured so far are written
                return rows
            rows[key] = {"layer": name, "mode": mode, **here, "load": os.getloadavg()[0], **found}
            settings = f"--budget {options.budget:g} --repeats {options.repeats} --rounds {options.rounds}"
            rows[key] |= {"date": str(datetime.date.today()), "settings": settings}
            print("  ".join(cells(rows[key])), flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


# --- the page -----------------------------------------------------------------------------------------------------


def ratio(row: Row) -> float | None:
    """Return the time by plain JAX's, of the autotuned program where there is one; None without plain JAX."""
    times = row["times"]
    return times.get("tuned", times["tables"]) / times["plain"] if "plain" in times else None


def cells(row: Row) -> tuple[str, ...]:
    times, rate, changed = row["times"], ratio(row), row["changed"]
    tuned = f"{times['tuned']:.3g}" if "tuned" in times else "–" if changed is None else "the same"
    what = "not autotuned" if changed is None else "; ".join(changed) or "nothing"
    what += f" ({row['stopped']})" if row["stopped"] else ""
    plain = f"{times['plain']:.3g}" if rate is not None else "–"
    return (
        row["layer"],
        row["mode"],
        f"{times['tables']:.3g}",
        tuned,
        plain,
        "–" if rate is None else f"{rate:.2f}",
        what,
    )


def summary(rows: list[Row]) -> str:
    met = [row for row in rows if ratio(row) is not None]
    rates = [ratio(row) or 0.0 for row in met]
    over = [f"{row['layer']} {row['mode']} {rate:.2f}" for row, rate in zip(met, rates) if rate > LIMIT]
    by_tables = sum(row["times"]["tables"] > LIMIT * row["times"]["plain"] for row in met)
    tuned = sum(row["changed"] is not None for row in met)
    text = f"{len(met)} programs of {len({row['layer'] for row in rows})} layers, {tuned} of them autotuned; "
    if rates:
        text += f"the ratio to plain JAX is {max(rates):.2f} at most and "
        text += f"{math.exp(sum(map(math.log, rates)) / len(rates)):.2f} in the geometric mean. "
    text += f"Slower than plain JAX by more than 5 % are {by_tables} by the tables and {len(over)} with autotune"
    return text + (f": {'; '.join(over)}." if over else ".")


def markdown(rows: list[Row]) -> str:
    """Return for each set of conditions the summary, the autotuned programs and, folded, the others."""
    grouped: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["machine"], row["jax"]), []).append(row)
    parts = []
    for (machine, version), some in grouped.items():
        loads, dates = [row["load"] for row in some], sorted({row["date"] for row in some})
        where = f"{machine}, jax {version}, load {min(loads):.1f} to {max(loads):.1f}, {' to '.join(dates)}"
        settings = "`; `".join(dict.fromkeys(f"python benchmarks/against_plain.py {row['settings']}" for row in some))
        tuned, clear = ([row for row in some if (row["changed"] is None) is kind] for kind in (False, True))
        parts.append(f"## jax {version}\n\n`{settings}`: {where}. {summary(some)}")
        if tuned:
            parts.append(tables.table(list(COLUMNS), [list(cells(row)) for row in tuned]))
        if clear:
            few = [[*cells(row)[:3], *cells(row)[4:6]] for row in clear]
            folded = tables.table([*COLUMNS[:3], *COLUMNS[4:6]], few)
            title = f"{len(clear)} programs that were not autotuned"
            parts.append(f"<details><summary>{title}</summary>\n\n{folded}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.what == "measure" and not layers(options.only):
        print(f"against_plain.py: no layer is called {options.only!r}", file=sys.stderr)
        return 2
    try:
        if options.what == "measure":
            rows = run(options)
        else:
            rows = {key: row for path in options.results for key, row in json.loads(path.read_text()).items()}
    except (OSError, ValueError) as error:
        print(f"against_plain.py: {error}", file=sys.stderr)
        return 2
    if not rows:
        return 130
    print(summary(list(rows.values())))
    if options.markdown:
        tables.write_markdown(markdown(list(rows.values())), options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
