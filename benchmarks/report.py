"""The result of a run: machine, contestants and rows, kept as JSON, and the ratios in it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import pathlib
import platform
import re
import statistics
from typing import Any

import suite

Row = dict[str, Any]
# The ratio above which a mode's row is flagged; timings are against PyTorch, costs against plain JAX.
LIMITS = {"compile": 1.5, "memory": 2.0}
TIMING_LIMIT = 1.5
IMPORT_LIMIT = 50.0  # milliseconds


class Unusable(Exception):
    """The error for results from which no report can be made; its text is the reason."""


@dataclasses.dataclass
class Result:
    """The rows of a run and its conditions.

    `contestants` maps names to versions; a row has `subject, family, case, mode, unit`, `values` and `notes`."""

    contestants: dict[str, dict[str, str]]
    rows: list[Row] = dataclasses.field(default_factory=list)
    machine: str = ""
    date: str = ""
    loads: list[float] = dataclasses.field(default_factory=list)

    def where(self) -> str:
        """Return the machine and its load at the start of each run."""
        runs = "one run" if len(self.loads) == 1 else f"{len(self.loads)} runs"
        return f"{self.machine}, load {min(self.loads):.1f} to {max(self.loads):.1f} at the start of {runs}"

    def reference(self, row: Row, name: str) -> str:
        """Return the reference of a contestant: PyTorch; for costs, and without PyTorch, plain JAX of the same
        Python."""
        if row["subject"] != "compile" and "torch" in self.contestants:
            return "torch"
        return " ".join(["flax", *name.split(" ")[1:]])

    def ratio(self, row: Row, name: str) -> float | None:
        """Return the ratio, or None for the reference itself and where a value is missing."""
        values, against = row["values"], self.reference(row, name)
        return values[name] / values[against] if name != against and name in values and against in values else None

    def over(self, row: Row, name: str) -> bool:
        """Return whether the row is flagged for the contestant."""
        if row["subject"] != "compile" and row["unit"] != "ms":  # first results and memory of whole networks
            return False
        if row["mode"] == "import":
            return row["values"].get(name, 0) > IMPORT_LIMIT
        ratio = self.ratio(row, name)
        return ratio is not None and not name.startswith("flax") and ratio > LIMITS.get(row["mode"], TIMING_LIMIT)

    def subjects(self) -> dict[str, list[Row]]:
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row["subject"], []).append(row)
        return grouped


def started(contestants: dict[str, dict[str, str]]) -> Result:
    cpu = next(
        iter(re.findall(r"model name\s*: (.*)", _read("/proc/cpuinfo"))), platform.processor() or platform.machine()
    )
    machine = f"{cpu}, {os.cpu_count()} cores, {platform.system()}"
    dtype = os.environ.get("BENCHMARK_DTYPE", "float32")
    machine += f", {dtype}" if dtype != "float32" else ""
    machine = os.environ.get("BENCHMARK_MACHINE") or machine
    policy = os.environ.get("OMP_WAIT_POLICY")
    machine += f", OMP_WAIT_POLICY={policy}" if policy else ""
    return Result(contestants, [], machine, datetime.date.today().isoformat(), [os.getloadavg()[0]])


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def save(result: Result, path: pathlib.Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n")


def read(path: pathlib.Path) -> Result:
    try:
        return Result(**json.loads(path.read_text()))
    except OSError as error:
        raise Unusable(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise Unusable(f"{path} is no result of run.py --json") from error


def load(paths: list[pathlib.Path]) -> Result:
    """Load the results of several runs as one, in the suite's order; of repeated measurements the later file counts."""
    parts = list(map(read, paths))
    rows = {
        tuple(row[key] for key in ("subject", "family", "case", "mode")): row for part in parts for row in part.rows
    }
    contestants = {name: versions for part in parts for name, versions in part.contestants.items()}
    order = {(case["family"], case["name"]): position for position, case in enumerate(suite.cases())}
    ordered = sorted(rows.values(), key=lambda row: order.get((row["family"], row["case"]), len(order)))
    machine = "; ".join(dict.fromkeys(part.machine for part in parts))
    dates = sorted({part.date for part in parts})
    return Result(
        contestants,
        ordered,
        machine,
        " to ".join(dict.fromkeys((dates[0], dates[-1]))),
        sum((p.loads for p in parts), []),
    )


def case_name(row: Row) -> str:
    return f"{row['family']} {row['case']}"


@dataclasses.dataclass(frozen=True)
class Mean:
    """The geometric mean of a contestant's ratios, the worst and the best with their cases, and how many there are."""

    mean: float
    worst: tuple[float, str]
    best: tuple[float, str]
    count: int

    def __str__(self) -> str:
        ends = f"worst {self.worst[0]:.2f} ({self.worst[1]}), best {self.best[0]:.2f} ({self.best[1]})"
        return f"{self.mean:.2f} over {self.count}, {ends}"


def mean(result: Result, rows: list[Row], name: str) -> Mean | None:
    """Return the mean of a contestant's ratios, or None if there are none."""
    ratios = [(ratio, case_name(row)) for row in rows if (ratio := result.ratio(row, name)) is not None]
    if not ratios:
        return None
    return Mean(
        math.exp(statistics.fmean(math.log(ratio) for ratio, _ in ratios)), max(ratios), min(ratios), len(ratios)
    )


def by_mode(rows: list[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["mode"], []).append(row)
    return grouped
