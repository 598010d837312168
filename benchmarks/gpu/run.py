#!/usr/bin/env python3
"""Measures on one NVIDIA GPU: every call of the tests' table, forms that users report as slow, the layer suite of
convlab, plain lax and PyTorch, training steps of five networks, LeNet to 99 %, and the gain by autotune.

    pip install -e '.[test]' 'jax[cuda13]' torch      # or PyTorch in another environment: --python torch=PATH
    python benchmarks/gpu/run.py --out benchmarks/gpu/results --markdown docs/gpu.md [--minutes 4]
    python benchmarks/gpu/run.py report --out benchmarks/gpu/results --markdown docs/gpu.md

Parts are ordered by value, and each has a share of the minutes. The same command continues an interrupted run: results
in the folder are not measured again. --dry-run runs every part on the CPU, with tiny sizes.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

BENCHMARKS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "gpu")]

import page  # noqa: E402  in this folder
import report  # noqa: E402  beside this folder
import subjects  # noqa: E402
import suite  # noqa: E402
import tables  # noqa: E402
from command_line import Parser, interpreter, output, positive, some_of  # noqa: E402
from contestants import KINDS  # noqa: E402

HERE = pathlib.Path(__file__).parent
TRAINER = BENCHMARKS.parent / "examples" / "mnist" / "train.py"
QUEUE = 20  # calls of a layer that are queued on the card before a wait
LEAST = 12  # seconds that a part needs to start and give a result
DTYPES = ("bfloat16", "float32")
FIRST = (
    "depthwise",
    "dilated",
    "grouped",
    "sequence",
    "volume",
    "transposed",
    "pool",
)  # the families that are known least
TUNED = "w3 dw 32 @112,w5 dw 240,w3 g3,w3 s2 g32,w3 d2 128,w9 128-256,w2 s2 128-64,w3 s2 16-32,max pool w3 s2 64"
READY = {
    "convlab": "import jax; print(jax.devices()[0].device_kind)",
    "torch": "import os, torch; print(torch.empty(1, device=os.environ['BENCHMARK_DEVICE']).device)",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the measurement: a command's `subject`, its cases with the number of their rows, and its weight among
    the parts that share the time."""

    name: str
    subject: str
    dtype: str
    cases: dict[str, int]
    weight: int
    modes: tuple[str, ...] = ()


def parts(only: str) -> list[Part]:
    """Return the parts, the most valuable first, since a run may be ended at any time."""
    takes = lambda name: any(text in name for text in only.split(","))
    titled = lambda case: f"{case['family']} {case['name']}"
    both = ("forward", "gradients")
    found = [Part("check", "check", "float32", {only: 1}, 30)]
    cases = {titled(case): 2 * (1 + len(case["methods"])) for case in suite.cases(subjects.REPORTS)}
    chosen = {name: rows for name, rows in cases.items() if takes(name)}
    found += [Part(f"reports-{dtype}", "reports", dtype, chosen, 14, both) for dtype in DTYPES]
    families = dict.fromkeys(case["family"] for case in suite.cases())
    early = [name for name in families if any(word in name for word in FIRST)]
    for group, members in {"first": early, "rest": [name for name in families if name not in early]}.items():
        layers = [case for case in suite.cases() if case["family"] in members and takes(titled(case))]
        chosen = {titled(case): 1 if suite.is_of_integers(case) else 2 for case in layers}
        weight = 14 if group == "first" else 8
        found += [Part(f"layers-{dtype}-{group}", "layers", dtype, chosen, weight, both) for dtype in DTYPES]
    chosen = {name: 1 for name in subjects.PHOTOGRAPHS if takes(name)}
    found += [Part(f"networks-{dtype}", "photographs", dtype, chosen, 12) for dtype in DTYPES]
    found = [part for part in found if part.cases]
    return [*found, Part("lenet", "lenet", "float32", {"lenet": 1}, 8), Part("autotune", "tuned", "float32", {}, 10)]


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
    path = os.pathsep.join(filter(None, (str(BENCHMARKS.parent), os.environ.get("PYTHONPATH"))))
    asked = {
        "PYTHONPATH": path,
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


def run(command: list, environment: dict[str, str], seconds: float) -> str:
    """Run a command with a limit of seconds; return the reason if it failed, else an empty text."""
    process = subprocess.Popen([sys.executable, *map(str, command)], env=environment)
    try:
        code = process.wait(seconds)
        return f"exit code {code}" if code else ""
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # it keeps its results, and stops its contestants
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return "its time was up"


@dataclasses.dataclass
class Run:
    """The folder of the results, and the options of all commands."""

    args: argparse.Namespace
    device: str
    machine: str
    ends: float

    def environment(self, part: Part) -> dict[str, str]:
        return conditions(part.dtype, self.device, self.args.tf32, self.machine)

    def part(self, part: Part, seconds: float) -> str:
        """Measure the missing results; return the reason if some are still missing, else an empty text."""
        how = {"check": self.check, "lenet": self.lenet, "tuned": self.tuned}.get(part.subject, self.measure)
        return how(part, seconds)

    def measure(self, part: Part, seconds: float) -> str:
        """Run a subject of benchmarks/run.py; the rows are in NAME.json when complete, in NAME.part.json before."""
        whole, begun, now = (self.args.out / f"{part.name}{end}.json" for end in ("", ".part", ".now"))
        if whole.exists():
            return ""
        before = report.read(begun).rows if begun.exists() else []
        left = [case for case, rows in part.cases.items() if sum(named(row) == case for row in before) < rows]
        if left:
            options = ["--contestants", self.args.contestants, "--only", ",".join(left)]
            options += ["--budget", "0.01" if self.args.dry_run else self.args.budget]
            options += [word for pair in self.args.python for word in ("--python", "=".join(pair))]
            options += ["--modes", ",".join(part.modes)] * bool(part.modes) + ["--tiny"] * self.args.dry_run
            command = [BENCHMARKS / "run.py", part.subject, "--json", now, *options]
            why = run(command, self.environment(part), seconds)
            if now.exists():
                report.save(report.load([path for path in (begun, now) if path.exists()]), begun)
                now.unlink()
            if why:
                return why
        begun.rename(whole)
        return ""

    def check(self, part: Part, seconds: float) -> str:
        """Compute the table of calls; without --only all of it, in a dry run the first call of each function."""
        options = ["--out", self.args.out / "check.jsonl", "--only", *part.cases, "--seconds", seconds - LEAST / 3]
        options += ["--first"] * self.args.dry_run
        return run([HERE / "check.py", *options], self.environment(part), seconds)

    def lenet(self, part: Part, seconds: float) -> str:
        """Train the example, including compilation, until its test accuracy is the goal's."""
        metrics, begun = self.args.out / "lenet.jsonl", self.args.out / "lenet.part.jsonl"
        if metrics.exists():
            return ""
        shutil.rmtree(self.args.out / "lenet", ignore_errors=True)  # of an interrupted run
        begun.unlink(missing_ok=True)
        options = ["--data", "digits", "--epochs", "1"] if self.args.dry_run else ["--recipe", "mnist"]
        options += ["--data-dir", self.args.data_dir] if self.args.data_dir else []
        command = [TRAINER, "train", "--workdir", self.args.out / "lenet", "--metrics-file", begun, *options]
        why = run(command, self.environment(part), seconds)
        if not why:
            begun.rename(metrics)
        return why

    def tuned(self, part: Part, seconds: float) -> str:
        """Autotune some layers and a network; each program is measured once."""
        options = ["--budget", "0.5" if self.args.dry_run else "12", "--repeats", "3", "--rounds", "4"]
        options += ["--only", self.args.only or TUNED, "--json", self.args.out / "autotune.json"]
        return run([BENCHMARKS / "tuned.py", *options], self.environment(part), seconds)


def named(row: dict) -> str:
    """Return the name of a row's case as in `parts`."""
    return row["case"] if row["subject"] == "networks" else f"{row['family']} {row['case'].partition(' by ')[0]}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="measure", choices=("measure", "report"), help="default: measure")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu-results"), help="folder for the results")
    parser.add_argument(
        "--markdown", type=output, metavar="OUT", help="write the page's part, between the file's marks"
    )
    parser.add_argument("--minutes", type=positive, default=10, help="for the whole run, default %(default)s")
    parser.add_argument(
        "--python",
        action="append",
        type=interpreter,
        default=[],
        metavar="NAME=PATH",
        help="an interpreter for a contestant",
    )
    parser.add_argument("--only", default="", help="calls, layers and networks whose name contains one of these texts")
    parser.add_argument("--contestants", type=some_of(KINDS), default="convlab,flax,torch", help="default: %(default)s")
    parser.add_argument(
        "--budget", type=positive, default=0.15, help="seconds that a contestant spends on a layer and mode"
    )
    parser.add_argument("--data-dir", help="the folder with MNIST's files, if the machine cannot download them")
    parser.add_argument(
        "--no-tf32", dest="tf32", action="store_false", help="float32 products in full precision, for all contestants"
    )
    parser.add_argument("--dry-run", action="store_true", help="run every part on the CPU with tiny sizes")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.what == "measure":
        code = measure(args)
        if code:
            return code
    if args.markdown:
        tables.write_markdown(page.markdown(args.out), args.markdown)
    return 0


def measure(args: argparse.Namespace) -> int:
    ends = time.monotonic() + 60 * args.minutes
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
    heading = f"{found[0]}; TF32 {'on' if args.tf32 else 'off'}; {libraries()}".rstrip("; ")
    whole, said = Run(args, device, found[0], ends), parts(args.only)
    outcome = json.loads((args.out / "run.json").read_text())["parts"] if (args.out / "run.json").exists() else {}
    for place, part in enumerate(said):
        left = ends - time.monotonic()
        share = left * part.weight / sum(other.weight for other in said[place:])
        why = whole.part(part, max(LEAST, share)) if left > LEAST else "no time was left"
        outcome[part.name] = why
        print(f"{part.name}: {why or 'done'}", flush=True)
        (args.out / "run.json").write_text(json.dumps({"machine": heading, "parts": outcome}, indent=1) + "\n")
        (args.out / "summary.txt").write_text("\n".join([heading, *page.summary(args.out)]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
