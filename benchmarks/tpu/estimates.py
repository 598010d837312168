"""What the TPU's compiler expects of every layer of the suite, convlab's beside Flax's: `python benchmarks/tpu/estimates.py`."""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import compiler
import jax
import layers_jax
import suite

CONTESTANTS = ("convlab", "flax")
MODES = ("forward", "gradients")
WORSE = 1.02  # what is flagged


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


def ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else math.inf if ours else 1.0


def pair(found: dict[str, compiler.Estimate], fact: str, scale: float) -> str:
    """`convlab / flax (ratio)`, in bold where convlab's is the worse."""
    ours = getattr(found["convlab"], fact)
    if "flax" not in found:
        return f"{ours / scale:.3g}"
    theirs = getattr(found["flax"], fact)
    worse = ours > WORSE * theirs and ours - theirs > 2**16
    text = f"{ours / scale:.3g} / {theirs / scale:.3g}" + (f" ({ratio(ours, theirs):.2f})" if ours != theirs else "")
    return f"**{text}**" if worse else text


COLUMNS = (("flops", "Mflop", 1e6), ("bytes", "MiB moved", 2**20), ("temporary", "MiB held", 2**20))


def rows(only: str, modes: list[str], dtype: str) -> Iterator[str]:
    for case in suite.cases():
        name = f"{case['family']} {case['name']}"
        if any(text in name for text in only.split(",")):
            for mode in modes:
                found = estimates(case, mode, dtype)
                yield f"| {name} | {mode} | " + " | ".join(pair(found, fact, scale) for fact, _, scale in COLUMNS) + " |"


def heading(dtype: str) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "libtpu"))
    titles = ["layer", "mode", *(title for _, title, _ in COLUMNS)]
    return f"One chip of TPU v5e, {dtype}; {versions}.\n\n| {' | '.join(titles)} |\n|{' --- |' * len(titles)}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", default="", help="layers whose name contains one of these texts, comma separated")
    parser.add_argument("--modes", default=",".join(MODES), help="forward, gradients")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--markdown", type=pathlib.Path, metavar="OUT", help="write the table, between the file's marks")
    args = parser.parse_args(argv)
    if not compiler.available():
        print("estimates.py: the TPU's compiler is not here; pip install libtpu", file=sys.stderr)
        return 2
    lines = [heading(args.dtype)]
    print(lines[0])
    for row in rows(args.only, args.modes.split(","), args.dtype):
        lines.append(row)
        print(row, flush=True)
    if args.markdown:
        import tables

        tables.write_markdown("\n".join(lines), args.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
