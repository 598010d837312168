"""The options of layers: tuples, so that they hash, and checked before there is an image."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._window import is_int, is_sequence

Shape = tuple[int, ...]


def frozen(option: Any) -> Any:
    """An option with its sequences as tuples, so that layers with equal options hash alike."""
    return tuple(map(frozen, option)) if is_sequence(option) else option


@dataclasses.dataclass(frozen=True)
class Call:
    """A call on abstract arrays of these shapes. Options compare as they are shown: 1 is not 1.0, and lists have no hash."""

    function: Callable
    shapes: tuple[Shape | None, ...]
    options: dict[str, Any] = dataclasses.field(compare=False)
    shown: str = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "shown", repr(self.options))


@functools.lru_cache(maxsize=4096)
def validate_options(call: Call) -> None:
    """Raises what the function has to say of its options, before there is an image."""
    arrays = [None if shape is None else jax.ShapeDtypeStruct(shape, jnp.float32) for shape in call.shapes]
    jax.eval_shape(functools.partial(call.function, **call.options), *arrays)


def rehearse(calls: Sequence[Call]) -> None:
    """Of calls on several images: an error with one text for all of them is the options'. Others are left to the call."""
    errors: list[Exception] = []
    for call in calls:
        try:
            return validate_options(call)
        except (TypeError, ValueError) as error:
            errors.append(error)
    if len({str(error) for error in errors}) == 1:
        raise errors[0]


def room(options: dict[str, Any]) -> int:
    """A size of image in which every window has its place."""

    def largest(*names: str) -> int:
        return max((abs(n) for name in names for n in _ints(options.get(name))), default=1)

    reach = largest("window_shape", "kernel_size") * largest("window_dilation", "kernel_dilation")
    return reach + 2 * largest("padding") + largest("output_shape", "levels")


def _ints(option: Any) -> Iterator[int]:
    if is_sequence(option):
        for part in option:
            yield from _ints(part)
    elif is_int(option):
        yield int(option)
