"""Reads the suite of layers: families that share a structure, each with shapes that occur in networks."""

from __future__ import annotations

import itertools
import json
import pathlib
import random
from typing import Any

SUITE = pathlib.Path(__file__).with_name("suite.json")
PLAIN = {"strides": 1, "padding": 0, "dilation": 1, "groups": 1}


def cases(path: pathlib.Path = SUITE) -> list[dict[str, Any]]:
    """Return every layer of the suite with all its numbers, one per spatial axis, and a name that contains them."""
    return [case(family, shape) for family in json.loads(path.read_text()) for shape in family["shapes"]]


def case(family: dict[str, Any], shape: dict[str, Any]) -> dict[str, Any]:
    merged = PLAIN | {key: value for key, value in family.items() if key != "shapes"} | shape
    rank, channels = len(merged["spatial"]), merged["channels"]
    merged["features"] = merged.get("features", channels)
    merged["groups"] = channels if merged["groups"] == "channels" else merged["groups"]
    for key in ("window", "strides", "dilation"):
        merged[key] = per_axis(merged[key], rank)
    merged["padding"] = [pair if isinstance(pair, list) else [pair, pair] for pair in per_axis(merged["padding"], rank)]
    return merged | {"name": name(merged)}


def tiny(case: dict[str, Any]) -> dict[str, Any]:
    """Return the layer on one image of few positions, to try a command."""
    enough = [(size - 1) * step + 2 for size, step in zip(case["window"], case["dilation"])]
    return case | {"batch": 1, "spatial": [min(n, most) for n, most in zip(case["spatial"], enough)]}


def boxes(case: dict[str, Any]) -> list[list[float]]:
    """Draw boxes of 4 positions to half of the image: the image's number, x1, y1, x2, y2."""
    rng, (height, width) = random.Random(0), case["spatial"]
    drawn = []
    for number in range(case["boxes"]):
        w, h = rng.uniform(4, width / 2), rng.uniform(4, height / 2)
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        drawn.append([float(number % case["batch"]), x, y, x + w, y + h])
    return drawn


def segments(case: dict[str, Any]) -> list[list[int]]:
    """Draw the lengths of the sequences that are packed into each row."""
    rng, (length,) = random.Random(0), case["spatial"]
    drawn = []
    for _ in range(case["batch"]):
        ends = [0, *sorted(rng.sample(range(1, length), case["call"]["segments"] - 1)), length]
        drawn.append([after - before for before, after in itertools.pairwise(ends)])
    return drawn


def is_of_integers(case: dict[str, Any]) -> bool:
    """Return whether the layer has integer operands, and therefore no gradients."""
    return "dtype" in case.get("call", {})


def per_axis(value: Any, rank: int) -> list[Any]:
    return value if isinstance(value, list) else [value] * rank


def name(case: dict[str, Any]) -> str:
    """Return a name such as `w3 s2 d4 g8 64-128 @56 b8`: window, stride, dilation, groups (dw: depthwise), channels,
    size and batch."""
    words = ["w" + short(case["window"])] if "call" not in case or case["op"] == "conv" else []
    words += [letter + short(case[key]) for letter, key in (("s", "strides"), ("d", "dilation")) if max(case[key]) > 1]
    depthwise = case["groups"] == case["channels"]
    words += [] if case["groups"] == 1 else ["dw"] if depthwise else [f"g{case['groups']}"]
    changed = case["op"].startswith("conv") and case["features"] != case["channels"]
    words += [f"{case['channels']}-{case['features']}" if changed else f"{case['channels']}"]
    for key, value in case.get("call", {}).items():  # the options of an operation without a window
        words += [short(value) if isinstance(value, list) else key if value is True else f"{value}"]
    return " ".join([*words, "@" + short(case["spatial"]), f"b{case['batch']}"])


def short(numbers: list[int]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else "x".join(map(str, numbers))
