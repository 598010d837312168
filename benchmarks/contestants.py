"""The contestants, each in a separate process, and the order of their turns."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import select
import subprocess
import sys
from typing import Any

HERE = pathlib.Path(__file__).parent
KINDS = {
    "convlab": "convlab's layers",
    "flax": "Flax's layers, plain JAX",
    "accelerate": "Flax's layers under convlab.accelerate()",
    "torch": "PyTorch's layers, the better of its memory formats",
}
# Whole networks, evaluation mode.
INFERENCE = {
    "convlab": "convlab's networks, jitted",
    "frozen": "the same through `convlab.freeze`",
    "flax": "the same operations as plain JAX computes them",
    "torch": "PyTorch, the better of its memory formats",
    "inductor": "`torch.compile` with freezing, the better of its memory formats",
    "onnxruntime": "ONNX Runtime on what PyTorch exports",
}
# Whole networks, a step of training.
TRAINING = {
    "convlab": "convlab's networks, jitted",
    "flax": "the same operations as Flax and plain JAX compute them",
    "torch": "PyTorch, the better of its memory formats",
    "inductor": "`torch.compile`, the better of its memory formats",
}
WHOLE = {"inference": INFERENCE, "training": TRAINING}  # the contestants of each subject
OF_TORCH = ("torch", "inductor", "onnxruntime")
ROUNDS = 3


class Failed(Exception):
    """The error of a contestant that cannot do a job; its text is the reason."""


@dataclasses.dataclass
class Contestant:
    """A contestant of one of the KINDS, under the `name` that the tables print."""

    name: str
    kind: str
    python: str
    patience: float
    process: subprocess.Popen | None = None
    job: tuple[str, Any] | None = None

    def prepare(self, job: str, payload: Any) -> list[str]:
        self.job = job, payload
        return self.ask("prepare", job, payload)

    def ask(self, order: str, *arguments: Any) -> Any:
        if self.process is None:
            self._start()
            if self.job and order != "prepare":
                self.ask("prepare", *self.job)
        try:
            print(json.dumps([order, *arguments]), file=self.process.stdin, flush=True)
            ready, _, _ = select.select([self.process.stdout], [], [], self.patience)
            line = self.process.stdout.readline() if ready else None
        except BrokenPipeError:
            line = ""
        if not line:
            self.stop()
            raise Failed(f"no answer in {self.patience:.0f} s" if line is None else "its process died")
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer["ok"]

    def _start(self) -> None:
        path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
        threads = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}
        try:
            self.process = subprocess.Popen(
                [self.python, str(HERE / "worker.py"), self.kind],
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**threads, "JAX_PLATFORMS": "cpu", **os.environ, "PYTHONPATH": path},
            )
        except OSError as why:
            raise Failed(str(why)) from why
        self.ask("hello")

    def restart(self) -> None:
        """Begin a new process, without a job."""
        self.stop()
        self.job = None
        self.ask("hello")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


Group = dict[str, Contestant]


def gather(kinds: list[str], pythons: dict[str, str], patience: float) -> Group:
    """Return the available contestants: those whose interpreter has the packages that they need.

    `pythons` maps a contestant to its interpreter; any other name adds the JAX contestants once more, under that
    interpreter.
    """
    wanted = [Contestant(kind, kind, _python(kind, pythons), patience) for kind in kinds]
    for name, python in pythons.items():
        if name not in KINDS | INFERENCE:
            wanted += [Contestant(f"{kind} {name}", kind, python, patience) for kind in kinds if kind not in OF_TORCH]
    present = {}
    for contestant in wanted:
        try:
            contestant.ask("hello")
            present[contestant.name] = contestant
        except Failed as why:
            print(f"{contestant.name} is left out: {why}", file=sys.stderr)
    return present


def _python(kind: str, pythons: dict[str, str]) -> str:
    """Return the contestant's interpreter; all that need PyTorch share PyTorch's."""
    return pythons.get(kind) or (pythons.get("torch") if kind in OF_TORCH else None) or sys.executable


def compete(contestants: Group, modes: list[str], budget: float) -> list[dict[str, Any]]:
    """Return milliseconds for every mode, the minimum of all turns; a contestant whose single call exceeds the budget
    has one turn."""
    return [compete_in(contestants, mode, budget) for mode in modes]


def compete_in(contestants: Group, mode: str, budget: float) -> dict[str, Any]:
    best: dict[str, float] = {}
    notes: dict[str, str] = {}
    for round_ in range(ROUNDS):
        for name, contestant in contestants.items():
            if name in notes or round_ and best[name] > budget:
                continue
            try:
                if round_ == 0:
                    contestant.ask("first", mode)
                took = contestant.ask("turn", mode, budget / ROUNDS)
                best[name] = min(took, best.get(name, took))
            except Failed as why:
                notes[name] = str(why)
                best.pop(name, None)
    return {"mode": mode, "values": {name: seconds * 1e3 for name, seconds in best.items()}, "notes": notes}


def prepared(contestants: Group, job: str, payload: Any) -> tuple[Group, dict[str, str]]:
    """Return the contestants that accept the job, and the reasons of the others."""
    takers: Group = {}
    notes: dict[str, str] = {}
    for name, contestant in contestants.items():
        try:
            contestant.prepare(job, payload)
            takers[name] = contestant
        except Failed as why:
            notes[name] = str(why)
    return takers, notes
