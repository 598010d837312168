"""The device that measured choices are valid for: its kind and threads, and the versions of jaxlib and convlab."""

from __future__ import annotations

import functools
import os
import platform as machine
import sys
from typing import Any

import jax

from .. import engine

# In the order in which a difference is reported. `engine` is compared separately: a tuning without the engine is valid
# wherever the engine is off.
FACTS = ("platform", "device", "threads", "jaxlib", "convlab")


def canonical(platform: str) -> str:
    """Return the backend's name for a platform: "gpu" for CUDA and ROCm."""
    return "gpu" if platform in ("cuda", "rocm") else platform


def here(platform: str) -> dict[str, Any] | None:
    """Describe this process's device of a platform; None if there is no such device."""
    kind = _kind(platform)
    if kind is None:
        return None
    return {
        "platform": platform,
        "device": kind,
        "threads": _threads() if platform == "cpu" else 1,
        "jaxlib": jax.lib.__version__,
        "convlab": sys.modules["convlab"].__version__,
        "engine": engine.supports(platform),
    }


def difference(measured: dict[str, Any], now: dict[str, Any] | None) -> str | None:
    """Return why choices measured on one device are not valid on the other; None if they are."""
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
    """Return the processor's name; JAX calls every one "cpu"."""
    try:
        with open("/proc/cpuinfo") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, "") or machine.machine()
    except OSError:  # not Linux
        return machine.processor() or machine.machine()


def _threads() -> int:
    """Return the number of threads in XLA's pool on the CPU."""
    wish = os.environ.get("NPROC", "")
    if wish.isdigit() and int(wish):
        return int(wish)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
