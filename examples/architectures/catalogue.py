"""The networks by name, and the published figures of their docstrings.

A docstring begins with `NAME. SOURCE.` and has these lines, numbers with their sources:

    Input: 1 x 224 x 224 x 3                           followed by the dtype unless it is float32
    Output: 1 x 1000                                   the first of several outputs
    Parameters: 25,557,032 (SOURCE)
    Multiply-adds: 4.089 billion (SOURCE)
    Receptive field: 483 at `path.of.layer` (SOURCE)   if one is published; 9 x 5 if the axes differ
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from convlab import models


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the catalogue.

    Attributes:
        builder: of `convlab.models`.
        small: the shape of the input with which the tests run the network; the published one if None.
        narrow: options that make the network small enough for the tests.
        options: the options to which the published figures belong.
        note: a short remark for the reader of the table.
    """

    builder: models.Builder
    small: tuple[int, ...] | None = None
    narrow: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""

    @property
    def file(self) -> str:
        return inspect.getmodule(self.builder.network).__name__.replace(".", "/") + ".py"


@dataclasses.dataclass(frozen=True)
class Published:
    """A published figure with its source; `number` is exact, or rounded as in the source."""

    number: float
    text: str
    source: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts that a docstring states."""

    title: str
    source: str
    input: jax.ShapeDtypeStruct
    output: tuple[int, ...]
    parameters: Published
    multiply_adds: Published
    field: Published | None = None
    field_sizes: tuple[int, ...] = ()
    field_path: str = ""


ENTRIES = (
    Entry(models.LeNet5),
    Entry(models.LeNet5of1998),
    Entry(models.AlexNet2012),
    Entry(models.NIN),
    Entry(models.VGG16),
    Entry(models.GoogLeNet2014, small=(2, 64, 64, 3)),
    Entry(models.ResNet18, small=(2, 64, 64, 3)),
    Entry(models.ResNet50, small=(2, 64, 64, 3)),
    Entry(models.ResNeXt50_32x4d, small=(2, 64, 64, 3)),
    Entry(models.MobileNet_V1, small=(2, 64, 64, 3)),
    Entry(models.MobileNet_V2, small=(2, 64, 64, 3)),
    Entry(models.DenseNet121, small=(2, 64, 64, 3)),
    Entry(models.ConvNeXt_Tiny, small=(2, 64, 64, 3)),
    Entry(models.UNet, small=(1, 188, 188, 1)),
    Entry(models.VGGUNet, small=(1, 64, 64, 3)),
    Entry(models.UNet3D, small=(1, 92, 92, 92, 3), narrow={"channels": (8, 16, 32, 64)}),
    Entry(models.DeepLabV3_ResNet50, small=(2, 64, 64, 3), options={"aux_loss": True}),
    Entry(models.Context),
    Entry(models.YOLO),
    Entry(models.TCN),
    Entry(models.WaveNet, small=(1, 1100, 256)),
    Entry(models.DCGAN, small=(4, 100)),
)
NETWORKS = {entry.builder.name.lower(): entry for entry in ENTRIES}  # the names of `models.get_model`

UNITS = {"": 1, "thousand": 10**3, "million": 10**6, "billion": 10**9}
FIGURE = r"(?P<text>[\d.,]+(?: (?:thousand|million|billion))?) \((?P<source>.+)\)"
SIZES = r"(?P<text>\d+(?: x \d+)*)"
INPUT = SIZES + r"(?: (?P<dtype>\w+))?"
FIELD = SIZES + r" at `(?P<path>[^`]*)` \((?P<source>.+)\)"


def facts(name: str) -> Facts:
    """Return the facts that the docstring of a network states."""
    text = inspect.cleandoc(NETWORKS[name].builder.__doc__ or "")
    title, _, source = " ".join(text.split("\n\n")[0].split()).partition(". ")
    given, output = line(name, text, "Input", INPUT), line(name, text, "Output", SIZES)
    field = line(name, text, "Receptive field", FIELD, optional=True)
    return Facts(
        title=title,
        source=source.removesuffix("."),
        input=jax.ShapeDtypeStruct(sizes(given["text"]), given["dtype"] or "float32"),
        output=sizes(output["text"]),
        parameters=published(line(name, text, "Parameters", FIGURE)),
        multiply_adds=published(line(name, text, "Multiply-adds", FIGURE)),
        field=Published(0, field["text"], field["source"]) if field else None,
        field_sizes=sizes(field["text"]) if field else (),
        field_path=field["path"] if field else "",
    )


def line(name: str, text: str, title: str, form: str, optional: bool = False) -> Any:
    """Return the match of the docstring's `title: form`, which may continue on the following lines."""
    unwrapped = re.sub(r"\n *(?=\S)(?![A-Z][\w -]*: )", " ", text)
    found = re.search(rf"^{title}: {form}$", unwrapped, re.MULTILINE)
    if not found and not (optional and f"{title}:" not in text):
        raise ValueError(
            f"`{name}` must have a line `{title}: ...` in its docstring, in the form that catalogue.py shows."
        )
    return found


def sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(" x ")))


def published(found: re.Match) -> Published:
    number, _, unit = found["text"].partition(" ")
    return Published(float(number.replace(",", "")) * UNITS[unit], found["text"], found["source"])


def build(name: str, seed: int = 0, **options: Any) -> nnx.Module:
    """Return the network with concrete parameters."""
    entry = NETWORKS[name]
    return entry.builder(**{**entry.options, **options}, rngs=nnx.Rngs(seed))


def shapes(name: str, **options: Any) -> nnx.Module:
    """Return the network with abstract arrays, in evaluation mode, to count, analyse and lower it."""
    entry = NETWORKS[name]
    model = entry.builder.abstract(**{**entry.options, **options})
    model.eval()
    return model


def count(model: nnx.Module) -> int:
    """Return the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
