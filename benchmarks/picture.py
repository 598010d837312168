"""Draws a result: a line for each case, with a dot for each contestant at its ratio, on a logarithmic axis."""

from __future__ import annotations

import pathlib

import matplotlib
from matplotlib.ticker import LogLocator, NullFormatter
from report import Result, Row, case_name

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend is chosen before)

STYLES = {
    "flax": dict(color="#b0b0b0", marker="o", label="plain JAX (Flax)"),
    "accelerate": dict(color="#5aa0d8", marker="D", label="the same under convlab.accelerate()"),
    "convlab": dict(color="#d1495b", marker="o", label="convlab"),
}
TITLES = {
    "forward": "forward",
    "gradients": "forward + gradients",
    "scan": "in lax.scan",
    "vmap": "under vmap, image by image",
    "ensemble": "under vmap, an ensemble",
    "step": "a training step",
}


def panels(result: Result, subjects: tuple[str, ...]) -> dict[str, list[Row]]:
    """Return by mode the rows that have a ratio, for a contestant and its reference."""
    grouped: dict[str, list[Row]] = {}
    for row in result.rows:
        if row["subject"] in subjects and any(result.ratio(row, name) for name in STYLES):
            grouped.setdefault(row["mode"], []).append(row)
    return grouped


def draw(result: Result, path: pathlib.Path) -> bool:
    """Draw layers, a panel for each mode, above whole training steps; return False if there is nothing to draw."""
    groups = [group for group in (panels(result, ("layers",)), panels(result, ("networks", "lenet"))) if group]
    if not groups:
        return False
    heights = [max(len({case_name(row) for row in rows}) for rows in group.values()) for group in groups]
    wide = max(len(group) for group in groups)
    size = (3.4 + 3.1 * wide, 1.6 + 0.17 * sum(heights) + 0.9 * len(groups))
    figure = plt.figure(figsize=size, layout="constrained")
    frames = figure.subfigures(len(groups), 1, height_ratios=[height + 5 for height in heights], squeeze=False)[:, 0]
    for frame, group in zip(frames, groups):
        names = list(dict.fromkeys(case_name(row) for rows in group.values() for row in rows))
        axes = frame.subplots(1, len(group), sharex=True, sharey=True, squeeze=False)[0]
        for ax, (mode, rows) in zip(axes, group.items()):
            panel(ax, result, rows, names)
            ax.set_title(TITLES.get(mode, mode), fontsize=9)
        low, high = axes[0].get_xlim()
        for ax in axes if high / low < 1000 else []:  # only powers of ten would be one or two ticks
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].set_yticks(range(len(names)), names, fontsize=6)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
    handles, labels = frames[0].axes[0].get_legend_handles_labels()
    against = "PyTorch" if "torch" in result.contestants else "plain JAX"
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8, frameon=False)
    figure.supxlabel(f"time / {against}'s time: left of 1 is faster   ({result.where()}; {result.date})", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def panel(ax, result: Result, rows: list[Row], names: list[str]) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.axvline(1, color="black", linewidth=0.8)
    ax.grid(axis="x", which="major", color="#e0e0e0", linewidth=0.6)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=7)
    for kind, style in STYLES.items():
        points = [(result.ratio(row, kind), names.index(case_name(row))) for row in rows]
        points = [(ratio, position) for ratio, position in points if ratio is not None]
        if points:
            ax.scatter(*zip(*points), s=13, zorder=3, **style)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
