"""The tuning that is in force, and what it says of an equation that is being lowered."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import device
from .equation import key_of

if TYPE_CHECKING:
    from .tuning import Tuning

_lock = threading.Lock()
_stack: list[Tuning] = []
_local = threading.local()  # `forced`: the key of an equation and the formulation that this thread gives it


def enter(tuning: Tuning) -> None:
    with _lock:
        _stack.append(tuning)


def leave(tuning: Tuning) -> None:
    with _lock:
        nth = max(i for i, entered in enumerate(_stack) if entered is tuning)
        del _stack[nth]


def current() -> Tuning | None:
    """The one entered last."""
    return _stack[-1] if _stack else None


def state() -> str | None:
    """What `jit`'s caches are keyed by."""
    tuning = current()
    return tuning.fingerprint if tuning is not None else None


@contextlib.contextmanager
def forced(key: str, name: str) -> Iterator[None]:
    """This thread lowers the equation with that key by the formulation of that name."""
    previous, _local.forced = getattr(_local, "forced", None), (key, name)
    try:
        yield
    finally:
        _local.forced = previous


def serves(platform: str) -> bool:
    """Whether measured choices are in force that hold for the device of the platform."""
    if getattr(_local, "forced", None):
        return True
    tuning = current()
    return tuning is not None and tuning.device["platform"] == platform and unused_reason(platform) is None


def unused_reason(platform: str) -> str | None:
    """Why the tuning in force does not hold here, None where it does or there is none."""
    tuning = current()
    if tuning is None or tuning.device["platform"] != platform:
        return None
    return device.difference(tuning.device, device.here(platform))


def names(primitive: Any, operands: Sequence[Any], params: dict) -> list[tuple[str, str]]:
    """The formulations of an equation by measurement and the reasons, the best first."""
    forced = getattr(_local, "forced", None)
    if forced is not None:
        return [(forced[1], "tried")] if forced[0] == key_of(primitive, operands, params) else []
    tuning = current()
    entry = tuning.entry(key_of(primitive, operands, params)) if tuning is not None else None
    return entry.ranked() if entry is not None else []
