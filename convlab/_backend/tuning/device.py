"""What a measured choice holds for: a kind of device, its threads, and the versions of what compiles and what
chooses."""

from __future__ import annotations

import functools
import os
import platform as machine
import sys
from typing import Any

import jax

from .. import engine

# In the order in which a difference is told; `engine` is apart: a tuning without it holds wherever it is off.
FACTS = ("platform", "device", "threads", "jaxlib", "convlab")


def canonical(platform: str) -> str:
    """The backend's name for a platform: "gpu" for every kind of it."""
    return "gpu" if platform in ("cuda", "rocm") else platform


def here(platform: str) -> dict[str, Any] | None:
    """The facts of this process's device of a platform; None where it has none."""
    kind = _kind(platform)
    if kind is None:
        return None
    return {
        "platform": platform,
        "device": kind,
        "threads": _threads() if platform == "cpu" else 1,
        "jaxlib": jax.lib.__version__,
        "convlab": sys.modules["convlab"].__version__,
        "engine": engine.serves(platform),
    }


def difference(measured: dict[str, Any], now: dict[str, Any] | None) -> str | None:
    """Why choices that were measured there do not hold here; None if they do."""
    if now is None:
        return f"there is no {measured['platform']} here"
    for fact in FACTS:
        if measured[fact] != now[fact]:
            return f"measured with {fact} {measured[fact]}, here it is {now[fact]}"
    if now["engine"] and not measured["engine"]:
        return "measured without jaxlib's engine, which is on here"
    return None


@functools.cache
def _kind(platform: str) -> str | None:
    if platform == "cpu":
        return _processor()
    try:
        return str(jax.devices(platform)[0].device_kind)
    except RuntimeError:
        return None


def _processor() -> str:
    """The processor's name, which JAX calls "cpu" whatever it is."""
    try:
        with open("/proc/cpuinfo") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, "") or machine.machine()
    except OSError:  # no Linux
        return machine.processor() or machine.machine()


def _threads() -> int:
    """As many as XLA's pool has on a CPU."""
    wish = os.environ.get("NPROC", "")
    if wish.isdigit() and int(wish):
        return int(wish)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
