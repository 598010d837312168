"""Runs the TPU's compiler on a machine without a TPU, with the package libtpu (`pip install libtpu`)."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import os
import re
from collections.abc import Callable
from typing import Any

# Read when libtpu is loaded: no search for a TPU in the cloud, several processes at a time, a quiet log.
SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "JAX_PLATFORMS": "cpu",
}
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)

import jax  # noqa: E402  after the settings
from jax.experimental import topologies  # noqa: E402

HERE = jax.P()


def available() -> bool:
    return importlib.util.find_spec("libtpu") is not None


@functools.cache
def mesh(slice_name: str = "v5e:2x2", count: int | None = None) -> jax.sharding.Mesh:
    """Return the chips of a pod slice, or its first `count`, along one axis called "data"."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=slice_name).devices[:count]
    return jax.sharding.Mesh(devices, ("data",))


def lower(function: Callable, *shapes: Any, on: jax.sharding.Mesh | None = None, specs: Any = None) -> Any:
    """Lower `function` for a TPU: for one chip, or for the chips of `on` with arguments split by `specs`."""
    on = on or mesh(count=1)
    shardings = jax.tree.map(lambda spec: jax.NamedSharding(on, spec), HERE if specs is None else specs)
    return jax.jit(function, in_shardings=shardings).lower(*shapes)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The compiler's estimate of a program.

    It has the operations, the bytes moved to and from the chip's memory, the bytes held between instructions, the sum
    of the cycles of all instructions in the schedule (a loop's body counts once), and the tiled bytes of arguments and
    results. It also counts what the compiler has no estimate for: windows outside of a fusion, and entries that are
    gathered or scattered. Cycles, windows and entries assume that the condition of every `lax.cond` holds; bytes
    include all branches."""

    flops: float
    bytes: float
    temporary: int
    cycles: int
    operands: int = 0
    windows: int = 0
    entries: int = 0


_known: dict[str, Estimate] = {}


def estimate(function: Callable, *shapes: Any) -> Estimate:
    """Return the estimate for one chip; equal programs are compiled once."""
    lowered = lower(function, *shapes)
    text = re.sub(r"module @\S+", "module", lowered.as_text())
    if text not in _known:
        compiled = lowered.compile()
        cost, memory, schedule = compiled.cost_analysis(), compiled.memory_analysis(), _usual(compiled.as_text())
        _known[text] = Estimate(
            cost.get("flops", 0.0),
            cost.get("bytes accessed", 0.0),
            memory.temp_size_in_bytes,
            sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', schedule))),
            memory.argument_size_in_bytes + memory.output_size_in_bytes,
            _lone_windows(schedule),
            _entries(schedule),
        )
    return _known[text]


def _usual(schedule: str) -> str:
    """Return the computations that run if every condition holds, the entry last."""
    parts = {part[0]: part[1] for part in re.findall(r"^(?:ENTRY )?%(\S+) \(.*?\{\n(.*?)^\}", schedule, re.S | re.M)}
    if "conditional(" not in schedule:
        return schedule
    entry = re.search(r"^ENTRY %(\S+)", schedule, re.M)
    reached, waiting = [], [entry[1]] if entry else []
    while waiting:
        name = waiting.pop()
        reached.append(name)
        body = re.sub(r"false_computation=%[^,\s]+|branch_computations=\{%[^,\s]+,", "", parts[name])
        parts[name] = body
        waiting += [
            n for n in re.findall(r"%([\w.<>-]+)", body) if n in parts and n not in reached and n not in waiting
        ]
    return "\n".join(f"%{name}\n{parts[name]}" for name in reached[1:]) + f"\nENTRY %{reached[0]}\n{parts[reached[0]]}"


def _lone_windows(schedule: str) -> int:
    _, _, entry = schedule.partition("\nENTRY ")
    return len(re.findall(r" (?:reduce-window|select-and-scatter)\(", entry))


def _entries(schedule: str) -> int:
    """Return the number of slices that gathers read and scatters write, each at a separate index."""
    shapes = {name: list(map(int, n.split(","))) for name, n in re.findall(r"%(\S+) = \w+\[([\d,]+)\]", schedule)}
    total = 0
    for name, sizes in re.findall(r"%(\S+) = \S+ gather\(.*?slice_sizes={([\d,]+)}", schedule):
        total += math.prod(shapes[name]) // math.prod(map(int, sizes.split(",")))
    for updates, window in re.findall(r" scatter\(%\S+, %\S+, %(\S+)\), update_window_dims={([\d,]*)}", schedule):
        total += math.prod(n for axis, n in enumerate(shapes[updates]) if str(axis) not in window.split(","))
    return total
