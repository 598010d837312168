"""The registry of networks: each name stands for a class and the options that the name fixes."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import jax
from flax import nnx

from .. import weights as _weights

M = TypeVar("M", bound=nnx.Module)
REGISTRY: dict[str, Builder] = {}
PREFIXES = (*_weights.PREFIXES, "model.", "net.")  # no network has an attribute with these names
PUBLISHED = re.compile(r"DEFAULT|IMAGENET1K\w*|COCO\w*")


class Module(Protocol):
    """A PyTorch module."""

    def state_dict(self) -> Any: ...


class Published(Protocol):
    """An entry of torchvision's enums of weights."""

    def get_state_dict(self) -> Any: ...


Weights = str | os.PathLike | Mapping[str, Any] | Module | Published


class SameKey(nnx.RngStream):
    """A stream that always draws the same key: shapes do not depend on it, and counting draws is slow while tracing."""

    def __call__(self) -> jax.Array:
        return self.key[...]

    def fork(self, *, split: Any = None) -> nnx.RngStream:
        return nnx.RngStream(self(), tag=self.tag)


def abstract(network: Callable[..., M], **options: Any) -> M:
    """Return the network with abstract arrays, which have a shape and no values."""

    def make() -> M:
        rngs = nnx.Rngs(0)
        setattr(rngs, "default", SameKey(0, tag="default"))  # noqa: B010  a stream
        return network(**options, rngs=rngs)

    return nnx.eval_shape(make)


@dataclasses.dataclass(frozen=True, eq=False)
class Builder(Generic[M]):
    """A named network: a call with options creates the module, and `weights` fills it.

    Attributes:
        network: the class of the module.
        name: the network's name; in lower case it is the name of torchvision's builder, and that of `get_model`.
        options: the arguments of the class that the name fixes.
    """

    network: type[M]
    name: str
    options: Mapping[str, Any]

    def __call__(self, *args: Any, weights: Weights | None = None, rngs: nnx.Rngs | None = None, **options: Any) -> M:
        """Create the network.

        Args:
            args, options: arguments of the class, such as `num_classes`, except those that the name fixes.
            weights: a file of PyTorch (.pth or .pt), a .safetensors file, a state dict, a PyTorch module, or an entry
                of torchvision's enums, such as `ResNet50_Weights.DEFAULT`, which torchvision downloads; `rngs` is then
                optional.
            rngs: for the initial values, and for dropout.

        Raises:
            TypeError: `weights` of another kind.
            ValueError: neither `weights` nor `rngs`, or weights of another network.
        """
        _, *names = inspect.signature(vars(self.network)["__init__"]).parameters
        free = [name for name in names if name not in self.options]
        options = {**self.options, **dict(zip(free, args)), **options}
        if weights is None:
            if rngs is None:
                raise ValueError(f"`rngs` must be given for {self.name} without `weights`, got None.")
            return self.network(**options, rngs=rngs)  # type: ignore[call-arg]  # every network has it
        state = _weights.unwrapped(_state(weights, self.name), PREFIXES)
        options = {**getattr(self.network, "torch_options", {}), **options}
        for option, prefixes in getattr(self.network, "torch_optional", {}).items():
            options.setdefault(option, any(key.startswith(prefixes) for key in state))
            if not options[option]:
                state = {key: value for key, value in state.items() if not key.startswith(prefixes)}
        model = _weights.from_torch(state, abstract(self.network, **options))
        if rngs is not None:
            nnx.reseed(model, **{name: rngs[name]() for name in ("params", "dropout", "default")})
        return model

    def abstract(self, **options: Any) -> M:
        """Return the network with abstract arrays, for counts, analyses and `convlab.weights.from_torch`."""
        return abstract(self.network, **{**self.options, **options})

    def __repr__(self) -> str:
        return f"convlab.models.{self.name}"


def _state(weights: Any, name: str) -> Mapping[str, Any]:
    """Read the state dict that the argument `weights` of a network names."""
    if isinstance(weights, str) and PUBLISHED.fullmatch(weights.rpartition(".")[2]):
        raise ValueError(
            f"`weights` must be a file or a state dict for {name}, got {weights!r}. convlab downloads nothing: pass "
            "torchvision's enum itself, or its file."
        )
    if isinstance(weights, (str, os.PathLike)):
        return _weights.load(weights)
    for method in ("state_dict", "get_state_dict"):
        if callable(getattr(weights, method, None)):
            return getattr(weights, method)()
    if not isinstance(weights, Mapping):
        raise TypeError(f"`weights` must be a file or a state dict for {name}, got {type(weights).__name__}.")
    return weights


def named(network: type[M], name: str, doc: str = "", **options: Any) -> Builder[M]:
    """Register `network` with `options` under `name`."""
    builder = Builder(network, name, options)
    title = inspect.cleandoc(doc) if doc else f"{name}, a `{getattr(network, '__name__', name)}`. {_source(network)}"
    object.__setattr__(builder, "__doc__", title)
    REGISTRY[name.lower()] = builder
    return builder


def network(cls: type[M]) -> Builder[M]:
    """Register a class as a network under its own name; the class remains available as `network` of the builder."""
    name = cls.__name__
    cls.__qualname__ = f"{name}.network"  # the name by which pickle finds it
    return named(cls, name, cls.__doc__ or "")


def _source(network: Callable) -> str:
    return " ".join(inspect.cleandoc(network.__doc__ or "").split("\n\n")[0].split())


def get_model(name: str, *args: Any, **options: Any) -> nnx.Module:
    """Create a network by its name, as `torchvision.models.get_model` does.

    Args:
        name: one of `list_models()`, in any case.
        args, options: arguments of the network, such as `num_classes`, `weights` and `rngs`.

    Raises:
        ValueError: a name that no network has.

    Example:
        >>> get_model("squeezenet1_1", num_classes=10, rngs=nnx.Rngs(0)).num_classes
        10
    """
    if name.lower() not in REGISTRY:
        near = difflib.get_close_matches(name.lower(), list_models(), 8) or list_models()
        raise ValueError(f"`name` must be a network, one of {', '.join(near)}, got {name!r}.")
    return REGISTRY[name.lower()](*args, **options)


def list_models(*, include: str | Iterable[str] | None = None, exclude: str | Iterable[str] | None = None) -> list[str]:
    """Return the names of the networks, sorted.

    Args:
        include: patterns such as `"resnet*"`; a name must match one of them.
        exclude: patterns; a name must match none of them.

    Example:
        >>> list_models(include="vgg1*", exclude="*_bn")
        ['vgg11', 'vgg13', 'vgg16', 'vgg19']
    """
    every = lambda patterns: [patterns] if isinstance(patterns, str) else list(patterns)
    matches = lambda name, patterns: any(fnmatch.fnmatchcase(name, pattern) for pattern in every(patterns))
    names = [name for name in sorted(REGISTRY) if include is None or matches(name, include)]
    return [name for name in names if exclude is None or not matches(name, exclude)]
