"""convlab without primitives of its own, where JAX has moved what they hook into: lax's operations, and maxima that can be
differentiated in every configuration by `jax.custom_jvp`. Right, and as slow as XLA is."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax import lax

from . import windows


class _Function:
    """What stands in the place of a primitive."""

    def __init__(self, bind):
        self.bind = bind


def conv_general_dilated(lhs, rhs, *args, method: str = "auto", **kwargs) -> jax.Array:
    return lax.conv_general_dilated(lhs, rhs, *args, **kwargs)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _maximum(reducer: windows.Reducer, params: tuple, x: jax.Array) -> jax.Array:
    return windows.window_max(x, reducer=reducer, **dict(params))


@_maximum.defjvp
def _maximum_jvp(reducer, params, primals, tangents):
    tangent = windows.max_tangent(*primals, *tangents, reducer=reducer, **dict(params))
    return _maximum(reducer, params, *primals), tangent


def _window(reducer: windows.Reducer) -> _Function:
    return _Function(lambda x, **params: _maximum(reducer, tuple(sorted(params.items())), x))


window_max_p, window_min_p = _window("max"), _window("min")
window_sum_p = _Function(lax.reduce_window_sum_p.bind)


class accelerate:
    """Nothing to enter and nothing to undo: this version of JAX cannot be accelerated, as was said when convlab was imported."""

    def __enter__(self) -> accelerate:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def explain(fn, *args: Any, **kwargs: Any) -> tuple:
    """Nothing to tell: every convolution and pool is lax's."""
    return ()
