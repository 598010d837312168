"""The process of a contestant: it prepares jobs and measures them; orders and answers are lines of JSON."""

from __future__ import annotations

import importlib
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

from contestants import OF_TORCH

# job -> the modules that make its calls for JAX and for PyTorch. Their `calls(contestant, payload)` returns for each
# mode the alternative calls (PyTorch's memory formats), of which the fastest counts, and the number of units of work by
# which a call's time is divided.
MAKERS = {
    "layer": ("layers_jax", "layers_torch"),
    "network": ("networks_jax", "networks_torch"),
    "cost": ("costs_jax", None),
    "upstream": ("upstream_speed", "upstream_torch"),
    "inference": ("inference_jax", "inference_torch"),
    "training": ("training_jax", "training_torch"),
}

Calls = dict[str, tuple[list[Callable[[], Any]], int]]


def turn(call: Callable[[], Any], seconds: float) -> float:
    """Return the minimum time of a call in a turn of about `seconds`, since other load only adds time."""
    least, now = math.inf, time.perf_counter()
    end = now + seconds
    while now < end or least == math.inf:
        began = time.perf_counter()
        call()
        now = time.perf_counter()
        least = min(least, now - began)
    return least


def versions(contestant: str) -> dict[str, str]:
    import importlib.metadata as metadata

    names = ["torch"] if contestant in OF_TORCH else ["jax", "flax"]
    names += ["onnxruntime"] if contestant == "onnxruntime" else []
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


class Worker:
    def __init__(self, contestant: str):
        self.contestant = contestant
        self.calls: Calls = {}

    def hello(self) -> dict[str, str]:
        if self.contestant == "accelerate":
            import convlab

            convlab.accelerate()
        return versions(self.contestant)

    def prepare(self, job: str, payload: dict[str, Any]) -> list[str]:
        self.calls = {}
        maker = MAKERS[job][self.contestant in OF_TORCH]
        self.calls = importlib.import_module(maker).calls(self.contestant, payload)
        return list(self.calls)

    def first(self, mode: str) -> float:
        """Return the minimum seconds of a first call, including the compilation that `prepare` has not done."""
        return min(turn(call, 0) for call in self.calls[mode][0])

    def memory(self) -> float:
        """Return the peak memory of this process in MiB."""
        import resource  # Windows has none

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10)

    def turn(self, mode: str, seconds: float) -> float:
        calls, work = self.calls[mode]
        return min(turn(call, seconds) for call in calls) / work

    def tell(self, mode: str) -> Any:
        """Return the result of a call, for jobs that measure themselves."""
        return self.calls[mode][0][0]()


def main(contestant: str) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    worker = Worker(contestant)
    for line in sys.stdin:
        order, *arguments = json.loads(line)
        try:
            answer = {"ok": getattr(worker, order)(*arguments)}
        except Exception as error:  # an error is a result of the benchmark
            answer = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:160]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
