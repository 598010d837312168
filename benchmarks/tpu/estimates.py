"""What the TPU's compiler expects of every layer of the suite, convlab's beside Flax's: `python benchmarks/tpu/estimates.py`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import compiler
import jax
import layers_jax
import suite

CONTESTANTS = ("convlab", "flax")
MODES = ("forward", "gradients")
WORSE = 1.02  # what is flagged, or told apart
COLUMNS = (("cycles", "kcycles", 1e3), ("bytes", "MiB moved", 2**20), ("temporary", "MiB held", 2**20), ("flops", "Mflop", 1e6))
Row = dict[str, Any]  # layer, mode, dtype, and by contestant its estimate, None where Flax lacks the layer


def of_type(shapes: Any, dtype: str) -> Any:
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), shapes)


def estimates(case: dict[str, Any], mode: str, dtype: str) -> dict[str, compiler.Estimate]:
    """By contestant; without Flax where it lacks the layer."""
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


def rows(only: str, modes: list[str], dtype: str, kept: pathlib.Path | None) -> Iterator[Row]:
    """Each row as it is made; those that `kept` has are taken from there, and it gets the others."""
    lines = kept.read_text().splitlines() if kept and kept.exists() else []
    known = {tuple(row[key] for key in ("layer", "mode", "dtype")): row for row in map(json.loads, lines)}
    for case in suite.cases():
        name = f"{case['family']} {case['name']}"
        if any(text in name for text in only.split(",")):
            for mode in modes:
                if (name, mode, dtype) not in known:
                    found = {who: dataclasses.asdict(e) for who, e in estimates(case, mode, dtype).items()}
                    known[name, mode, dtype] = {"layer": name, "mode": mode, "dtype": dtype, "flax": None, **found}
                    if kept:
                        with kept.open("a") as file:
                            file.write(json.dumps(known[name, mode, dtype]) + "\n")
                yield known[name, mode, dtype]


# --- tables -------------------------------------------------------------------------------------------------------


def ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else math.inf if ours else 1.0


def cell(row: Row, fact: str, scale: float) -> str:
    """`convlab / flax (ratio)`, one number where they agree, in bold where convlab's is the larger."""
    ours = row["convlab"][fact]
    theirs = row["flax"][fact] if row["flax"] else ours
    if f"{ours / scale:.3g}" == f"{theirs / scale:.3g}":
        return f"{ours / scale:.3g}"
    text = f"{ours / scale:.3g} / {theirs / scale:.3g} ({ratio(ours, theirs):.2f})"
    return f"**{text}**" if ours > WORSE * theirs and ours - theirs > scale / 16 else text


def differs(row: Row) -> bool:
    pairs = [(row["convlab"][fact] / scale, row["flax"][fact] / scale) for fact, _, scale in COLUMNS] if row["flax"] else []
    return any(max(pair) > WORSE * min(pair) and abs(pair[0] - pair[1]) > 1 / 16 for pair in pairs)


PARTS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("Layers of which convlab makes another program than Flax, those that move the fewest bytes beside it first", differs),
    ("Layers that Flax has not", lambda row: row["flax"] is None),
    ("Layers of which both make the same program, or one that costs the same within 2 %", lambda row: True),
)


def as_tables(found: list[Row]) -> str:
    """The parts that have rows, each a table."""
    rest, parts = sorted(found, key=lambda row: ratio(row["convlab"]["bytes"], (row["flax"] or row["convlab"])["bytes"])), []
    titles = ["layer", "mode", *(title for _, title, _ in COLUMNS)]
    for title, belongs in PARTS:
        mine, rest = [row for row in rest if belongs(row)], [row for row in rest if not belongs(row)]
        if belongs is not differs:
            mine.sort(key=found.index)
        lines = [f"| {row['layer']} | {row['mode']} | {' | '.join(cell(row, f, s) for f, _, s in COLUMNS)} |" for row in mine]
        if lines:
            parts.append("\n".join([f"{title}:\n\n| {' | '.join(titles)} |\n|{' --- |' * len(titles)}", *lines]))
    return "\n\n".join(parts)


def heading(dtype: str) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "libtpu"))
    return f"One chip of TPU v5e, {dtype}; {versions}; convlab / Flax (ratio), one number where they are equal."


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", default="", help="layers whose name contains one of these texts, comma separated")
    parser.add_argument("--modes", default=",".join(MODES), help="forward, gradients")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--kept", type=pathlib.Path, metavar="ROWS", help="a file of rows, to go on where a run was ended")
    parser.add_argument("--markdown", type=pathlib.Path, metavar="OUT", help="write the tables, between the file's marks")
    args = parser.parse_args(argv)
    if not compiler.available():
        print("estimates.py: the TPU's compiler is not here; pip install libtpu", file=sys.stderr)
        return 2
    found = []
    for row in rows(args.only, args.modes.split(","), args.dtype, args.kept):
        found.append(row)
        print(row["layer"], row["mode"], *(f"{cell(row, f, s)} {title}" for f, title, s in COLUMNS), sep="  ", flush=True)
    text = f"{heading(args.dtype)}\n\n{as_tables(found)}"
    if args.markdown:
        from tables import write_markdown

        write_markdown(text, args.markdown)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
