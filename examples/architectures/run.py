"""The networks of `convlab.models`: `run.py NAME` prints one with its times, `run.py --all` makes the table of all.

The table can be made in parts: `run.py --all --only NAME NAME --times FOLDER` keeps times in FOLDER, and
`run.py --all --times FOLDER` then reads them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import catalogue
import measure

from convlab import analysis

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TITLES = (
    "network", "input", "parameters", "published", "multiply-adds", "published",
    "forward, ms", "with Flax", "step, ms", "with Flax",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        print(f"{self.prog}: {message}", file=sys.stderr)
        sys.exit(2)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="run.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"one of {', '.join(catalogue.NETWORKS)}")
    parser.add_argument(
        "--all", action="store_true", help="the table of all networks, each measured in a separate process"
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of images and parameters")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each of three turns of a contestant lasts")
    parser.add_argument(
        "--times",
        type=pathlib.Path,
        metavar="FOLDER",
        help="with --all: keep each network's times here, and reuse them",
    )
    parser.add_argument(
        "--markdown", type=pathlib.Path, metavar="FILE", help="write the table of --all between FILE's marks"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="with --all: only these networks, as a part of the table"
    )
    parser.add_argument("--json", action="store_true", help="with NAME: only the times")
    args = parser.parse_args(argv)
    if args.all == (args.name is not None):
        parser.error("needs NAME or --all")
    if args.name is not None and args.name not in catalogue.NETWORKS:
        parser.error(f"NAME must be one of {', '.join(catalogue.NETWORKS)}, got {args.name!r}")
    if not args.seconds > 0:
        parser.error(f"--seconds must be positive, got {args.seconds}")
    if (args.markdown or args.times or args.only) and not args.all:
        parser.error("--markdown, --times and --only need --all")
    for name in args.only:
        if name not in catalogue.NETWORKS:
            parser.error(f"--only must name some of {', '.join(catalogue.NETWORKS)}, got {name!r}")
    if args.only and args.markdown:
        parser.error("--markdown needs the whole table: without --only, --times FOLDER reads the times of the parts")
    if args.markdown and not marked(args.markdown):
        parser.error(f"--markdown must name a file with the lines {BEGIN} and {END}, got {args.markdown}")
    return args


def marked(path: pathlib.Path) -> bool:
    return path.is_file() and BEGIN in (text := path.read_text()) and END in text.split(BEGIN)[1]


def show(name: str, dtype: str, seconds: float) -> None:
    """Print the layers of a network, its figures and the published ones, and its times."""
    facts, shapes = catalogue.facts(name), catalogue.shapes(name)
    print(f"{facts.title}. {facts.source}.")
    found = analysis.summary(shapes, facts.input)
    print(f"parameters     {found.parameters:,}; published {facts.parameters.text} ({facts.parameters.source})")
    counted = f"{found.macs_with_padding:,}"
    print(f"multiply-adds  {counted}; published {facts.multiply_adds.text} ({facts.multiply_adds.source})")
    if facts.field:
        print(f"field          published {facts.field.text} at {facts.field_path} ({facts.field.source})")
    print(f"timing on {size(facts.input)}, {dtype} ...", flush=True)
    times = measure.times(name, dtype, seconds)
    for title, ms in (("forward", times.forward), ("training step", times.step)):
        beside = f"; with Flax's layers {ms['flax']:.3g} ms" if "flax" in ms else ""
        print(f"{title:14} {ms['convlab']:.3g} ms{beside}")
    if times.missing:
        print(f"Flax has no {times.missing}")


def size(given: Any) -> str:
    return "×".join(map(str, given.shape)) + ("" if given.dtype == "float32" else f" {given.dtype}")


def row(name: str, times: measure.Times) -> tuple[str, ...]:
    facts = catalogue.facts(name)
    found = analysis.analyze(catalogue.shapes(name), facts.input)
    ms = [
        milliseconds(of[who]) if who in of else "—" for of in (times.forward, times.step) for who in ("convlab", "flax")
    ]
    counts = (f"{found.parameters:,}", facts.parameters.text, f"{found.macs_with_padding:,}", facts.multiply_adds.text)
    return (name, size(facts.input), *counts, *ms)


def milliseconds(ms: float) -> str:
    return f"{ms:.3g}" if ms < 1000 else f"{ms:,.0f}"


def measured(name: str, dtype: str, seconds: float, folder: pathlib.Path | None) -> measure.Times:
    """Measure in a separate process, so that networks do not affect each other's memory; or read a result kept in a
    folder."""
    kept = folder / f"{name}-{dtype}.json" if folder else None
    if kept and kept.exists():
        return measure.Times(**json.loads(kept.read_text()))
    command = [sys.executable, __file__, name, "--json", "--dtype", dtype, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {(done.stderr.strip().splitlines() or [done.returncode])[-1]}")
    answer = done.stdout.splitlines()[-1]
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(answer)
    return measure.Times(**json.loads(answer))


def table(
    dtype: str, seconds: float, folder: pathlib.Path | None, only: list[str]
) -> tuple[list[tuple[str, ...]], dict[str, str]]:
    """Return the rows, printed as they arrive, and by network the layer that Flax does not have."""
    rows, missing = [], {}
    widths = [max(12, len(title)) for title in TITLES]
    line = lambda cells: "  ".join([cells[0].ljust(18), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:]))])
    print(line(TITLES), flush=True)
    for name in only or catalogue.NETWORKS:
        times = measured(name, dtype, seconds, folder)
        rows.append(row(name, times))
        print(line(rows[-1]), flush=True)
        if times.missing:
            missing[name] = times.missing
    return rows, missing


def markdown(rows: list[tuple[str, ...]], missing: dict[str, str], dtype: str) -> str:
    form = lambda cells: f"| {' | '.join(cells)} |"
    lines = [
        f"Measured: {measure.conditions(dtype)}.",
        "",
        form(TITLES),
        form(["---", "---", *["---:"] * (len(TITLES) - 2)]),
    ]
    lines += [form([f"[{cells[0]}](#{cells[0]})", *cells[1:]]) for cells in rows]
    if missing:
        lines += [
            "",
            "— : Flax has no counterpart of " + "; ".join(f"{what} ({name})" for name, what in missing.items()) + ".",
        ]
    return "\n".join([*lines, "", *(part for name in catalogue.NETWORKS for part in described(name))])


def described(name: str) -> list[str]:
    """Return a network's sources, from its docstring."""
    entry, facts = catalogue.NETWORKS[name], catalogue.facts(name)
    lines = [f"### {name}", "", f"{facts.title}: {facts.source}. `{entry.file}`", ""]
    lines += [f"- Parameters: {facts.parameters.text} ({facts.parameters.source})"]
    lines += [f"- Multiply-adds: {facts.multiply_adds.text} ({facts.multiply_adds.source})"]
    if facts.field:
        lines += [f"- Receptive field: {facts.field.text} at `{facts.field_path}` ({facts.field.source})"]
    return [*lines, *([f"- {entry.note}"] if entry.note else []), ""]


def write(text: str, path: pathlib.Path) -> None:
    """Write the text between the marks of the file."""
    before, rest = path.read_text().split(BEGIN, 1)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    if args.json:
        print(json.dumps(dataclasses.asdict(measure.times(args.name, args.dtype, args.seconds))))
    elif args.all:
        try:
            rows, missing = table(args.dtype, args.seconds, args.times, args.only)
        except RuntimeError as failed:
            print(f"run.py: {failed}", file=sys.stderr)
            return 2
        if args.markdown:
            write(markdown(rows, missing, args.dtype), args.markdown)
    else:
        show(args.name, args.dtype, args.seconds)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("run.py: interrupted", file=sys.stderr)
        sys.exit(130)
