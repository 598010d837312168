#!/usr/bin/env python3
"""Measures on one NVIDIA GPU: training of ResNet-50 and MobileNet, the layer suite of convlab, plain lax and PyTorch,
and LeNet to 99 %.

    pip install -e '.[test]' 'jax[cuda13]' torch      # or PyTorch in another environment: --python torch=PATH
    python benchmarks/gpu/run.py --out benchmarks/gpu/results

The same command continues an interrupted run: a part whose result is in the folder is not measured again.
--dry-run runs every part on the CPU, with tiny sizes.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys

BENCHMARKS = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(BENCHMARKS))

import networks  # noqa: E402  beside this folder
import subjects  # noqa: E402
import suite  # noqa: E402
from command_line import Parser, interpreter, positive, some_of  # noqa: E402
from contestants import KINDS  # noqa: E402

TRAINER = BENCHMARKS.parent / "examples" / "mnist" / "train.py"
QUEUE = 20  # calls of a layer that are queued on the card before a wait
GOAL = 0.99
DTYPES = ("float32", "bfloat16")
FIRST = (
    "depthwise",
    "dilated",
    "grouped",
    "sequence",
    "volume",
    "transposed",
    "pool",
)  # the families with the fewest known results
READY = {
    "convlab": "import jax; print(jax.devices()[0].device_kind)",
    "torch": "import os, torch; print(torch.empty(1, device=os.environ['BENCHMARK_DEVICE']).device)",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the measurement: a `subject` of benchmarks/run.py with its `options`."""

    name: str
    subject: str
    dtype: str
    options: tuple[str, ...] = ()


def parts(only: str) -> list[Part]:
    """Return the parts, the most valuable first, since a run can be interrupted at any time."""
    families = dict.fromkeys(case["family"] for case in suite.cases())
    early = [name for name in families if any(word in name for word in FIRST)]
    groups = {"first": early, "rest": [name for name in families if name not in early]}
    trained = [name for name in subjects.PHOTOGRAPHS if any(text in name for text in only.split(","))]
    found = [Part(f"networks-{dtype}", "photographs", dtype, ("--only", only)) for dtype in DTYPES if trained]
    for group, members in groups.items():
        chosen = ",".join(
            f"{c['family']} {c['name']}" for c in suite.cases() if c["family"] in members and takes(only, c)
        )
        options = ("--modes", "forward,gradients", "--only", chosen)
        found += [Part(f"layers-{dtype}-{group}", "layers", dtype, options) for dtype in DTYPES if chosen]
    return found


def takes(only: str, case: dict) -> bool:
    return any(text in f"{case['family']} {case['name']}" for text in only.split(","))


def cards() -> list[str]:
    """Return name, memory and driver of each card; nothing without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.splitlines()


def libraries() -> str:
    """Return the CUDA libraries and JAX plugins that this interpreter has."""
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    wanted = ("nvidia-cudnn", "nvidia-cublas", "jax-cuda")
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()) if name.startswith(wanted))


def conditions(dtype: str, device: str, tf32: bool, machine: str = "") -> dict[str, str]:
    """Return the environment of all contestants; see conditions.py."""
    jax = {"JAX_PLATFORMS": device, "JAX_DEFAULT_MATMUL_PRECISION": "default" if tf32 else "highest"}
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # the contestants take turns on one card
    asked = {
        "BENCHMARK_DEVICE": device,
        "BENCHMARK_DTYPE": dtype,
        "BENCHMARK_TF32": str(int(tf32)),
        "BENCHMARK_QUEUE": str(QUEUE),
        "BENCHMARK_MACHINE": f"{machine}, {dtype}, TF32 {'on' if tf32 else 'off'}" if machine else "",
    }
    return os.environ | jax | shared | asked


def unready(contestant: str, python: str, environment: dict[str, str]) -> str | None:
    """Return why the contestant cannot use the device, or None."""
    done = subprocess.run([python, "-c", READY[contestant]], env=environment, capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it died"])[-1]


def measure(subject: str, out: pathlib.Path, options: list[str], environment: dict[str, str]) -> dict:
    """Return the rows of `benchmarks/run.py`, which writes them to `out`.part.json, to `out`.json when complete, and as
    tables."""
    whole, begun = (out.with_name(out.name + suffix) for suffix in (".json", ".part.json"))
    if not whole.exists():
        files = ["--json", str(begun), "--markdown", str(out.with_name(out.name + ".md"))]
        subprocess.run([sys.executable, BENCHMARKS / "run.py", subject, *files, *options], env=environment, check=True)
        begun.rename(whole)
    return json.loads(whole.read_text())


def images_per_second(rows: list[dict], tiny: bool, dtype: str) -> list[str]:
    lines = []
    for row in rows:
        batch = networks.network(row["case"], tiny).x[0]
        speeds = ", ".join(f"{name} {1e3 * batch / ms:.0f}" for name, ms in row["values"].items())
        lines.append(f"{row['case']}, {dtype}, batch {batch}: {speeds} images a second")
    return lines


def lenet(out: pathlib.Path, options: list[str], environment: dict[str, str]) -> str:
    """Train the example, including compilation, until its test accuracy is GOAL."""
    metrics, begun = out / "lenet.jsonl", out / "lenet.part.jsonl"
    if not metrics.exists():
        shutil.rmtree(out / "lenet", ignore_errors=True)  # of an interrupted run
        begun.unlink(missing_ok=True)
        command = [sys.executable, TRAINER, "train", "--workdir", out / "lenet", "--metrics-file", begun, *options]
        subprocess.run(command, env=environment, check=True)
        begun.rename(metrics)
    return reached([json.loads(line) for line in metrics.read_text().splitlines()])


def reached(epochs: list[dict]) -> str:
    seconds = 0.0
    for row in epochs:
        seconds += row["seconds"]
        if row["test_accuracy"] >= GOAL:
            return f"LeNet: {GOAL:.0%} of the test images after {row['epoch']} epochs, {seconds:.1f} s of training"
    best = max((row["test_accuracy"] for row in epochs), default=0.0)
    return f"LeNet: {best:.2%} at best after {len(epochs)} epochs, {seconds:.1f} s of training"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu-results"), help="folder for the results")
    parser.add_argument(
        "--python",
        action="append",
        type=interpreter,
        default=[],
        metavar="NAME=PATH",
        help="an interpreter for a contestant",
    )
    parser.add_argument("--only", default="", help="layers and networks whose name contains one of these texts")
    parser.add_argument("--contestants", type=some_of(KINDS), default="convlab,flax,torch", help="default: %(default)s")
    parser.add_argument(
        "--budget", type=positive, default=0.3, help="seconds that a contestant spends on a layer and mode"
    )
    parser.add_argument("--data-dir", help="the folder with MNIST's files, if the machine cannot download them")
    parser.add_argument(
        "--no-tf32", dest="tf32", action="store_false", help="float32 products in full precision, for all contestants"
    )
    parser.add_argument("--dry-run", action="store_true", help="run every part on the CPU with tiny sizes")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device, found = ("cpu", ["the CPU, tiny sizes"]) if args.dry_run else ("cuda", cards())
    if not found:
        print("run.py: there is no GPU here: nvidia-smi names none", file=sys.stderr)
        return 2
    pythons = dict(args.python)
    for contestant in READY.keys() & set(args.contestants.split(",")):
        python = pythons.get(contestant, sys.executable)
        why = unready(contestant, python, conditions("float32", device, args.tf32))
        if why:
            print(f"run.py: {contestant} cannot use {device} with {python}: {why}", file=sys.stderr)
            if contestant == "convlab":
                return 2
    args.out.mkdir(parents=True, exist_ok=True)
    summary = [f"{found[0]}; TF32 {'on' if args.tf32 else 'off'}; {libraries()}".rstrip("; ")]
    common = ["--contestants", args.contestants, "--budget", "0.01" if args.dry_run else str(args.budget)]
    common += [word for pair in args.python for word in ("--python", "=".join(pair))] + ["--tiny"] * args.dry_run

    def say(*lines: str) -> None:
        summary.extend(lines)
        print(*lines, sep="\n", flush=True)
        (args.out / "summary.txt").write_text("\n".join(summary) + "\n")

    for part in parts(args.only):
        environment = conditions(part.dtype, device, args.tf32, found[0])
        try:
            result = measure(part.subject, args.out / part.name, [*common, *part.options], environment)
        except subprocess.CalledProcessError as error:
            say(f"{part.name}: not measured, exit code {error.returncode}")
            continue
        say(f"{part.name}: {len(result['rows'])} rows, {result['date']}, {result['contestants']}")
        if part.subject == "photographs":
            say(*images_per_second(result["rows"], args.dry_run, part.dtype))
    options = ["--data", "digits", "--epochs", "1"] if args.dry_run else ["--recipe", "mnist"]
    options += ["--data-dir", args.data_dir] if args.data_dir else []
    try:
        say(lenet(args.out, options, conditions("float32", device, args.tf32)))
    except subprocess.CalledProcessError as error:
        say(f"LeNet: not measured, exit code {error.returncode}; its message is above")
    return 0


if __name__ == "__main__":
    sys.exit(main())
