"""The subjects that can be measured; each is a generator of rows."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import inference_networks
import suite
from contestants import HERE, OF_TORCH, ROUNDS, Failed, Group, compete, compete_in, prepared
from report import Unusable

Row = dict[str, Any]
LAYER_MODES = ("forward", "gradients", "scan", "vmap", "ensemble")
STEP_MODES = ("step", "scan")
INFERENCE_MODES = tuple(f"batch {batch}" for batch in inference_networks.BATCHES)
MODES = tuple(dict.fromkeys((*LAYER_MODES, *STEP_MODES, *INFERENCE_MODES)))
NETWORKS = ("mobilenet", "mobilenet without norm", "resnet", "resnet without norm", "unet3d", "wavenet")
PHOTOGRAPHS = ("resnet50", "mobilenet v1", "unet3d", "wavenet", "lenet")
STEPS = {"lenet": 8}
REPORTS = HERE / "gpu" / "reports.json"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The cases and modes to measure.

    `only` and `modes` are comma separated, empty for all; `budget` is in seconds; `tiny` shrinks the networks."""

    only: str
    modes: str
    budget: float
    tiny: bool

    def takes(self, name: str) -> bool:
        return any(text in name for text in self.only.split(","))

    def modes_among(self, modes: tuple[str, ...]) -> list[str]:
        return [mode for mode in modes if not self.modes or mode in self.modes.split(",")]


def layers(contestants: Group, choice: Choice) -> Iterator[Row]:
    for case in suite.cases():
        if choice.takes(f"{case['family']} {case['name']}"):
            names = {"subject": "layers", "family": case["family"], "case": case["name"], "unit": "ms"}
            modes = ("forward",) if suite.is_of_integers(case) else LAYER_MODES
            yield from timed(contestants, "layer", case, choice.modes_among(modes), choice.budget, names)


def reports(contestants: Group, choice: Choice) -> Iterator[Row]:
    """Measure layers that users report as slow or missing on a GPU, convlab's also by other methods."""
    for case in suite.cases(REPORTS):
        if choice.takes(f"{case['family']} {case['name']}"):
            for method in (None, *case["methods"]):
                names = {"subject": "reports", "family": case["family"], "unit": "ms"}
                names["case"] = case["name"] + (f" by {method}" if method else "")
                payload = (suite.tiny(case) if choice.tiny else case) | ({"method": method} if method else {})
                chosen = {n: c for n, c in contestants.items() if not method or c.kind == "convlab"}
                modes = choice.modes_among(("forward", "gradients"))
                yield from timed(chosen, "layer", payload, modes, choice.budget, names)


def networks(contestants: Group, choice: Choice) -> Iterator[Row]:
    for name in NETWORKS:
        if choice.takes(name):
            yield from stepped(contestants, choice, name, "networks", ("step",))


def photographs(contestants: Group, choice: Choice) -> Iterator[Row]:
    """Time training steps for accelerators: photographs of ImageNet's full size, volumes, sequences, digits."""
    for name in PHOTOGRAPHS:
        if choice.takes(name):
            yield from stepped(contestants, choice, name, "networks", ("step",))


def lenet(contestants: Group, choice: Choice) -> Iterator[Row]:
    yield from stepped(contestants, choice, "lenet", "lenet", STEP_MODES)


def stepped(contestants: Group, choice: Choice, name: str, subject: str, modes: tuple[str, ...]) -> Iterator[Row]:
    payload = {"network": name, "tiny": choice.tiny, "steps": STEPS.get(name, 2)}
    names = {"subject": subject, "family": "training", "case": name, "unit": "ms"}
    yield from timed(contestants, "network", payload, choice.modes_among(modes), choice.budget, names)


def timed(contestants: Group, job: str, payload: Any, modes: list[str], budget: float, names: Row) -> Iterator[Row]:
    takers, notes = prepared(contestants, job, payload)
    for row in compete(takers, modes, budget):
        yield {**names, **row, "notes": notes | row["notes"]}


def costs(contestants: Group, choice: Choice) -> Iterator[Row]:
    """Measure compile times in turns; the contestants measure memory and the import of convlab themselves."""
    jax = {name: contestant for name, contestant in contestants.items() if contestant.kind != "torch"}
    for case in suite.cases():
        if choice.takes(f"{case['family']} {case['name']}"):
            names = {"subject": "compile", "family": case["family"], "case": case["name"]}
            yield from timed(jax, "cost", case, ["compile"], choice.budget, {**names, "unit": "ms"})
            yield self_measured(jax, case, "memory", {**names, "unit": "MiB"})
    own = {name: contestant for name, contestant in jax.items() if contestant.kind == "convlab"}
    yield self_measured(
        own, None, "import", {"subject": "compile", "family": "import", "case": "convlab", "unit": "ms"}, 2 * ROUNDS
    )


def self_measured(contestants: Group, payload: Any, mode: str, names: Row, times: int = 1) -> Row:
    """Return values that the contestants measured themselves, the minimum of several answers."""
    takers, notes = prepared(contestants, "cost", payload)
    values = {}
    for name, contestant in takers.items():
        try:
            values[name] = min(contestant.ask("tell", mode) for _ in range(times))
        except Failed as why:
            notes[name] = str(why)
    return {**names, "mode": mode, "values": values, "notes": notes}


def inference(contestants: Group, choice: Choice) -> Iterator[Row]:
    """Measure whole networks in evaluation mode, and compare their results."""
    yield from whole(contestants, choice, "inference", inference_networks.NETWORKS | inference_networks.FAMILIES, 1e-4)


def training(contestants: Group, choice: Choice) -> Iterator[Row]:
    """Measure a training step of whole networks: statistics of the batch, all gradients, plain gradient descent.

    Also compare the losses over two steps: PyTorch's for ResNet-50 differ by 1.6e-3 between its memory formats."""
    yield from whole(contestants, choice, "training", inference_networks.NETWORKS, 3e-3)


def whole(contestants: Group, choice: Choice, subject: str, networks: Iterable[str], tolerance: float) -> Iterator[Row]:
    """Measure whole networks; all contestants load PyTorch's random weights."""
    torch = next((c.python for c in contestants.values() if c.kind in OF_TORCH), None)
    for network in networks:
        if not choice.takes(network):
            continue
        if torch is None:
            raise Unusable(f"`{subject}` needs PyTorch, which draws the weights: --python torch=PATH")
        with tempfile.TemporaryDirectory() as folder:
            weights = str(pathlib.Path(folder) / "weights.pt")
            made = subprocess.run([torch, str(HERE / "inference_torch.py"), network, weights])
            if made.returncode:
                raise Unusable(f"PyTorch cannot make {network}: it needs torchvision and pillow beside it")
            for batch in inference_networks.batches(network):
                if f"batch {batch}" in choice.modes_among(INFERENCE_MODES):
                    payload = {"network": network, "batches": [batch], "tiny": choice.tiny, "weights": weights}
                    yield from _whole(contestants, subject, payload, choice.budget, tolerance)


def _whole(contestants: Group, subject: str, payload: Row, budget: float, tolerance: float) -> Iterator[Row]:
    """Yield the times, the seconds from the weights to the first result, and the peak memory of a new process."""
    (batch,) = payload["batches"]
    mode, names = f"batch {batch}", {"subject": subject, "family": subject, "case": payload["network"]}
    takers, ready, notes = _ready(contestants, subject, payload, mode)
    row = compete_in(takers, mode, budget)
    notes |= row["notes"] | _apart(takers, _numbers(takers, f"numbers {batch}"), tolerance)
    yield {**names, "unit": "ms", **row, "notes": notes}
    yield {**names, "unit": "s", "mode": f"{mode}, first result", "values": ready, "notes": {}}
    memory = {name: takers[name].ask("memory") for name in row["values"]}
    yield {**names, "unit": "MiB", "mode": f"{mode}, memory", "values": memory, "notes": {}}


def _ready(contestants: Group, job: str, payload: Row, mode: str) -> tuple[Group, dict[str, float], dict[str, str]]:
    """Return the contestants that computed a first result, each in a new process, the seconds that it took without the
    imports, and the reasons of the others."""
    takers, seconds, notes = {}, {}, {}
    for name, contestant in contestants.items():
        try:
            contestant.restart()
            began = time.perf_counter()
            contestant.prepare(job, payload)
            seconds[name] = time.perf_counter() - began + contestant.ask("first", mode)
            takers[name] = contestant
        except Failed as why:
            notes[name] = str(why)
    return takers, seconds, notes


def _numbers(contestants: Group, mode: str) -> dict[str, list[float]]:
    numbers = {}
    for name, contestant in contestants.items():
        with contextlib.suppress(Failed):
            numbers[name] = contestant.ask("tell", mode)
    return numbers


def _apart(contestants: Group, numbers: dict[str, list[float]], tolerance: float) -> dict[str, str]:
    """Return the contestants whose results differ from PyTorch's by more than `tolerance` times the largest number,
    with the difference."""
    expected = next((numbers[name] for name in numbers if contestants[name].kind in OF_TORCH), None)
    if expected is None:
        return {}
    largest = max(map(abs, expected))
    errors = {name: max(abs(a - b) for a, b in zip(got, expected)) / largest for name, got in numbers.items()}
    return {name: f"results differ by {error:.1e}" for name, error in errors.items() if not error <= tolerance}


SUBJECTS: dict[str, Callable[[Group, Choice], Iterator[Row]]] = {
    "layers": layers,
    "networks": networks,
    "lenet": lenet,
    "compile": costs,
}
APART = {
    "photographs": photographs,
    "reports": reports,
    "inference": inference,
    "training": training,
}  # not among "all"
