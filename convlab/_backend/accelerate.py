"""The opt-in that gives convlab's formulations to everybody's layers: the lowering rules with the mark implied, on the
CPU."""

from __future__ import annotations

import threading

from .._arguments import argument_error
from . import compat
from . import engine as _engine

_lock = threading.Lock()
_active = 0


def is_active() -> bool:
    """Whether what carries no mark is lowered for the CPU as if it were marked."""
    return _active > 0


class accelerate:
    """Gives convlab's speed on the CPU to every convolution and pool of any JAX program: Flax, Equinox, Keras, plain
    lax.

    A call accelerates from then on; a `with` block until its end, and then everything is as it was. It changes how
    `lax.conv_general_dilated`, `lax.reduce_window` (sum, max, min) and their derivatives are lowered for the CPU,
    nothing else: results are equal up to rounding, programs for GPU and TPU are the same to the byte unless a tuning
    for the device is in force (`autotune`). What was compiled before, and what other threads have compiled, stays as it
    is. With a version of JAX where this cannot be done it warns once and changes nothing.

    Args:
        engine: False leaves jaxlib's own engine out of every program, convlab's own functions included. Such programs
            can be kept in JAX's persistent compilation cache, and their convolutions are slower.

    Returns:
        A context manager; to enter it is not necessary.

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
            compat.say_once(compat.missing or "")
            return
        with _lock:
            _active += 1
            off = _engine.leave_out(self._without)
        self._end = compat.keyed("accelerate", (True, off))

    def __enter__(self) -> accelerate:
        return self

    def __exit__(self, *exception: object) -> None:
        global _active
        if not self._on:
            return
        self._on = False
        with _lock:
            _active -= 1
            _engine.leave_out(-self._without)
        self._end()
