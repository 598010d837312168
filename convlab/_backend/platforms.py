"""Choose between functions by the platform that a program is lowered for, for public functions without a primitive."""

from collections.abc import Callable
from typing import Any

from jax import lax


def by_platform(*operands: Any, default: Callable, **platforms: Callable) -> Any:
    """Compute by the function of the platform that the program is lowered for, else by `default`."""
    return lax.platform_dependent(*operands, default=default, **platforms)
