#!/usr/bin/env python3
"""Trains a recipe with the seeds 0, 1, ... and prints the mean and standard deviation of the last test accuracies.

    python seeds.py mnist [--seeds 5] [--runs FOLDER] [OPTIONS OF train.py]

Existing runs are not trained again, so the same command continues an interrupted series.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

from train import POSITIVE, Parser, UserError

TRAIN = pathlib.Path(__file__).with_name("train.py")


def summary(runs: list[list[dict]]) -> str:
    """Return one line on the last epochs of several runs, each the rows of a metrics file."""
    last = [100 * rows[-1]["test_accuracy"] for rows in runs]
    spread = f" (standard deviation {statistics.stdev(last):.3f})" if len(last) > 1 else ""
    seconds = statistics.mean(sum(row["seconds"] for row in rows) for rows in runs)
    each = ", ".join(f"{share:.2f}" for share in last)
    return f"{statistics.mean(last):.3f} %{spread}: {each}; {len(runs[0])} epochs, {seconds:.0f} s of training each"


def finished(command: list[str]) -> int:
    """Return the exit code of a program; after Ctrl-C, which also reaches the program, wait until it has saved."""
    with subprocess.Popen(command) as program:
        while True:
            try:
                return program.wait()
            except KeyboardInterrupt:
                pass


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="seeds.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a name or a TOML file, as train.py --recipe")
    parser.add_argument("--seeds", type=POSITIVE, default=5, help="how many (default: 5)")
    parser.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs"), help="where the runs' folders are made"
    )
    try:
        given, options = parser.parse_known_args(arguments)
    except UserError as error:
        print(f"seeds.py: {error}", file=sys.stderr)
        return 2
    runs = []
    for seed in range(given.seeds):
        folder = given.runs / f"{pathlib.Path(given.recipe).stem}-seed-{seed}"
        command = [sys.executable, str(TRAIN), "train", "--recipe", given.recipe, "--seed", str(seed), "--resume"]
        code = finished([*command, "--workdir", str(folder), *options])
        if code:
            return code
        runs.append([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
    print(f"{given.recipe}: {summary(runs)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
