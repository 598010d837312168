"""Tests random convolutions, in every transform and by every formulation, in a process that may crash.

    python tests/fuzz.py --count 1000 --seed 0          # convolutions in transforms
    python tests/fuzz.py --what formulations --minutes 5

A worker computes one problem after another and prints before each which one it is. If it crashes, or does nothing for a
minute, that problem is a fault, and the next worker continues after it. Values are compared with NumPy's in float64,
relative to the sums of magnitudes. oneDNN prints which program it runs; its fallbacks count as faults too, because they
have hung. Every fault is a line with its seed, and `--seed S --count 1` repeats it; the exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import traceback

IDLE = 60  # seconds without a sign of life
SLOW = 30  # seconds of processor time for a problem
LAST_RESORT = re.compile(r"^onednn_verbose,.*,exec,cpu,convolution,((?:x64:)?gemm:[^,]*|ref[^,]*),")


# --- the worker ---------------------------------------------------------------------------------------------------


def work(what: str, seeds) -> None:
    import fuzz_calls  # imports JAX, which the parent does not need
    import fuzz_pools
    import jax

    drawn = {"transforms": fuzz_calls.transform, "formulations": fuzz_calls.formulation, "pools": fuzz_pools.pool}[what]

    for number, seed in enumerate(seeds):
        say = lambda **facts: print(json.dumps({"seed": seed} | facts), flush=True)
        began = time.process_time()
        try:
            call = drawn(seed)
            say(begins=call.text)
            fault = call.fault()
        except Exception:
            fault = " ".join(traceback.format_exc().split()[-60:])
        seconds = time.process_time() - began
        say(ends=fault or (f"{seconds:.0f} s to compile and run" if seconds > SLOW else None))
        if number % 50 == 49:
            jax.clear_caches()


# --- the parent ---------------------------------------------------------------------------------------------------


def _ticks(pid: int) -> tuple[str, int]:
    """Return the state of a process and its processor time, if the system reports them."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return fields[0], int(fields[11]) + int(fields[12])
    except (OSError, IndexError):
        return "?", time.monotonic_ns()


def _read(lines: list[str]) -> list[dict]:
    """Return the worker's messages, each with the lines of oneDNN about its problem."""
    said: list[dict] = []
    for line in lines:
        if line.startswith("{") and line.endswith("\n"):
            said.append(json.loads(line))
        elif said and (program := LAST_RESORT.match(line)):
            said.append({"seed": said[-1]["seed"], "resort": program[1]})
    return said


def run(what: str, seeds: range, until: float):
    """Return the lines and the return code of one worker; the code is None if it hung, and 0 if its time was over."""
    command = [
        sys.executable,
        __file__,
        "--worker",
        "--what",
        what,
        "--seed",
        str(seeds.start),
        "--count",
        str(len(seeds)),
    ]
    told = {**os.environ, "ONEDNN_VERBOSE": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=told) as process:
        lines, errors = [], []
        readers = [
            threading.Thread(target=lambda pipe=pipe, to=to: to.extend(pipe), daemon=True)
            for pipe, to in ((process.stdout, lines), (process.stderr, errors))
        ]
        for reader in readers:
            reader.start()
        progress, since = None, time.monotonic()
        while process.poll() is None:
            time.sleep(0.2)
            state, ticks = _ticks(process.pid)
            signs = len(lines), ticks // 5
            if signs != progress or state == "T":
                progress, since = signs, time.monotonic()
            if (hung := time.monotonic() - since > IDLE) or time.monotonic() > until:
                process.kill()
                process.wait()
                return _read(lines), None if hung else 0, ""
        for reader in readers:
            reader.join()
    return _read(lines), process.returncode, "".join(errors[-3:]).strip()


def search(what: str, seeds: range, minutes: float) -> tuple[int, list[str]]:
    """Return the number of finished problems and the faults, which are also printed."""
    until, ended, faults = time.monotonic() + 60 * minutes, 0, []
    while seeds and time.monotonic() < until:
        lines, code, error = run(what, seeds, until)
        texts = {line["seed"]: line["begins"] for line in lines if "begins" in line}
        ends = {line["seed"]: line["ends"] for line in lines if "ends" in line}
        found = {line["seed"]: f"the engine ran {line['resort']}" for line in lines if "resort" in line}
        found |= {seed: end for seed, end in ends.items() if end}
        if code != 0:
            last = lines[-1]["seed"] if lines else seeds.start
            found[last] = "the process hung" if code is None else f"the process ended with {code}: {error}"
            seeds = range(last + 1, seeds.stop)
        for seed, fault in found.items():
            faults.append(f"{seed}: {texts.get(seed, '')}: {fault}")
            print(faults[-1], flush=True)
        ended += len(ends)
        if code == 0:
            break
    return ended, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--what", choices=("transforms", "formulations", "pools"), default="transforms")
    parser.add_argument("--seed", type=int, default=0, help="of the first problem")
    parser.add_argument("--count", type=int, default=200, help="problems, one a seed")
    parser.add_argument("--minutes", type=float, default=60, help="no problem begins later")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.count)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if options.worker:
        work(options.what, seeds)
        return 0
    ended, faults = search(options.what, seeds, options.minutes)
    print(f"{ended} problems, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
