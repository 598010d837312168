"""Prints the estimates of the TPU's compiler for every layer of the suite, of convlab and of Flax, and for the
operations that neither Flax nor lax has, of convlab and of plain JAX: `python benchmarks/tpu/estimates.py`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import math
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import compiler
import jax
import layers_jax
import operations
import suite

CONTESTANTS = ("convlab", "flax")
MODES = ("forward", "gradients")
LATE = 3  # the exit code if the compiler took too long
WORSE = 1.02  # a larger ratio is flagged, or counts as a difference
COLUMNS = (
    ("cycles", "kcycles", 1e3),
    ("bytes", "MiB moved", 2**20),
    ("temporary", "MiB held", 2**20),
    ("flops", "Mflop", 1e6),
)
OF_OPERATIONS = (
    *COLUMNS[:3],
    ("operands", "MiB of arguments and results", 2**20),
    ("windows", "windows without estimate", 1),
    ("entries", "thousand entries one by one", 1e3),
)
PLAIN = "plain JAX"
Row = dict[
    str, Any
]  # layer, mode, dtype, and by contestant ("flax" of a layer, PLAIN of an operation) its estimate or None


def of_type(shapes: Any, dtype: str) -> Any:
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), shapes)


def estimates(case: dict[str, Any], mode: str, dtype: str) -> dict[str, compiler.Estimate]:
    """Return estimates by contestant, without Flax where it lacks the layer."""
    found = {}
    for contestant in CONTESTANTS:
        try:
            f, parameters = layers_jax.layer(contestant, case)
        except TypeError:
            if contestant == "convlab":
                raise
            continue
        function, shapes, _ = layers_jax.programs(f, of_type((parameters, layers_jax.images(case)), dtype))[mode]
        found[contestant] = compiler.estimate(function, *shapes)
    return found


# --- rows ---------------------------------------------------------------------------------------------------------


def jobs(layers: pathlib.Path) -> Iterator[tuple[str, str, Callable[[str, str], dict[str, compiler.Estimate]]]]:
    """Return (name, rival, estimates by mode and dtype) of every layer and, with the suite's, of every operation."""
    for case in (case for case in suite.cases(layers) if "call" not in case):
        yield f"{case['family']} {case['name']}", "flax", functools.partial(estimates, case)
    for image in operations.IMAGES if layers == suite.SUITE else ():
        for operation in operations.OPERATIONS:
            made = functools.partial(operations.estimates, operation, image)
            yield f"{operation.name} {'x'.join(map(str, image))}", PLAIN, made


def keep(row: Row, kept: pathlib.Path | None) -> None:
    if kept:
        with kept.open("a") as file:
            file.write(json.dumps(row) + "\n")


@contextlib.contextmanager
def at_most(seconds: float, row: Row, kept: pathlib.Path | None) -> Iterator[None]:
    """End the process if the block, in which the compiler cannot be interrupted, takes more of the processors' time;
    keep the row as late."""
    done, began = threading.Event(), time.process_time()

    def watch() -> None:
        while not done.wait(1):
            if time.process_time() - began > seconds:
                keep(row | {"late": seconds}, kept)
                print(f"{row['layer']} {row['mode']}: not compiled; run again to go on", flush=True)
                os._exit(LATE)

    if seconds < math.inf:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def rows(
    layers: pathlib.Path, only: str, modes: list[str], dtype: str, kept: pathlib.Path | None, patience: float
) -> Iterator[Row]:
    """Yield each row as it is computed; rows in `kept` are taken from there, and new ones are added to it."""
    lines = kept.read_text().splitlines() if kept and kept.exists() else []
    known = {tuple(row[key] for key in ("layer", "mode", "dtype")): row for row in map(json.loads, lines)}
    for name, rival, made in jobs(layers):
        if any(text in name for text in only.split(",")):
            for mode in modes:
                if (name, mode, dtype) not in known:
                    row: Row = {"layer": name, "mode": mode, "dtype": dtype, rival: None}
                    with at_most(patience, row, kept):
                        row |= {who: dataclasses.asdict(e) for who, e in made(mode, dtype).items()}
                    known[name, mode, dtype] = row
                    keep(row, kept)
                yield known[name, mode, dtype]


# --- tables -------------------------------------------------------------------------------------------------------


def ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else math.inf if ours else 1.0


def cell(row: Row, fact: str, scale: float) -> str:
    """Return `convlab / flax (ratio)`, one number where they agree, in bold where convlab's is the larger."""
    ours = row["convlab"][fact]
    theirs = (row.get("flax") or row.get(PLAIN) or row["convlab"])[fact]
    if f"{ours / scale:.3g}" == f"{theirs / scale:.3g}":
        return f"{ours / scale:.3g}"
    text = f"{ours / scale:.3g} / {theirs / scale:.3g} ({ratio(ours, theirs):.2f})"
    return f"**{text}**" if ours > WORSE * theirs and ours - theirs > scale / 16 else text


def differs(row: Row) -> bool:
    pairs = (
        [(row["convlab"][fact] / scale, row["flax"][fact] / scale) for fact, _, scale in COLUMNS] if row["flax"] else []
    )
    return any(max(pair) > WORSE * min(pair) and abs(pair[0] - pair[1]) > 1 / 16 for pair in pairs)


PARTS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    (
        "Layers whose program differs from Flax's, ordered by the ratio of the bytes moved",
        differs,
    ),
    ("Layers that Flax does not have", lambda row: row["flax"] is None),
    ("Layers whose program is the same as Flax's, or whose estimates agree within 2 %", lambda row: True),
)


def as_tables(found: list[Row]) -> str:
    """Return a table for each part that has rows, and the rows that the compiler did not finish."""
    late, found = [row for row in found if "late" in row], [row for row in found if "late" not in row]
    layers = [row for row in found if PLAIN not in row]
    rest, parts = (
        sorted(layers, key=lambda row: ratio(row["convlab"]["bytes"], (row["flax"] or row["convlab"])["bytes"])),
        [],
    )
    for title, belongs in PARTS:
        mine, rest = [row for row in rest if belongs(row)], [row for row in rest if not belongs(row)]
        if belongs is not differs:
            mine.sort(key=found.index)
        parts += table(title, "layer", mine, COLUMNS)
    parts += table(
        f"Operations of convlab's own; convlab / {PLAIN}", "operation", [r for r in found if PLAIN in r], OF_OPERATIONS
    )
    if late:
        names = "; ".join(f"{row['layer']} {row['mode']}" for row in late)
        parts.append(f"Not compiled within {max(row['late'] for row in late):g} seconds of the processors: {names}.")
    return "\n\n".join(parts)


def table(title: str, subject: str, mine: list[Row], columns: tuple[tuple[str, str, float], ...]) -> list[str]:
    """Return one table, or none without rows."""
    titles = [subject, "mode", *(title for _, title, _ in columns)]
    lines = [
        f"| {row['layer']} | {row['mode']} | {' | '.join(cell(row, f, s) for f, _, s in columns)} |" for row in mine
    ]
    return ["\n".join([f"{title}:\n\n| {' | '.join(titles)} |\n|{' --- |' * len(titles)}", *lines])] if lines else []


def heading(dtype: str) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "libtpu"))
    return f"One chip of TPU v5e, {dtype}; {versions}; convlab / Flax (ratio), one number where they are equal."


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that the commands of this folder share."""
    made = argparse.ArgumentParser(description=description, allow_abbrev=False)
    made.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    made.add_argument(
        "--kept", type=pathlib.Path, metavar="ROWS", help="a file of rows, to continue an interrupted run"
    )
    made.add_argument("--markdown", type=pathlib.Path, metavar="OUT", help="write the tables, between the file's marks")
    return made


def no_compiler(command: str) -> bool:
    """Return whether the TPU's compiler is missing, and report it."""
    missing = not compiler.available()
    if missing:
        print(f"{command}: the TPU's compiler is not installed; pip install libtpu", file=sys.stderr)
    return missing


def report(text: str, dtype: str, page: pathlib.Path | None) -> int:
    """Write the tables into the page, or print them, and return the exit code."""
    text = f"{heading(dtype)}\n\n{text.rstrip()}\n"
    if page:
        from tables import write_markdown

        write_markdown(text, page)
    else:
        print(text, end="")
    return 0


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument(
        "--suite", type=pathlib.Path, default=suite.SUITE, metavar="JSON", help="the layers; between.json has others"
    )
    options.add_argument("--only", default="", help="layers whose name contains one of these texts, comma separated")
    options.add_argument("--modes", default=",".join(MODES), help="forward, gradients")
    options.add_argument(
        "--patience",
        type=float,
        default=math.inf,
        help="processors' seconds after which a row, and the run, is given up",
    )
    args = options.parse_args(argv)
    if no_compiler("estimates.py"):
        return 2
    found = []
    for row in rows(args.suite, args.only, args.modes.split(","), args.dtype, args.kept, args.patience):
        found.append(row)
        if "late" in row:
            print(row["layer"], row["mode"], f"not compiled in {row['late']:g} s", sep="  ", flush=True)
            continue
        columns = OF_OPERATIONS if PLAIN in row else COLUMNS
        print(
            row["layer"], row["mode"], *(f"{cell(row, f, s)} {title}" for f, title, s in columns), sep="  ", flush=True
        )
    return report(as_tables(found), args.dtype, args.markdown)


if __name__ == "__main__":
    sys.exit(main())
