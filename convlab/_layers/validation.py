"""Validation of a layer's options at construction, and their conversion to hashable values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._arguments import is_int, is_sequence

Shape = tuple[int, ...]


def frozen(option: Any) -> Any:
    """Convert sequences to tuples, so that layers with equal options hash alike."""
    return tuple(map(frozen, option)) if is_sequence(option) else option


@dataclasses.dataclass(frozen=True)
class Call:
    """A call with abstract arrays of these shapes. Options compare by `repr`: 1 differs from 1.0, and lists have no
    hash."""

    function: Callable
    shapes: tuple[Shape | None, ...]
    options: dict[str, Any] = dataclasses.field(compare=False)
    shown: str = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "shown", repr(self.options))


@functools.lru_cache(maxsize=4096)
def try_call(call: Call) -> None:
    """Trace the call, so that the function raises its errors before there is an image."""
    arrays = [None if shape is None else jax.ShapeDtypeStruct(shape, jnp.float32) for shape in call.shapes]
    jax.eval_shape(functools.partial(call.function, **call.options), *arrays)


def validate_options(calls: Sequence[Call]) -> None:
    """Trace the calls and raise their error if all raise the same text: then the error does not depend on the image."""
    errors: list[Exception] = []
    for call in calls:
        try:
            return try_call(call)
        except (TypeError, ValueError) as error:
            errors.append(error)
    if len({str(error) for error in errors}) == 1:
        raise errors[0]


def fitting_size(options: dict[str, Any]) -> int:
    """Return a spatial size into which every window of these options fits."""

    def largest(*names: str) -> int:
        return max((abs(n) for name in names for n in _ints(options.get(name))), default=1)

    effective_size = largest("window_shape", "kernel_size") * largest("window_dilation", "kernel_dilation")
    return effective_size + 2 * largest("padding") + largest("output_shape", "levels")


def _ints(option: Any) -> Iterator[int]:
    if is_sequence(option):
        for part in option:
            yield from _ints(part)
    elif is_int(option):
        yield int(option)
