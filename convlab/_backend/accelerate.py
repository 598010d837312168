"""`accelerate()`: convlab's formulations for programs that do not call convlab.

It binds nothing. While it is active, the rules of `lowering` treat an equation without a mark like a marked one, if the
program is lowered for the CPU or for a device whose tuning is in force.
"""

from __future__ import annotations

import threading

from .._arguments import argument_error
from . import compat
from . import engine as _engine

_lock = threading.Lock()
_active = 0


def is_active() -> bool:
    """Return whether equations without a mark are lowered as if they were marked."""
    return _active > 0


class accelerate:
    """Give convlab's speed on the CPU to every convolution and pool of any JAX program: Flax, Equinox, Keras, plain
    lax.

    A call accelerates all programs that are compiled after it; a `with` block accelerates those that are compiled
    inside it. It changes only how `lax.conv_general_dilated`, `lax.reduce_window` (sum, max, min) and their derivatives
    are lowered for the CPU. Results are equal up to rounding. Programs for GPU and TPU stay the same to the byte unless
    a tuning for the device is in force (`autotune`). Programs that are already compiled, and programs of other threads,
    do not change. If this version of JAX lacks an interface that it needs, it warns once and changes nothing.

    Args:
        engine: False leaves jaxlib's own engine out of every program, those of convlab's functions included. Such
            programs can be kept in JAX's persistent compilation cache, and their convolutions are slower.

    Returns:
        A context manager, which need not be entered.

    Raises:
        TypeError: `engine` is not a bool.

    Example:
        >>> from jax import lax
        >>> x, k = jnp.ones((1, 8, 8, 64)), jnp.ones((3, 3, 1, 64))
        >>> with accelerate():
        ...     y = lax.conv_general_dilated(
        ...         x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=64)
        >>> y.shape
        (1, 8, 8, 64)

    Changes the lowering of `lax.conv_general_dilated`, `lax.reduce_window` and their derivatives; see also `explain`,
    `autotune`.
    """

    def __init__(self, *, engine: bool = True) -> None:
        global _active
        if not isinstance(engine, bool):
            raise argument_error("engine", "be True or False", engine, kind=TypeError)
        self._on, self._without = compat.has_hooks, not engine
        if not self._on:
            compat.warn_once(compat.missing or "")
            return
        with _lock:
            _active += 1
            off = _engine.exclude(self._without)
        self._end = compat.set_cache_key("accelerate", (True, off))

    def __enter__(self) -> accelerate:
        return self

    def __exit__(self, *exception: object) -> None:
        global _active
        if not self._on:
            return
        self._on = False
        with _lock:
            _active -= 1
            _engine.exclude(-self._without)
        self._end()
