#!/usr/bin/env python3
"""Measures a network under settings of glibc's allocator, each in a separate process.

    python benchmarks/memory.py [--subject inference] [--only resnet50,convnext_tiny] [--batch 8] [--markdown OUT]

A compiled program has one array for all its temporaries. glibc takes an array of more than 32 MiB from the system and
returns it after the call, so every call writes to pages that the system must supply and clear first. For each setting
the table has the minimum time of a few calls, the pages that the system supplied in a call, and the peak memory of the
process. Inference is that of a frozen network, and also that of two halves of the batch, one after the other. It runs
on Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import inference_networks
import report
import tables as markdown
from command_line import Parser, output, some_of

KEPT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
LARGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
CALLS = ((-8, 1), (-4, 0), (-1, 2**31 - 1))  # mallopt's arenas, maps, bytes that are not returned
SETTINGS: dict[str, dict[str, str]] = {
    "nothing": {},
    " ".join(f"{name}={value}" for name, value in KEPT.items()): KEPT,
    " ".join(f"{name}={value}" for name, value in LARGE.items()): LARGE,
    "`mallopt` in the program": {},
}
MALLOPT, HALVES = list(SETTINGS)[-1], "`jax.lax.map` over halves of the batch"
COLUMNS = ["network", "setting", "ms", "ratio", "pages a call", "MiB at most"]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = inference_networks.NETWORKS
    parser.add_argument("--subject", choices=["training", "inference"], default="training", help="default %(default)s")
    parser.add_argument("--only", type=some_of(names), default="resnet50,convnext_tiny", help="default %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="images, default %(default)s")
    parser.add_argument("--steps", type=int, default=5, help="calls, default %(default)s")
    parser.add_argument("--tiny", action="store_true", help="images small enough to try the command")
    parser.add_argument("--markdown", type=output, metavar="OUT", help="write the table, between the file's marks")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure the calls in this process."""
    if options.measure == MALLOPT:  # before JAX starts its threads, each of which would get an arena
        libc = ctypes.CDLL(None)
        for parameter, value in CALLS:
            libc.mallopt(parameter, value)
    import jax.numpy as jnp
    import training_jax

    model = training_jax.drawn(name)
    x = jnp.asarray(inference_networks.image(name, options.batch, options.tiny))
    if options.subject == "training":
        step: Callable[[], Any] = training_jax.Training(training_jax.in_training(model), x)
    else:
        step = frozen(model, x, halves=options.measure == HALVES)
    step()
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
    for _ in range(options.steps):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ms": 1e3 * min(times),
        "pages": (usage.ru_minflt - before) / options.steps,
        "memory": usage.ru_maxrss / 1024,
    }


def frozen(model: Any, x: Any, *, halves: bool) -> Callable[[], Any]:
    """Return a call of a frozen model."""
    import jax

    import convlab

    model.eval()
    x = x.reshape(2, -1, *x.shape[1:]) if halves else x
    run = convlab.freeze(model, jax.ShapeDtypeStruct(x.shape[1:] if halves else x.shape, x.dtype))
    call = jax.jit(lambda parts: jax.lax.map(run, parts)) if halves else run
    return lambda: jax.block_until_ready(call(x))


def rows(name: str, options: argparse.Namespace) -> list[list[str]]:
    """Return a network's rows, one for each setting."""
    found: list[list[str]] = []
    first = 0.0
    settings = SETTINGS | ({HALVES: {}} if options.subject == "inference" and options.batch % 2 == 0 else {})
    for setting, variables in settings.items():
        command = [sys.executable, __file__, "--measure", setting, "--only", name, "--batch", str(options.batch)]
        command += ["--subject", options.subject, "--steps", str(options.steps), *(["--tiny"] if options.tiny else [])]
        clean = {key: value for key, value in os.environ.items() if key not in KEPT | LARGE}
        done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
        m = json.loads(done.stdout.splitlines()[-1])
        first = first or m["ms"]
        shown = setting if setting.startswith("`") or not variables else f"`{setting}`"
        found.append(
            [name, shown, f"{m['ms']:.0f}", f"{m['ms'] / first:.2f}", f"{m['pages']:.0f}", f"{m['memory']:.0f}"]
        )
        print("  ".join(found[-1]), flush=True)
    return found


def main() -> int:
    options = parse()
    if options.measure:
        print(json.dumps(measure(options.only, options)))
        return 0
    started = report.started({})
    found = [row for name in options.only.split(",") for row in rows(name, options)]
    command = " ".join(["python benchmarks/memory.py", *sys.argv[1:]])
    if options.markdown:
        where = f"`{command}`: {started.where()}, {started.date}, jax {importlib.metadata.version('jax')}"
        markdown.write_markdown(f"{where}.\n\n{markdown.table(COLUMNS, found)}\n", options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
