"""The networks by name, and what their docstrings say of them: the one place where published figures stand.

A docstring begins with `NAME. SOURCE.` and has these lines, numbers with their sources:

    Input: 1 x 224 x 224 x 3                           perhaps with a dtype other than float32 behind it
    Output: 1 x 1000                                   of several outputs the first
    Parameters: 25,557,032 (SOURCE)
    Multiply-adds: 4.089 billion (SOURCE)
    Receptive field: 483 at `path.of.layer` (SOURCE)   where one is published; 9 x 5 where the axes differ
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the catalogue.

    Attributes:
        module, attribute: where the constructor is, called as `attribute(rngs=rngs)`.
        small: the shape of an input that the tests run the network on; its own if None.
        narrow: options of the constructor that make the network small enough for the tests to run it.
        note: what a reader of the table should know, in a few words.
    """

    module: str
    attribute: str
    small: tuple[int, ...] | None = None
    narrow: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""

    @property
    def constructor(self) -> Callable[..., nnx.Module]:
        return getattr(importlib.import_module(self.module), self.attribute)


@dataclasses.dataclass(frozen=True)
class Published:
    """A figure and where it was published; `number` is exact, or as the source rounds it."""

    number: float
    text: str
    source: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a docstring says."""

    title: str
    source: str
    input: jax.ShapeDtypeStruct
    output: tuple[int, ...]
    parameters: Published
    multiply_adds: Published
    field: Published | None = None
    field_sizes: tuple[int, ...] = ()
    field_path: str = ""


NETWORKS = {
    "lenet5": Entry("lenet5", "LeNet5"),
    "lenet5_1998": Entry("lenet5", "LeNet5of1998"),
    "alexnet": Entry("alexnet", "AlexNet"),
    "nin": Entry("nin", "NIN"),
    "vgg16": Entry("vgg", "VGG16"),
    "googlenet": Entry("googlenet", "GoogLeNet", small=(2, 64, 64, 3)),
    "resnet18": Entry("resnet", "ResNet18", small=(2, 64, 64, 3)),
    "resnet50": Entry("resnet", "ResNet50", small=(2, 64, 64, 3)),
    "resnext50": Entry("resnext", "ResNeXt50", small=(2, 64, 64, 3)),
    "mobilenet_v1": Entry("mobilenet_v1", "MobileNetV1", small=(2, 64, 64, 3)),
    "mobilenet_v2": Entry("mobilenet_v2", "MobileNetV2", small=(2, 64, 64, 3)),
    "densenet121": Entry("densenet", "DenseNet121", small=(2, 64, 64, 3)),
    "convnext_tiny": Entry("convnext", "ConvNeXtTiny", small=(2, 64, 64, 3)),
    "unet": Entry("unet", "UNet", small=(1, 188, 188, 1)),
    "vgg_unet": Entry("vgg_unet", "VGGUNet", small=(1, 64, 64, 3)),
    "unet3d": Entry("unet3d", "UNet3D", small=(1, 92, 92, 92, 3), narrow={"channels": (8, 16, 32, 64)}),
    "deeplab": Entry("deeplab", "DeepLabV3", small=(2, 64, 64, 3)),
    "context": Entry("context", "Context"),
    "yolo": Entry("yolo", "YOLO"),
    "tcn": Entry("tcn", "TCN"),
    "wavenet": Entry("wavenet", "WaveNet", small=(1, 1100, 256)),
    "dcgan": Entry("dcgan", "DCGAN", small=(4, 100)),
}

UNITS = {"": 1, "thousand": 10**3, "million": 10**6, "billion": 10**9}
FIGURE = r"(?P<text>[\d.,]+(?: (?:thousand|million|billion))?) \((?P<source>.+)\)"
SIZES = r"(?P<text>\d+(?: x \d+)*)"
INPUT = SIZES + r"(?: (?P<dtype>\w+))?"
FIELD = SIZES + r" at `(?P<path>[^`]*)` \((?P<source>.+)\)"


def facts(name: str) -> Facts:
    """What the docstring of a network says."""
    text = inspect.cleandoc(NETWORKS[name].constructor.__doc__ or "")
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
    """The match of the docstring's line `title: form`."""
    found = re.search(rf"^{title}: {form}$", text, re.MULTILINE)
    if not found and not (optional and f"{title}:" not in text):
        raise ValueError(f"`{name}` must have a line `{title}: ...` in its docstring, in the form that catalogue.py shows.")
    return found


def sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(" x ")))


def published(found: re.Match) -> Published:
    number, _, unit = found["text"].partition(" ")
    return Published(float(number.replace(",", "")) * UNITS[unit], found["text"], found["source"])


def build(name: str, seed: int = 0, **options: Any) -> nnx.Module:
    """The network, with numbers in its parameters."""
    return NETWORKS[name].constructor(**options, rngs=nnx.Rngs(seed))


def shapes(name: str, **options: Any) -> nnx.Module:
    """The network with shapes in place of numbers, in evaluation mode: enough to count, analyse and lower."""
    model = nnx.eval_shape(lambda: build(name, **options))
    model.eval()
    return model


def count(model: nnx.Module) -> int:
    """How many numbers it learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
