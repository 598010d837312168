#!/usr/bin/env python3
"""On one NVIDIA GPU: the layer suite beside PyTorch and plain lax, training of ResNet-50 and MobileNet, LeNet to 99 %.

pip install -e '.[test]' 'jax[cuda13]' torch      or one of them elsewhere: --python torch=PATH
python benchmarks/gpu/run.py --out benchmarks/gpu/results
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

BENCHMARKS = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(BENCHMARKS))

import networks  # noqa: E402  beside this folder

TRAINER = BENCHMARKS.parent / "examples" / "mnist" / "train.py"
QUEUE = 20  # calls of a layer given to the card before it is waited for
GOAL = 0.99


def cards() -> list[str]:
    """Name, memory and driver of each card; none where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.splitlines()


def conditions(dtype: str, device: str, tf32: bool) -> dict[str, str]:
    """The environment of all contestants; see conditions.py."""
    jax = {"JAX_PLATFORMS": device, "JAX_DEFAULT_MATMUL_PRECISION": "default" if tf32 else "highest"}
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # the contestants take turns on one card
    asked = {
        "BENCHMARK_DEVICE": device,
        "BENCHMARK_DTYPE": dtype,
        "BENCHMARK_TF32": str(int(tf32)),
        "BENCHMARK_QUEUE": str(QUEUE),
    }
    return os.environ | jax | shared | asked


def measure(subject: str, out: pathlib.Path, options: list[str], environment: dict[str, str]) -> dict:
    """The rows of `benchmarks/run.py`, which it also leaves in `out`, as JSON and as tables."""
    files = ["--json", str(out.with_suffix(".json")), "--markdown", str(out.with_suffix(".md"))]
    subprocess.run([sys.executable, BENCHMARKS / "run.py", subject, *files, *options], env=environment, check=True)
    return json.loads(out.with_suffix(".json").read_text())


def images_per_second(rows: list[dict], tiny: bool) -> list[str]:
    lines = []
    for row in rows:
        batch = networks.network(row["case"], tiny).x[0]
        speeds = ", ".join(f"{name} {1e3 * batch / ms:.0f}" for name, ms in row["values"].items())
        lines.append(f"{row['case']}, batch {batch}: {speeds} images a second")
    return lines


def lenet(out: pathlib.Path, options: list[str], environment: dict[str, str]) -> str:
    """Trains the example, compiling included, until its test accuracy is GOAL."""
    metrics = out / "lenet.jsonl"
    command = [sys.executable, TRAINER, "train", "--workdir", out / "lenet", "--metrics-file", metrics, *options]
    subprocess.run(command, env=environment, check=True)
    return reached([json.loads(line) for line in metrics.read_text().splitlines()])


def reached(epochs: list[dict]) -> str:
    seconds = 0.0
    for row in epochs:
        seconds += row["seconds"]
        if row["test_accuracy"] >= GOAL:
            return f"LeNet: {GOAL:.0%} of the test images after {row['epoch']} epochs, {seconds:.1f} s of training"
    best = max((row["test_accuracy"] for row in epochs), default=0.0)
    return f"LeNet: {best:.2%} at best after {len(epochs)} epochs, {seconds:.1f} s of training"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu-results"), help="folder for the results")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="an interpreter for a contestant")
    parser.add_argument("--only", default="", help="layers whose name contains one of these texts")
    parser.add_argument("--no-tf32", dest="tf32", action="store_false", help="float32 products in full, for all contestants")
    args = parser.parse_args(argv)
    found = cards()
    if not found:
        print("run.py: there is no GPU here: nvidia-smi names none", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    common = ["--contestants", "convlab,flax,torch", *(word for pair in args.python for word in ("--python", pair))]
    summary = [f"{found[0]}; TF32 {'on' if args.tf32 else 'off'}"]
    for dtype in ("float32", "bfloat16"):
        environment = conditions(dtype, "cuda", args.tf32)
        options = [*common, "--modes", "forward,gradients", "--only", args.only]
        measure("layers", args.out / f"layers-{dtype}", options, environment)
    environment = conditions("float32", "cuda", args.tf32)
    summary += images_per_second(measure("photographs", args.out / "photographs", common, environment)["rows"], tiny=False)
    summary.append(lenet(args.out, ["--recipe", "mnist"], environment))
    (args.out / "summary.txt").write_text("\n".join(summary) + "\n")
    print("\n".join(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
