#!/usr/bin/env python3
"""Lists the operations of networks that take the most time on the CPU, and what bounds them: arithmetic or memory.

    python benchmarks/dearest.py [--only resnet50,mobilenet_v2] [--subject training] [--batch 8] [--markdown OUT]

An operation is one of the compiled program: a call of the engine, a product, or a loop that XLA has fused. Its time is
the minimum of a few runs under JAX's profiler. Its bytes are its operands and results, each counted once; its floating-
point operations are counted for convolutions and products. Both rates are compared with those that the machine reaches
in a product of matrices and in a sum of two arrays; the larger of the two ratios shows what bounds the operation.
`--markdown` replaces the tables of the measured networks in a page and keeps the others.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import inference_networks
import jax
import jax.numpy as jnp
import report
import tables as markdown
import training_jax
from command_line import Parser, output, some_of
from inference_jax import plain

RUNS = 3
COLUMNS = ("network", "operation", "result", "ms", "of all", "GFLOP/s (of the peak)", "GB/s (of the peak)", "bound by")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\((.*)$")
SHAPE = re.compile(r"\b(f32|bf16|f16|f64|s32|u32|s64|pred|s8|u8)\[([\d,]*)\]")
CONTAINERS = ("while", "call", "conditional")  # their bodies' operations are timed, too
BYTES = dict(f32=4, bf16=2, f16=2, f64=8, s32=4, u32=4, s64=8, pred=1, s8=1, u8=1)


class Instruction(NamedTuple):
    kind: str  # HLO's opcode
    result: str
    operands: tuple[str, ...]
    line: str


UNKNOWN = Instruction("?", "", (), "")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = inference_networks.NETWORKS
    parser.add_argument("--only", type=some_of(names), default=",".join(names), help="networks; default %(default)s")
    parser.add_argument("--subject", choices=("training", "inference"), default="training", help="default %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="images, default %(default)s")
    parser.add_argument("--top", type=int, default=10, help="operations of each network, default %(default)s")
    parser.add_argument("--tiny", action="store_true", help="images small enough to try the command")
    parser.add_argument("--markdown", type=output, metavar="OUT", help="write the tables, between the file's marks")
    return parser.parse_args(argv)


# --- the machine --------------------------------------------------------------------------------------------------


def least(call: Callable[[], Any], runs: int = 20) -> float:
    """Return the minimum seconds of a call."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return min(times)


def peaks() -> tuple[float, float]:
    """Return the FLOP/s of a product of matrices of 2048 and the bytes/s of a sum of two arrays of 24 MiB."""
    a, b = jnp.ones((2048, 2048)), jnp.ones((6, 2**20))
    product = jax.jit(lambda a: a @ a).lower(a).compile()
    total = jax.jit(jnp.add).lower(b, b).compile()
    return 2 * 2048**3 / least(lambda: product(a)), 3 * 4 * b.size / least(lambda: total(b, b))


# --- the program --------------------------------------------------------------------------------------------------


def program(name: str, options: argparse.Namespace) -> tuple[Any, Callable[[], Any]]:
    """Return the compiled program of a network and a function that runs it."""
    model = training_jax.drawn(name)
    x = jnp.asarray(inference_networks.image(name, options.batch, options.tiny))
    if options.subject == "training":
        step = training_jax.Training(training_jax.in_training(model), x)
        return step.compiled, step
    model.eval()
    call = plain(model, x)
    return call.func, lambda: jax.block_until_ready(call(x))  # type: ignore[attr-defined]


def instructions(text: str) -> dict[str, Instruction]:
    """Return the instructions of a compiled program's text by name."""
    found = {}
    for line in text.splitlines():
        match = INSTRUCTION.match(line)
        if match:
            name, result, kind, rest = match.groups()
            operands = tuple(re.findall(r"%([\w.\-]+)", rest.split("), ")[0]))
            found[name] = Instruction(kind, result, operands, line)
    return found


def sizes(shape: str) -> list[tuple[int, int]]:
    """Return the elements and the bytes of an element of each array of an HLO shape."""
    return [(math.prod(int(n) for n in dims.split(",") if n), BYTES[dtype]) for dtype, dims in SHAPE.findall(shape)]


def bytes_of(shapes: Iterable[str]) -> int:
    return sum(elements * size for shape in shapes for elements, size in sizes(shape))


def operations_of(instruction: Instruction, shapes: list[str]) -> int:
    """Return the floating-point operations of a convolution or a product of two matrices; 0 for others."""
    ((out, _),) = sizes(instruction.result)[:1] or [(0, 0)]
    inputs = [elements for shape in shapes for elements, _ in sizes(shape)]
    if "onednn$convolution" in instruction.line:
        config = json.loads(instruction.line[instruction.line.index("backend_config=") + 15 :])["onednn_conv_config"]
        taps = config["kernel"]["filter"]
        return 2 * out * math.prod(taps["shape"]) // taps["shape"][taps["output_feature_dim"]]
    is_product = "onednn$matmul" in instruction.line or "/dot_general" in instruction.line or instruction.kind == "dot"
    if is_product and out and len(inputs) >= 2:  # (m, k) times (k, n): k ** 2 is the product of the sizes, by m n
        return 2 * out * math.isqrt(inputs[0] * inputs[1] // out)
    return 0


def what(instruction: Instruction) -> str:
    """Describe an operation: the engine's call, or its source according to the program's metadata."""
    call = re.search(r'custom_call_target="__onednn\$(\w+)"', instruction.line)
    source = re.search(r'op_name="([^"]*)"', instruction.line)
    part = source[1].split("/")[-1] if source else ""
    backward = "backward " if source and "transpose(" in source[1] else ""
    if call:
        groups = re.search(r'"feature_groups":(\d+)', instruction.line)
        grouped = "depthwise or grouped " if groups and int(groups[1]) > 1 else ""
        taps = re.search(r'"shape":\[([\d,]*)\]', instruction.line)
        return f"{backward}engine: {grouped}{call[1]}" + (f", kernel {taps[1].replace(',', 'x')}" if taps else "")
    return f"{backward}{part or instruction.kind}"


# --- measuring ----------------------------------------------------------------------------------------------------


def profiled(run: Callable[[], Any]) -> dict[str, float]:
    """Return the minimum milliseconds of each operation in a few runs."""
    run()
    times: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(RUNS):
        once: dict[str, float] = collections.Counter()
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                run()
            (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
            data = jax.profiler.ProfileData.from_file(str(path))
        for event in (event for plane in data.planes for line in plane.lines for event in line.events):
            name = dict(event.stats).get("hlo_op")
            if name is not None:
                once[str(name).split("__onednn")[0]] += event.duration_ns / 1e6
        for name, milliseconds in once.items():
            times[name].append(milliseconds)
    return {name: min(several) for name, several in times.items()}


def rates_of(operation: str, known: dict[str, Instruction]) -> tuple[int, int]:
    """Return the floating-point operations and the bytes of an operation."""
    instruction = known.get(operation, UNKNOWN)
    shapes = [known[operand].result for operand in instruction.operands if operand in known]
    return operations_of(instruction, shapes), bytes_of([instruction.result, *shapes])


def bounds(times: dict[str, float], known: dict[str, Instruction], flops: float, bandwidth: float) -> str:
    """Return a sentence that says what bounds a network: the part of its convolutions and products and that of the
    other operations, with the rates that each reaches."""
    whole, spent, work = sum(times.values()), [0.0, 0.0], [0, 0]
    for operation, milliseconds in times.items():
        rates = rates_of(operation, known)
        kind = 0 if rates[0] else 1
        spent[kind] += milliseconds
        work[kind] += rates[kind]
    peaks = (("GFLOP/s", 1e9, flops), ("GB/s", 1e9, bandwidth))
    parts = []
    for milliseconds, done, (unit, scale, peak) in zip(spent, work, peaks):
        rate = done / milliseconds * 1e3 if milliseconds else 0.0
        parts.append(
            f"{milliseconds / whole:.2f} of the time at {rate / scale:.0f} {unit} ({rate / peak:.2f} of the peak)"
        )
    first = "arithmetic" if spent[0] >= spent[1] else "memory"
    return (
        f"Bound by {first}: convolutions and products take {parts[0]}, all other operations {parts[1]}; "
        f"{len(times)} operations."
    )


def dearest(name: str, options: argparse.Namespace, flops: float, bandwidth: float) -> tuple[list[tuple], str]:
    """Return the rows of the operations of a network that take the most time, and what bounds the whole."""
    compiled, run = program(name, options)
    known = instructions(compiled.as_text())
    containers = {name for name, instruction in known.items() if instruction.kind in CONTAINERS}
    times = {name: spent for name, spent in profiled(run).items() if name not in containers}
    whole, rows = sum(times.values()), []
    for operation, milliseconds in sorted(times.items(), key=lambda item: -item[1])[: options.top]:
        instruction, rates = known.get(operation, UNKNOWN._replace(line=operation)), rates_of(operation, known)
        shares = [rate / milliseconds * 1e3 / peak for rate, peak in zip(rates, (flops, bandwidth))]
        cells = [f"{rate / milliseconds / 1e6:.0f} ({share:.2f})" for rate, share in zip(rates, shares)]
        bound = "arithmetic" if shares[0] > shares[1] else "memory"
        bound = bound if max(shares) > 0.5 else f"neither ({bound} nearer)"
        shape = re.sub(r"\{[^}]*\}", "", instruction.result)
        part = f"{milliseconds / whole:.2f}"
        rows.append((name, what(instruction), shape, f"{milliseconds:.2f}", part, *cells, bound))
    return rows, bounds(times, known, flops, bandwidth)


def merge(old: str, sections: dict[str, str]) -> str:
    """Return the page's sections with those of the measured networks replaced, in the order of the networks."""
    known = dict(re.findall(r"^### (\S+)\n(.*?)(?=^### |^<!--|\Z)", old, re.DOTALL | re.MULTILINE)) | sections
    order = [name for name in inference_networks.NETWORKS if name in known]
    return "\n".join(f"### {name}\n\n{known[name].strip()}\n" for name in order)


def main() -> int:
    options = parse()
    started, (flops, bandwidth) = report.started({}), peaks()
    where = f"{started.where()}, peaks {flops / 1e9:.0f} GFLOP/s and {bandwidth / 1e9:.0f} GB/s, "
    where += f"{started.date}, jax {jax.__version__}"
    command = " ".join(["python benchmarks/dearest.py", *sys.argv[1:]])
    sections = {}
    for name in options.only.split(","):
        rows, sentence = dearest(name, options, flops, bandwidth)
        print("\n".join("  ".join(row) for row in rows), sentence, sep="\n", flush=True)
        sections[name] = (
            f"`{command}`: {where}.\n\n{sentence}\n\n{markdown.table([*COLUMNS], [[*row] for row in rows])}\n"
        )
        jax.clear_caches()
    print(where)
    if options.markdown:
        old = options.markdown.read_text() if options.markdown.exists() else ""
        markdown.write_markdown(merge(old, sections), options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
