#!/usr/bin/env python3
"""Times convlab beside plain JAX through Flax, Flax under convlab.accelerate(), and PyTorch, on the CPU.

    python benchmarks/run.py [layers|networks|photographs|lenet|compile|all]      what to measure; default all
    python benchmarks/run.py report A.json B.json                      the tables and the picture of earlier runs

PyTorch takes part if the interpreter has it, or another one: --python torch=PATH. --python newest=PATH lets the JAX contestants
compete once more under that interpreter. README.md says how the times are taken.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

import report
import subjects
import tables
from contestants import KINDS, gather

BUSY = 0.5  # load for each core


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", nargs="?", default="all", choices=[*subjects.SUBJECTS, *subjects.APART, "all", "report"])
    parser.add_argument("results", nargs="*", type=pathlib.Path, help="for `report`: JSON files of earlier runs")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="an interpreter for a contestant")
    parser.add_argument("--contestants", default=",".join(KINDS), help="default: %(default)s")
    parser.add_argument("--only", default="", help="cases whose family and name contain one of these texts, comma separated")
    parser.add_argument("--modes", default="", help="layers: forward, gradients, scan, vmap, ensemble; default all")
    parser.add_argument("--tiny", action="store_true", help="networks small enough to try the command")
    parser.add_argument("--budget", type=float, default=0.5, help="seconds that a contestant spends on a case and mode")
    parser.add_argument("--patience", type=float, default=120, help="seconds after which a contestant is given up on a mode")
    parser.add_argument("--json", type=pathlib.Path, metavar="OUT", help="write all numbers")
    parser.add_argument("--markdown", type=pathlib.Path, metavar="OUT", help="write the tables, between the file's marks")
    parser.add_argument("--picture", type=pathlib.Path, metavar="OUT.png", help="draw the ratios")
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> report.Result:
    pythons = dict(pair.split("=", 1) for pair in args.python)
    contestants = gather(args.contestants.split(","), pythons, args.patience)
    if not contestants:
        raise SystemExit("no contestant can run: is convlab installed with its `test` extra?")
    result = report.started({name: contestant.ask("hello") for name, contestant in contestants.items()})
    choice = subjects.Choice(args.only, args.modes, args.budget, args.tiny)
    if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
        print("The machine is busy: the ratios are in doubt, PyTorch suffers most from it.", file=sys.stderr)
    print(tables.heading(result))
    try:
        for subject in subjects.SUBJECTS if args.subject == "all" else [args.subject]:
            for row in (subjects.SUBJECTS | subjects.APART)[subject](contestants, choice):
                result.rows.append(row)
                if args.json:  # what is measured stays, whatever ends the run
                    report.save(result, args.json)
                print(tables.line(result, row), flush=True)
    finally:
        for contestant in contestants.values():
            contestant.stop()
    return result


def main() -> None:
    args = parse()
    result = report.load(args.results) if args.subject == "report" else measure(args)
    print(f"{result.where()}; {result.date}")
    print(tables.summary(result))
    if args.json:
        report.save(result, args.json)
    if args.markdown:
        tables.write_markdown(tables.markdown(result), args.markdown)
    if args.picture:
        import picture

        if not picture.draw(result, args.picture):
            print("no picture: nobody met a reference in layers, networks or lenet")


if __name__ == "__main__":
    main()
