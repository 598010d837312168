#!/usr/bin/env python3
"""Makes docs/upstream.md: reports to JAX, XLA and Flax, and for each the results and times of plain JAX,
`convlab.accelerate()` and convlab on this machine.

    python benchmarks/upstream.py --json upstream.json --markdown docs/upstream.md

Results in the JSON file are not measured again. With --again they are, and the smaller of the two times is kept, for
busy machines. PyTorch is measured if the interpreter has it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import report as reporting
from command_line import Parser, output, positive, some_of
from contestants import Failed, compete, gather, prepared
from upstream_reports import DERIVATIVES, DEVICES, GPU, REPORTS, SECTIONS, SPEED, WRONG, Report

LIBRARIES = {"jax": "plain JAX", "accelerate": "under `accelerate()`", "convlab": "convlab"}
CONTESTANTS = {"flax": "plain JAX", "accelerate": "`accelerate()`", "convlab": "convlab", "torch": "PyTorch"}
ACCELERATED = (*WRONG, *DERIVATIVES, *DEVICES)  # the sections with a column for `accelerate()`
FLAGS = "--xla_force_host_platform_device_count=4"
LENET = {"network": "lenet", "tiny": False, "steps": 8}
NOISE = 0.95  # above this ratio to plain JAX's time a row is "no better"
PAGE = """# Reports upstream that convlab answers

The tables list open and closed reports to [JAX](https://github.com/jax-ml/jax/issues),
[XLA](https://github.com/openxla/xla/issues) and [Flax](https://github.com/google/flax/issues) about convolution
and pooling, what convlab does in each case, and the results of both on one machine. The state of a report is that of
September 2026; "none" marks a fault that has not been reported as far as we know. The programs are our own:
`benchmarks/upstream_checks.py`, `upstream_layers.py` and `upstream_speed.py`. `tests/test_upstream.py` runs the
checks with convlab.

Made by `{command}` on {machine}; {versions}; {date}.

"""
SLOW = """\
The table shows milliseconds of a call, the minimum of {rounds}. Each contestant runs in a separate process, and they
take turns. The machine was shared and busy, so single figures can be several times too large, most of all PyTorch's
and those of programs with many small operations: the factors are orders of magnitude. "With gradients" is the
convolution and the gradients of all its operands, "compile" is tracing, lowering and compiling. "`accelerate()`" is
the plain program under `accelerate()`.

"""
ON_A_GPU = """\
These programs did not run on a GPU. The checks read the instructions of a program that is lowered for CUDA: "right"
means that the instruction that is reported as slow or missing is not among them. `accelerate()` changes programs on
the CPU only, unless a tuning (`autotune`) is in force.

"""


# --- the checks, in processes that may end --------------------------------------------------------------------------


def child(library: str, names: Iterable[str]) -> None:
    """Print a line of JSON as each check begins, and one as it ends."""
    import upstream_layers  # noqa: F401
    from upstream_checks import CHECKS

    import convlab

    if library == "accelerate":
        convlab.accelerate()
    for name in names:
        print(json.dumps([name, None]), flush=True)
        try:
            CHECKS[name]("jax" if library == "accelerate" else library)
            outcome = "right"
        except AssertionError as error:
            outcome = str(error).splitlines()[0] if str(error) else "an error without a text"
        except Exception as error:  # the page reports the error
            outcome = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        print(json.dumps([name, outcome]), flush=True)


def checked(library: str, names: list[str]) -> dict[str, str]:
    """Return the result of each check; a check that ends its process is reported, and another process runs the rest."""
    outcomes: dict[str, str] = {}
    while left := [name for name in names if name not in outcomes]:
        path = os.pathsep.join(filter(None, (str(pathlib.Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS, "PYTHONPATH": path}
        command = [sys.executable, __file__, "--child", library, *left]
        done = subprocess.run(command, env=environment, text=True, capture_output=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if not lines:
            raise reporting.Unusable(f"no check can run: {done.stderr.strip().splitlines()[-1]}")
        outcomes |= {name: said or "ends the process" for name, said in lines}
    return outcomes


def run_checks(result: dict[str, Any], only: str) -> None:
    for library in LIBRARIES:
        wanted = [r for r in REPORTS if r.check and (library != "accelerate" or r in ACCELERATED) and takes(r, only)]
        names = list(dict.fromkeys(r.check for r in wanted if r.check not in result["checks"].get(library, {})))
        if names:
            print(f"{len(names)} checks with {library}", flush=True)
            result["checks"].setdefault(library, {}).update(checked(library, names))


# --- the times ------------------------------------------------------------------------------------------------------


def run_speed(result: dict[str, Any], only: str, names: list[str], budget: float, again: bool) -> None:
    programs = [r.speed for r in REPORTS if r.speed and takes(r, only) and (again or r.speed not in result["times"])]
    if not programs:
        return
    contestants = gather(names, {}, patience=120)
    result["versions"] = {name: contestant.ask("hello") for name, contestant in contestants.items()}
    try:
        for name in dict.fromkeys(programs):
            job = ("network", LENET) if name == "lenet" else ("upstream", {"name": name})
            takers, notes = prepared(contestants, *job)
            mode = "step" if name == "lenet" else next(iter(takers.values())).ask("prepare", *job)[0]
            for row in compete(takers, [mode], budget):
                before = result["times"].get(name, {"values": {}, "runs": 0})
                both = [before["values"], row["values"]]
                values = {k: min(some[k] for some in both if k in some) for k in before["values"] | row["values"]}
                notes = notes | row["notes"]
                result["times"][name] = {
                    "mode": row["mode"],
                    "values": values,
                    "notes": notes,
                    "runs": before["runs"] + 1,
                }
                print(name, row["mode"], {k: round(v, 2) for k, v in row["values"].items()}, flush=True)
            keep(result)
    finally:
        for contestant in contestants.values():
            contestant.stop()


def keep(result: dict[str, Any]) -> None:
    if result["file"]:
        pathlib.Path(result["file"]).write_text(json.dumps({k: v for k, v in result.items() if k != "file"}, indent=1))


def takes(report: Report, only: str) -> bool:
    words = " ".join((*report.numbers, report.check, report.speed))
    return any(text in words for text in only.split(","))


# --- the page -------------------------------------------------------------------------------------------------------


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join([row(heads), row(["---"] * len(heads)), *map(row, rows)])


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def rounds(result: dict[str, Any]) -> str:
    runs = [timed.get("runs", 1) for timed in result["times"].values()]
    if max(runs, default=1) == 1:
        return "three turns"
    return f"three turns in each of {min(runs)} runs, the later with `--again`"


def speed_rows(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    for report in (r for r in SPEED if r.speed in result["times"]):
        timed = result["times"][report.speed]
        values = timed["values"]
        what = {"gradients": "with gradients", "step": "step"}.get(timed["mode"], timed["mode"])
        ours, plain = values.get("convlab"), values.get("flax")
        factor = "" if not ours or not plain else f"{plain / ours:.3g}" if ours < NOISE * plain else "no better"
        times = [milliseconds(values.get(name)) for name in CONTESTANTS]
        rows.append([f"{report.links()} ({report.state})", report.fault, report.answer, what, *times, factor])
    return rows


def check_rows(result: dict[str, Any], reports: tuple[Report, ...], libraries: list[str]) -> list[list[str]]:
    rows = []
    for report in reports:
        given = [shortened(result["checks"].get(library, {}).get(report.check, "")) for library in libraries]
        if not report.check:
            given[-1] = "held by a test"
        elif not any(given):
            continue
        state = f" ({report.state})" if report.state else ""
        rows.append([report.links() + state, report.fault, report.answer, *given])
    return rows


def shortened(text: str) -> str:
    text = text if len(text) <= 110 else text[:107].rsplit(" ", 1)[0] + " ..."
    return (
        text
        if text in ("", "right", "ends the process") or not any(c in text for c in "<>{}*_")
        else f"`{text.replace('`', '')}`"
    )


def page(result: dict[str, Any]) -> str:
    seen: dict[str, str] = {}
    for versions in result["versions"].values():
        seen |= {name: version for name, version in versions.items() if name != "python"} | {
            "Python": versions["python"]
        }
    versions = ", ".join(f"{name} {version}" for name, version in sorted(seen.items()))
    command = "python benchmarks/upstream.py --json upstream.json --markdown docs/upstream.md"
    parts = [PAGE.format(command=command, machine=result["machine"], versions=versions, date=result["date"])]
    for title, reports in SECTIONS.items():
        parts.append(f"## {title}\n\n")
        if reports is SPEED:
            heads = [
                "report",
                "what goes wrong",
                "convlab's answer",
                "timed",
                *CONTESTANTS.values(),
                "plain JAX / convlab",
            ]
            parts.append(SLOW.format(rounds=rounds(result)) + table(heads, speed_rows(result)))
        else:
            libraries = [name for name in LIBRARIES if name != "accelerate" or set(reports) <= set(ACCELERATED)]
            parts.append(ON_A_GPU if reports is GPU else "")
            heads = [
                "report",
                "what goes wrong",
                "convlab's answer",
                *(f"{LIBRARIES[name]}, here" for name in libraries),
            ]
            parts.append(table(heads, check_rows(result, reports, libraries)))
        parts.append("\n\n")
    return "".join(parts).rstrip() + "\n"


# --- the command ----------------------------------------------------------------------------------------------------


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="reports whose number, check or program contains one of these texts")
    parser.add_argument("--contestants", type=some_of(CONTESTANTS), default=",".join(CONTESTANTS))
    parser.add_argument("--budget", type=positive, default=0.6, help="seconds that a contestant spends on a program")
    parser.add_argument("--json", type=output, metavar="FILE", help="keep all results here, and continue from them")
    parser.add_argument("--again", action="store_true", help="measure again, and keep the smaller times")
    parser.add_argument("--markdown", type=output, metavar="OUT", help="write the page")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> int:
    args = parse()
    if args.child:
        child(args.child[0], args.child[1:])
        return 0
    machine = reporting.started({}).machine
    result: dict[str, Any] = {"checks": {}, "times": {}, "versions": {}, "machine": machine}
    if args.json and args.json.exists():
        result |= json.loads(args.json.read_text())
    result |= {"date": datetime.date.today().isoformat(), "file": str(args.json or "")}
    try:
        run_checks(result, args.only)
        keep(result)
        run_speed(result, args.only, args.contestants.split(","), args.budget, args.again)
    except (reporting.Unusable, Failed) as why:
        print(f"upstream.py: {why}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("upstream.py: interrupted; --json FILE keeps the results", file=sys.stderr)
        return 130
    keep(result)
    if args.markdown:
        args.markdown.write_text(page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
