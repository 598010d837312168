"""The opt-in that gives convlab's formulations to everybody's layers: lax's own primitives lowered on the CPU by the same rules."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.interpreters import mlir

from . import windows
from .primitives import conv_lowering, lower_static

_lock = threading.Lock()
_inside = threading.local()
_former: dict[Any, Any] = {}  # lax's primitive -> JAX's registration for the CPU, None if it has only a common one
_active = 0


def _once(former: Callable, make: Callable) -> Callable:
    """`make(former)`, but `former` for what the formulations themselves ask of lax."""
    ours = make(former)

    def rule(ctx, *args, **params):
        if getattr(_inside, "on", False):
            return former(ctx, *args, **params)
        _inside.on = True
        try:
            return ours(ctx, *args, **params)
        finally:
            _inside.on = False

    return rule


def _scatter(source, operand, *, select_prim, **params):
    """`select_and_scatter_add_p`, the gradient of a max pool."""
    return windows.max_cotangent(operand, source, reducer=_reducer(select_prim), **_undilated(operand, params))


def _gather(tangents, operand, *, select_prim, **params):
    """`select_and_gather_add_p`, the tangent of a max pool."""
    return windows.max_tangent(operand, tangents, reducer=_reducer(select_prim), **_undilated(operand, params))


def _reducer(select_prim) -> windows.Reducer:
    return "max" if select_prim is lax.ge_p else "min"


def _undilated(x, params: dict) -> dict:
    ones = (1,) * x.ndim
    return dict(dict(base_dilation=ones, window_dilation=ones), **params)


def _rules() -> dict[Any, Callable]:
    """For each of lax's primitives the function from JAX's rule to ours."""
    bodies: dict[Any, Callable] = {
        lax.reduce_window_sum_p: windows.window_sum,
        lax.reduce_window_max_p: functools.partial(windows.window_max, reducer="max"),
        lax.reduce_window_min_p: functools.partial(windows.window_max, reducer="min"),
        lax.select_and_scatter_add_p: _scatter,
        lax.select_and_gather_add_p: _gather,
    }
    rules: dict[Any, Callable] = {p: functools.partial(lower_static, body) for p, body in bodies.items()}
    rules[lax.conv_general_dilated_p] = functools.partial(conv_lowering, "auto")
    return rules


def _install() -> None:
    registered = mlir._platform_specific_lowerings["cpu"]
    for primitive, make in _rules().items():
        entry = registered.get(primitive)
        former = entry if entry is not None else mlir._lowerings[primitive]
        rule = _once(getattr(former, "rule", former), make)  # type: ignore[arg-type]
        mlir.register_lowering(primitive, rule, platform="cpu")
        _former[primitive] = entry


def _restore() -> None:
    if not _former:
        return
    registered = mlir._platform_specific_lowerings["cpu"]
    for primitive, entry in _former.items():
        if entry is None:
            registered.pop(primitive, None)
        else:
            registered[primitive] = entry
    _former.clear()


@functools.cache
def _jit_key() -> Callable | None:
    """A context that is part of `jit`'s cache keys, so that nothing compiled before or after is taken for accelerated."""
    return jax.make_user_context(None) if hasattr(jax, "make_user_context") else None


@functools.cache
def _say_once(why: str) -> None:
    warnings.warn(f"convlab.accelerate() has no effect with this version of JAX: {why}", stacklevel=4)


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
        self._key, self._on = None, False
        with _lock:
            try:
                if _active == 0:
                    _install()
            except (AttributeError, KeyError, TypeError) as error:
                _restore()
                _say_once(f"{type(error).__name__}: {error}")
                return
            _active += 1
        self._on = True
        key = _jit_key()
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
            if _active == 0:
                _restore()
        if self._key is None:
            jax.clear_caches()
        else:
            self._key.__exit__(None, None, None)


def is_active() -> bool:
    return _active > 0
