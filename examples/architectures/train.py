#!/usr/bin/env python3
"""Trains one of three networks:

    python train.py shapes            U-Net finds circles, rectangles and triangles in noise
    python train.py audio             a TCN classifies a sound while it streams, block by block
    python train.py fashion-mnist     a small ResNet and LeNet-5; downloaded once, or --data-dir FOLDER

Each command makes a folder with result.json and picture.png. Equal seeds give equal bits on one machine.
Exit codes: 0 done, 2 an error that you can fix (one line on stderr describes it), 130 interrupted.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import statistics
import sys
from typing import Any, NoReturn

# Set before jax is imported: XLA's log lines would break the rule of one line on stderr.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(pathlib.Path(__file__).parents[1] / "mnist"))

from lenet.errors import UserError, explained  # noqa: E402  from the folder


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See {self.prog} --help")


def whole(least: int, text: str) -> int:
    """Convert an option's text to an int of at least `least`."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value < 2**31:
        raise argparse.ArgumentTypeError(f"must be an integer from {least} to 2**31 - 1, got {text!r}")
    return value


def parser() -> Parser:
    result = Parser(prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(dest="name", required=True, metavar="shapes|audio|fashion-mnist")
    positive, natural = functools.partial(whole, 1), functools.partial(whole, 0)
    for name in ("shapes", "audio", "fashion-mnist"):
        one = commands.add_parser(name, allow_abbrev=False)
        one.add_argument("--seeds", type=natural, nargs="+", default=[0], help="train with each (default: 0)")
        one.add_argument("--epochs", type=positive, help="default: as in the table of the README")
        one.add_argument("--out", type=pathlib.Path, metavar="FOLDER", help="a new folder (default: runs/NAME)")
    one.add_argument("--data-dir", type=pathlib.Path, help="folder with the four gzip IDX files (default: download)")
    one.add_argument("--hold-out", type=natural, default=0, help="test on that many training images")
    return result


def program(given: argparse.Namespace) -> tuple[Any, int]:
    """Return `run(seed, epochs, say)` of a training, and its usual number of epochs."""
    if given.name == "fashion-mnist":
        from lenet.data import hold_out, load
        from trainings import fashion

        samples = hold_out(load(given.name, given.data_dir), given.hold_out)
        return functools.partial(fashion.run, samples=samples), fashion.EPOCHS
    if given.name == "audio":
        from trainings import audio as module
    else:
        from trainings import shapes as module
    return module.run, module.EPOCHS


def shown(name: str, values: list[float]) -> str:
    """Return a figure as text: the mean over the seeds, and each value."""
    share = name.startswith(("accuracy", "intersection", "mean intersection", "pixel accuracy"))
    form = lambda value: f"{100 * value:.2f} %" if share else f"{value:.4g}"
    if len(values) == 1:
        return form(values[0])
    spread = statistics.stdev(values)
    return f"{form(statistics.mean(values))} (standard deviation {form(spread)}: {', '.join(map(form, values))})"


def train(given: argparse.Namespace) -> int:
    out = given.out or pathlib.Path("runs") / given.name
    if len(set(given.seeds)) < len(given.seeds):
        raise UserError(f"`--seeds` must differ, got {' '.join(map(str, given.seeds))}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"`--out` must be a new or empty folder, got {out}")
    run, usual = program(given)
    with explained(f"cannot make {out}"):
        out.mkdir(parents=True, exist_ok=True)
    from lenet.files import write_atomically
    from measure import conditions

    epochs, runs = given.epochs or usual, []
    for seed in given.seeds:
        runs.append(run(seed, epochs, lambda line: print(f"seed {seed}, {line}", flush=True)))
        figures = {name: [one.figures[name] for one in runs] for name in runs[0].figures}
        result = {
            "name": given.name,
            "conditions": conditions("float32"),
            "epochs": epochs,
            "seeds": given.seeds[: len(runs)],
        }
        with explained(f"cannot write into {out}"):
            write_atomically(out / "result.json", (json.dumps(result | {"figures": figures}, indent=1) + "\n").encode())
            if len(runs) == 1:
                write_atomically(out / "picture.png", runs[0].draw())
    print(f"\n{given.name}, {epochs} epochs, {result['conditions']}")
    for name, values in figures.items():
        print(f"  {name}: {shown(name, values)}")
    print(f"  {out / 'picture.png'}, {out / 'result.json'}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    try:
        return train(parser().parse_args(arguments))
    except UserError as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.py: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
