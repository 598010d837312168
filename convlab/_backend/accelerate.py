"""The opt-in that gives convlab's formulations to everybody's layers: the lowering rules with the mark implied, on the CPU."""

from __future__ import annotations

import threading

import jax

from . import compat

_lock = threading.Lock()
_active = 0


def is_active() -> bool:
    """Whether what carries no mark is lowered for the CPU as if it were marked."""
    return _active > 0


class accelerate:
    """Gives convlab's speed on the CPU to every convolution and pool of any JAX program: Flax, Equinox, Keras, plain lax.

    A call accelerates from then on; a `with` block until its end, and then everything is as it was. It changes how
    `lax.conv_general_dilated`, `lax.reduce_window` (sum, max, min) and their derivatives are lowered for the CPU, nothing else: results
    are equal up to rounding, programs for GPU and TPU are the same to the byte. What was compiled before, and what other threads have
    compiled, stays as it is. With a version of JAX where this cannot be done it warns once and changes nothing.

    Returns:
        A context manager; to enter it is not necessary.

    Example:
        >>> from jax import lax
        >>> x, k = jnp.ones((1, 8, 8, 64)), jnp.ones((3, 3, 1, 64))
        >>> with accelerate():
        ...     y = lax.conv_general_dilated(
        ...         x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=64)
        >>> y.shape
        (1, 8, 8, 64)

    Changes the lowering of `lax.conv_general_dilated`, `lax.reduce_window` and their derivatives; see also `explain`.
    """

    def __init__(self) -> None:
        global _active
        self._key, self._on = None, compat.has_hooks
        if not self._on:
            compat.say_once(compat.missing or "")
            return
        with _lock:
            _active += 1
        key = compat.cache_key()
        if key is None:
            jax.clear_caches()
        else:
            self._key = key(True)
            self._key.__enter__()

    def __enter__(self) -> accelerate:
        return self

    def __exit__(self, *exception: object) -> None:
        global _active
        if not self._on:
            return
        self._on = False
        with _lock:
            _active -= 1
        if self._key is None:
            jax.clear_caches()
        else:
            self._key.__exit__(None, None, None)
