"""The backend's entry for maxima and minima of windows: bind lax's primitive, or one of convlab's own.

lax differentiates only windows without dilation or negative pads. For other windows the tangent and the cotangent are
primitives of convlab's, each the other's transpose; a third one returns the index of the maximum. `lowering` registers
their rules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from .. import compat, primitives
from . import windows
from .axis import axes_of
from .windows import Reducer

Array = jax.Array


def window_max(x: Array, params: dict, reducer: Reducer) -> Array:
    """Compute the maximum, or minimum, of each window, by lax's parameters."""
    dilated = max(*params["base_dilation"], *params["window_dilation"], 1) > 1
    if compat.has_hooks and not dilated and min(map(min, params["padding"]), default=0) >= 0:
        return _bind_lax(x, params, reducer)
    return _maximum(reducer, tuple(sorted(params.items())), x)


def window_argmax(x: Array, params: dict, reducer: Reducer) -> Array:
    """Return the index of the maximum, or minimum, among its window's elements, the last axis fastest; int32."""
    if not compat.has_hooks:
        return windows.window_argmax(x, axes_of(x.shape, params), reducer=reducer)
    return OWN[reducer, "window_argmax"].bind(x, **params)


def _bind_lax(x: Array, params: dict, reducer: Reducer) -> Array:
    if not compat.has_hooks:
        return reduce_window(x, windows.identity(x.dtype, reducer), lax.max if reducer == "max" else lax.min, params)
    with compat.marked("auto", x):
        return (compat.WINDOW_MAX if reducer == "max" else compat.WINDOW_MIN).bind(x, **params)


def reduce_window(x: Array, start: Any, reduce_fn: Callable, params: dict) -> Array:
    """Compute a window reduction by lax's public function, if JAX has moved the primitive."""
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    return lax.reduce_window(x, np.asarray(start, x.dtype), reduce_fn, *(params[name] for name in names))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _maximum(reducer: Reducer, params: tuple, x: Array) -> Array:
    return _bind_lax(x, dict(params), reducer)


@_maximum.defjvp
def _maximum_jvp(reducer: Reducer, params: tuple, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    if compat.has_hooks:
        tangent = OWN[reducer, "max_tangent"].bind(x, dx, **dict(params))
    else:
        tangent = windows.max_tangent(x, dx, axes_of(x.shape, dict(params)), reducer=reducer)
    return _maximum(reducer, params, x), tangent


def with_batch_axis(params: dict) -> dict:
    """Return the window parameters for operands with a new leading axis."""
    return {name: ((0, 0) if name == "padding" else 1, *value) for name, value in params.items()}


def _primitives(reducer: Reducer) -> dict[tuple[str, str], Any]:
    """Make the primitives for the index, the tangent and the cotangent of a maximum or minimum."""
    original = compat.WINDOW_MAX if reducer == "max" else compat.WINDOW_MIN

    def outputs_like(x: Any, v: Any, params: dict) -> Any:
        return compat.abstract_of(original, x, **params).update(dtype=v, weak_type=False)

    argmax = primitives.new_discrete_primitive(
        f"convlab_{reducer}_argmax", lambda x, **params: outputs_like(x, np.dtype(np.int32), params), with_batch_axis
    )
    tangent = primitives.new_linear_primitive(
        f"convlab_{reducer}_tangent", lambda x, v, **params: outputs_like(x, v.dtype, params), with_batch_axis
    )
    cotangent = primitives.new_linear_primitive(
        f"convlab_{reducer}_cotangent", lambda x, v, **_: x.update(dtype=v.dtype, weak_type=False), with_batch_axis
    )
    primitives.make_transposes(tangent, cotangent)
    return {
        (reducer, "window_argmax"): argmax,
        (reducer, "max_tangent"): tangent,
        (reducer, "max_cotangent"): cotangent,
    }


# convlab's own primitives, by reducer and by the function of `windows` that computes them.
OWN: dict[tuple[str, str], Any] = _primitives("max") | _primitives("min") if compat.has_hooks else {}
