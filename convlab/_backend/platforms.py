"""One operation, several programs: which is lowered depends on the platform."""

from collections.abc import Callable
from typing import Any

from jax import lax


def by_platform(*operands: Any, default: Callable, **platforms: Callable) -> Any:
    """Compute by the function of the platform for which the program is lowered (`cpu`, `cuda`, `tpu`), else `default`.

    Outside of the backend no other module asks for a platform."""
    return lax.platform_dependent(*operands, default=default, **platforms)
