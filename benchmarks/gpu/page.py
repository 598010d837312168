"""Makes the page and the summary of a GPU's results from the folder that run.py fills."""

from __future__ import annotations

import collections
import json
import pathlib
from typing import Any

import networks
import report
import tables

GOAL = 0.99
NOTHING = "Not measured yet, because no GPU was available."
TITLES = {
    "reports": "Forms that users report as slow or missing",
    "layers": "Layers",
    "networks": "A training step",
}


def reached(epochs: list[dict[str, Any]]) -> str:
    """Describe when LeNet's test accuracy reached the goal."""
    seconds = 0.0
    for row in epochs:
        seconds += row["seconds"]
        if row["test_accuracy"] >= GOAL:
            return f"LeNet: {GOAL:.0%} of the test images after {row['epoch']} epochs, {seconds:.1f} s of training"
    best = max((row["test_accuracy"] for row in epochs), default=0.0)
    return f"LeNet: {best:.2%} at best after {len(epochs)} epochs, {seconds:.1f} s of training"


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def results(out: pathlib.Path, subject: str) -> dict[str, report.Result]:
    """Return the rows of a subject by dtype, of complete and incomplete parts."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        paths = sorted(out.glob(f"{subject}-{dtype}*.json"))
        if paths:
            found[dtype] = report.load(paths)
    return found


# --- the parts ------------------------------------------------------------------------------------------------------


def checked(out: pathlib.Path) -> str:
    """Return the counts of the table of calls, and the wrong results."""
    found = lines(out / "check.jsonl")
    if not found:
        return ""
    counts: dict[tuple[str, str], list[bool]] = collections.defaultdict(list)
    for line in found:
        counts[line["dtype"], line["what"]].append(line["right"])
    rows = [[dtype, what, str(len(some)), str(sum(some))] for (dtype, what), some in counts.items()]
    wrong = [
        [f"`{line['case']}`", line["dtype"], line["what"], str(line.get("why", f"error {line.get('error')}"))]
        for line in found
        if not line["right"]
    ]
    parts = [
        "## Does everything work?\n\n"
        f"The calls of the tests' table, compared with NumPy in float64; {found[0]['device']}.",
        tables.table(["dtype", "what", "computed", "right"], rows),
    ]
    if wrong:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in wrong]
        parts.append(tables.table(["call", "dtype", "what", "why"], cells))
    return "\n\n".join(parts)


def raced(out: pathlib.Path, subject: str) -> str:
    """Return the tables of a subject in both dtypes."""
    found = results(out, subject)
    parts = [
        f"### {dtype}\n\n{tables.markdown(result)}".replace("\n### ", "\n#### ") for dtype, result in found.items()
    ]
    return "\n\n".join([f"## {TITLES[subject]}", *parts]) if found else ""


def tuned(out: pathlib.Path) -> str:
    path = out / "autotune.json"
    if not path.exists():
        return ""
    import tuned as command  # it imports JAX

    return f"## The gain by autotune\n\n{command.markdown(json.loads(path.read_text()))}"


def trained(out: pathlib.Path) -> str:
    epochs = lines(out / "lenet.jsonl")
    return f"## LeNet\n\n{reached(epochs)}." if epochs else ""


def markdown(out: pathlib.Path) -> str:
    """Return the measured part of the page."""
    path = out / "run.json"
    if not path.exists():
        return NOTHING + "\n"
    run = json.loads(path.read_text())
    missing = [f"{name} ({why})" for name, why in run["parts"].items() if why]
    parts = [f"{run['machine']}."] + ([f"Not measured, or not in full: {', '.join(missing)}."] if missing else [])
    parts += [checked(out), *(raced(out, subject) for subject in TITLES), trained(out), tuned(out)]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def summary(out: pathlib.Path) -> list[str]:
    """Return a line for each part that has results."""
    found = lines(out / "check.jsonl")
    said = [f"check: {len(found)} results, {sum(line['right'] for line in found)} right"] if found else []
    for subject in TITLES:
        for dtype, result in results(out, subject).items():
            said.append(f"{subject}, {dtype}: {len(result.rows)} rows, {result.date}")
            if subject == "networks":
                said += [images_per_second(row, "tiny" in result.machine, dtype) for row in result.rows]
            else:
                said += tables.summary(result).splitlines()
    epochs = lines(out / "lenet.jsonl")
    return said + ([reached(epochs)] if epochs else [])


def images_per_second(row: dict[str, Any], tiny: bool, dtype: str) -> str:
    batch = networks.network(row["case"], tiny).x[0]
    speeds = ", ".join(f"{name} {1e3 * batch / ms:.0f}" for name, ms in row["values"].items())
    return f"{row['case']}, {dtype}, batch {batch}: {speeds} images a second"
