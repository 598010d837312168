#!/usr/bin/env python3
"""Measures the times of convlab, plain JAX through Flax, Flax under convlab.accelerate(), and PyTorch, on the CPU.

    python benchmarks/run.py [SUBJECT]                                 # measures a subject; default all
    python benchmarks/run.py report A.json B.json                      # prints the tables of earlier runs

PyTorch is measured if this interpreter has it, or another one: --python torch=PATH. --python newest=PATH measures the
JAX contestants once more under that interpreter. README.md describes how the times are measured.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

import report
import subjects
import tables
from command_line import Parser, interpreter, output, positive, some_of
from contestants import INFERENCE, KINDS, WHOLE, gather

BUSY = 0.5  # load for each core
DTYPES = ("float32", "bfloat16", "float16")  # of a layer's operands and results, and of a network's products


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "subject", nargs="?", default="all", choices=[*subjects.SUBJECTS, *subjects.APART, "all", "report"]
    )
    parser.add_argument("results", nargs="*", type=pathlib.Path, help="for `report`: JSON files of earlier runs")
    parser.add_argument(
        "--python",
        action="append",
        type=interpreter,
        default=[],
        metavar="NAME=PATH",
        help="an interpreter for a contestant",
    )
    parser.add_argument("--contestants", type=some_of(KINDS | INFERENCE), help="default: all of the subject")
    parser.add_argument(
        "--only", default="", help="cases whose family and name contain one of these texts, comma separated"
    )
    modes = some_of(subjects.MODES)
    parser.add_argument("--modes", type=modes, help=f"some of {', '.join(subjects.MODES)}; default all")
    dtype = os.environ.get("BENCHMARK_DTYPE", "float32")
    parser.add_argument("--dtype", default=dtype, choices=DTYPES, help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="networks small enough to try the command")
    parser.add_argument(
        "--budget", type=positive, default=0.5, help="seconds that a contestant spends on a case and mode"
    )
    parser.add_argument(
        "--patience", type=positive, default=120, help="seconds after which a contestant gets no result for a mode"
    )
    parser.add_argument("--json", type=output, metavar="OUT", help="write all numbers")
    parser.add_argument("--markdown", type=output, metavar="OUT", help="write the tables, between the file's marks")
    parser.add_argument("--picture", type=output, metavar="OUT.png", help="draw the ratios")
    args = parser.parse_args(argv)
    if args.subject == "report" and not args.results:
        parser.error("`report` needs the JSON files of earlier runs")
    if args.subject != "report" and args.results:
        parser.error(f"only `report` takes files, got {args.subject} {args.results[0]}")
    return args


def measure(args: argparse.Namespace) -> report.Result:
    os.environ["BENCHMARK_DTYPE"] = args.dtype  # the contestants' processes read it
    present = WHOLE.get(args.subject, KINDS)
    kinds = args.contestants.split(",") if args.contestants else list(present)
    contestants = gather(kinds, dict(args.python), args.patience)
    if not contestants:
        raise report.Unusable("no contestant can run: is convlab installed with its `test` extra?")
    result = report.started({name: contestant.ask("hello") for name, contestant in contestants.items()})
    choice = subjects.Choice(args.only, args.modes or "", args.budget, args.tiny)
    if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
        print("The machine is busy: the ratios are unreliable, PyTorch's most of all.", file=sys.stderr)
    print(tables.heading(result))
    try:
        for subject in subjects.SUBJECTS if args.subject == "all" else [args.subject]:
            for row in (subjects.SUBJECTS | subjects.APART)[subject](contestants, choice):
                result.rows.append(row)
                if args.json:  # an interrupted run keeps its results
                    report.save(result, args.json)
                print(tables.line(result, row), flush=True)
    finally:
        for contestant in contestants.values():
            contestant.stop()
    return result


def main() -> int:
    args = parse()
    try:
        result = report.load(args.results) if args.subject == "report" else measure(args)
        if not result.rows:
            raise report.Unusable(f"nothing of {args.subject} is called {args.only!r}")
    except report.Unusable as why:
        print(f"run.py: {why}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"run.py: interrupted; the results are in {args.json or 'no file: name one with --json'}",
            file=sys.stderr,
        )
        return 130
    print(f"{result.where()}; {result.date}")
    print(tables.summary(result))
    if args.json:
        report.save(result, args.json)
    if args.markdown:
        tables.write_markdown(tables.markdown(result), args.markdown)
    if args.picture:
        import picture

        if not picture.draw(result, args.picture):
            print("no picture: no contestant has a ratio in layers, networks or lenet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
