"""Tables of a result, for the terminal and as Markdown."""

from __future__ import annotations

import pathlib

from contestants import INFERENCE, KINDS, WHOLE
from report import Result, Row, by_mode, case_name, mean

CASE, MODE, COLUMN = 44, 21, 12  # least widths; the longest mode is "batch 8, first result"
SLOWER = 1.05  # times plain JAX's time: slower cases are listed
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def heading(result: Result) -> str:
    return f"{'case':{CASE}} {'mode':{MODE}}" + _cells(result, _columns(result))


def _columns(result: Result) -> list[str]:
    return [*result.contestants, *(f"{short(name)}/ref" for name in rated(result))]


def _cells(result: Result, cells: list[str]) -> str:
    widths = [max(COLUMN, len(column) + 2) for column in _columns(result)]
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def short(name: str) -> str:
    kind, *where = name.split(" ")
    return "".join([kind[:4], *(f"@{python[:3]}" for python in where)])


def rated(result: Result) -> list[str]:
    return [name for name in result.contestants if name != "torch"]


def line(result: Result, row: Row) -> str:
    marks = ["!" if result.over(row, name) else "" for name in rated(result)]
    cells = [*values(result, row), *(mark + ratio for mark, ratio in zip(marks, ratios(result, row)))]
    notes = "".join(f"  [{name}: {why}]" for name, why in row["notes"].items())
    return f"{case_name(row):{CASE}} {row['mode']:{MODE}}" + _cells(result, cells) + notes


def values(result: Result, row: Row) -> list[str]:
    return [f"{row['values'][name]:.2f}" if name in row["values"] else "-" for name in result.contestants]


def ratios(result: Result, row: Row) -> list[str]:
    return ["-" if (ratio := result.ratio(row, name)) is None else f"{ratio:.2f}" for name in rated(result)]


def summary(result: Result) -> str:
    """Return means for each subject and mode, the flagged cases, and the cases that are slower than plain JAX."""
    lines = []
    for subject, rows in result.subjects().items():
        for mode, some in by_mode(rows).items():
            for name in rated(result):
                if met := mean(result, some, name):
                    lines.append(f"{subject} {mode}: {name} / {result.reference(some[0], name)} geometric mean {met}")
        if subject == "lenet":
            lines += [f"lenet {row['mode']}: {steps_per_second(row)}" for row in rows]
    for title, found in (("flagged", flagged(result)), (f"more than {SLOWER} times plain JAX", slower(result))):
        lines += [f"{title}: " + "; ".join(found)] if found else []
    return "\n".join(lines)


def steps_per_second(row: Row) -> str:
    return ", ".join(f"{name} {1e3 / ms:.0f}" for name, ms in row["values"].items()) + " steps a second"


def flagged(result: Result) -> list[str]:
    return [
        f"{case_name(row)} {row['mode']} {name} {result.ratio(row, name) or row['values'][name]:.2f}"
        for row in result.rows
        for name in rated(result)
        if result.over(row, name)
    ]


def slower(result: Result) -> list[str]:
    found = []
    for row in result.rows:
        if row["subject"] == "compile" or row["unit"] != "ms":
            continue
        for name, value in row["values"].items():
            plain = row["values"].get(" ".join(["flax", *name.split(" ")[1:]]))
            if name.startswith("convlab") and plain and value > SLOWER * plain:
                found.append(f"{case_name(row)} {row['mode']} {name} {value / plain:.2f}")
    return found


def markdown(result: Result) -> str:
    parts = [f"Measured on {result.date}: {result.where()}.", contestants(result)]
    for subject, rows in result.subjects().items():
        against = "PyTorch" if result.reference(rows[0], "convlab") == "torch" else "plain JAX"
        parts.append(f"### {subject.capitalize()}: geometric mean of the ratios to {against} (worst)")
        parts.append(
            table(["mode", "cases", *rated(result)], [mean_cells(result, *group) for group in by_mode(rows).items()])
        )
        parts.append(f"<details><summary>All {len(rows)} rows</summary>")
        parts.append(table(["case", "mode", "unit", *result.contestants], [value_cells(result, row) for row in rows]))
        parts.append("</details>")
    return "\n\n".join(parts) + "\n"


def contestants(result: Result) -> str:
    versions_of = {
        name: ", ".join(f"{k} {v}" for k, v in versions.items()) for name, versions in result.contestants.items()
    }
    what = INFERENCE | KINDS
    for subject in result.subjects():
        what |= WHOLE.get(subject, {})
    return table(
        ["contestant", "what", "versions"],
        [[name, what[name.split(" ")[0]], versions_of[name]] for name in versions_of],
    )


def mean_cells(result: Result, mode: str, rows: list[Row]) -> list[str]:
    met = [mean(result, rows, name) for name in rated(result)]
    return [mode, str(len(rows)), *(f"{m.mean:.2f} ({m.worst[0]:.1f})" if m else "-" for m in met)]


def value_cells(result: Result, row: Row) -> list[str]:
    """Return values, each with its ratio, in bold if it is flagged."""
    cells = []
    for name, value in zip(result.contestants, values(result, row)):
        ratio = result.ratio(row, name)
        text = value if ratio is None else f"{value} ({ratio:.2f})"
        cells.append(f"**{text}**" if result.over(row, name) else text)
    return [case_name(row), row["mode"], row["unit"], *cells]


def table(columns: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows))


def write_markdown(text: str, path: pathlib.Path) -> None:
    """Write between the file's marks, or the whole file if it has none."""
    old = path.read_text() if path.exists() else ""
    if BEGIN in old and END in old:
        before, after = old.split(BEGIN)[0], old.split(END)[1]
        text = f"{before}{BEGIN}\n{text}{END}{after}"
    path.write_text(text)
