"""The tuning that is in force, and the formulations that it gives an equation.

`lowering.plan_of` asks it before the tables. `Tuning.use` and the end of its `with` block enter and leave a tuning.
"""

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
_local = threading.local()  # `forced`: an equation's key and the formulation that this thread lowers it by


def enter(tuning: Tuning) -> None:
    """Put a tuning in force."""
    with _lock:
        _stack.append(tuning)


def leave(tuning: Tuning) -> None:
    """Undo the last `enter` of a tuning."""
    with _lock:
        last = max(i for i, entered in enumerate(_stack) if entered is tuning)
        del _stack[last]


def current() -> Tuning | None:
    """Return the tuning in force, which is the one entered last."""
    return _stack[-1] if _stack else None


def fingerprint() -> str | None:
    """Return the value that becomes part of the keys of `jit`'s caches."""
    tuning = current()
    return tuning.fingerprint if tuning is not None else None


@contextlib.contextmanager
def force(key: str, name: str) -> Iterator[None]:
    """Make this thread lower the equation with that key by the named formulation, inside the context."""
    previous, _local.forced = getattr(_local, "forced", None), (key, name)
    try:
        yield
    finally:
        _local.forced = previous


def applies_to(platform: str) -> bool:
    """Return whether measured choices are in force that are valid for the platform's device."""
    if getattr(_local, "forced", None):
        return True
    tuning = current()
    return tuning is not None and tuning.device["platform"] == platform and unused_reason(platform) is None


def unused_reason(platform: str) -> str | None:
    """Return why the tuning in force is not valid here; None if it is, or if there is none."""
    tuning = current()
    if tuning is None or tuning.device["platform"] != platform:
        return None
    return device.difference(tuning.device, device.here(platform))


def ranked(primitive: Any, operands: Sequence[Any], params: dict) -> list[tuple[str, str]]:
    """Return an equation's formulations in the order of their measured speed, with the reasons."""
    forced = getattr(_local, "forced", None)
    if forced is not None:
        return [(forced[1], "tried")] if forced[0] == key_of(primitive, operands, params) else []
    tuning = current()
    entry = tuning.entry(key_of(primitive, operands, params)) if tuning is not None else None
    return entry.ranked() if entry is not None else []
