"""Base of the layers without parameters: a function of an image with fixed options."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax

from .._arguments import is_sequence
from .validation import Call, fitting_size, frozen, validate_options

Array = jax.Array
Body = TypeVar("Body", bound="type[Operation]")

# Options that may be arrays, which `frozen` does not convert.
ARRAY_OPTIONS = {"p", "temperature", "alpha"}


class Operation:
    """A function of an image with fixed options. The decorator `layer` defines the methods below."""

    def __post_init__(self) -> None:
        self._validate_options()
        for name in self._options().keys() - ARRAY_OPTIONS:
            object.__setattr__(self, name, frozen(getattr(self, name)))
        getattr(super(), "__post_init__", lambda: None)()

    def _options(self) -> dict[str, Any]:
        raise NotImplementedError

    def _validate_options(self) -> None:
        raise NotImplementedError

    def _apply(self, x: Array, *arrays: Any, **named: Any) -> Any:
        """Call the function with `x`, further arguments and the options."""
        raise NotImplementedError


class ImageOperation(Operation):
    """An operation that maps an image to an array."""

    def __call__(self, x: Array) -> Array:
        return self._apply(x)


class MaskedOperation(Operation):
    """An operation from an image, and perhaps its valid positions, to an array."""

    def __call__(self, x: Array, *, valid: Array | None = None) -> Array:
        return self._apply(x, valid=valid)


@dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field,))
def layer(function: Callable, validator: Callable | None = None) -> Callable[[Body], Body]:
    """Decorate a class whose fields are options of `function`: make it a dataclass that calls the function with them.

    The other parameters of `function` are arguments of the call. Validation calls `validator`, if given, instead of
    `function`, with an image as its only array.
    """

    def decorate(cls: Body) -> Body:
        body: Any = dataclasses.dataclass(eq=False, repr=False)(cls)
        names = [field.name for field in dataclasses.fields(body)]

        def options(self) -> dict[str, Any]:
            return {name: getattr(self, name) for name in names}

        def validate(self) -> None:
            _validate_on_images(validator or function, options(self))

        def apply(self, x: Array, *arrays: Any, **named: Any) -> Any:
            return function(x, *arrays, **named, **options(self))

        body._options, body._validate_options, body._apply = options, validate, apply
        body.__doc__ = _described(function, names)
        return body

    return decorate


def _described(function: Callable, fields: list[str]) -> str:
    subject = (
        "A layer" if function.__module__.startswith(__package__ or " ") else f"`convlab.{function.__name__}` as a layer"
    )
    arguments = ", ".join(f"`{name}`" for name in inspect.signature(function).parameters if name not in fields)
    summary = inspect.cleandoc(function.__doc__ or "").splitlines()[0]
    return f"{subject}, called with {arguments}. {summary}"


def _validate_on_images(function: Callable, options: dict[str, Any]) -> None:
    """Validate the options on images of two sizes, and of two ranks if the options do not fix the rank."""
    given = [
        options[name]
        for name in ("window_shape", "output_shape", "padding", "scale", "factor")
        if is_sequence(options.get(name))
    ]
    size, ranks = fitting_size(options), (len(given[0]),) * 2 if given else (1, 2)
    validate_options(
        [Call(function, ((1, *(size + more,) * rank, 1 + more),), options) for more, rank in enumerate(ranks)]
    )
