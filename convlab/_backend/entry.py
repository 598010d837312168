"""The backend's entry for the public functions: bind lax's own primitives under convlab's mark.

`convolve` and `window_sum` receive checked arguments and bind one primitive; the mark carries `method=` to the rules of
`lowering`. Maxima are bound in `pooling.maxima`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from .._arguments import argument_error
from . import compat, dispatch
from .pooling import maxima
from .tables import FORMULATIONS

Array = jax.Array


def conv_general_dilated(lhs: Array, rhs: Array, *args: Any, method: str = "auto", **kwargs: Any) -> Array:
    """Bind `lax.conv_general_dilated`, marked with a method."""
    with compat.marked(method, lhs, rhs):
        return lax.conv_general_dilated(lhs, rhs, *args, **kwargs)


def convolve(
    x: Array,
    kernel: Array,
    *,
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    input_dilation: Sequence[int],
    kernel_dilation: Sequence[int],
    groups: int,
    precision: Any,
    preferred_element_type: Any,
    out_sharding: Any,
    method: str,
    are_bytes: bool = False,
) -> Array:
    """Convolve `x: (n, *spatial, c)` with `kernel: (*window, c / groups, features)`.

    `are_bytes`: the operands, of int16, have the values of uint8 and int8.
    """
    last = x.ndim - 1
    image, taps = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    params = dict(
        window_strides=tuple(strides),
        padding=tuple(map(tuple, pads)),
        lhs_dilation=tuple(input_dilation),
        rhs_dilation=tuple(kernel_dilation),
        dimension_numbers=lax.ConvDimensionNumbers(image, taps, image),
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    if method != "auto":
        _check_method(method, x, kernel, params)
    elif are_bytes:
        method = dispatch.BYTES
    if not all(isinstance(p, int) for pair in pads for p in pair):  # lax takes symbolic pads only by the primitive
        params["precision"] = compat.canonicalize_precision(precision)
        return compat.CONVOLUTION.bind(x, kernel, batch_group_count=1, out_sharding=out_sharding, **params)
    return conv_general_dilated(x, kernel, method=method, out_sharding=out_sharding, **params)


def _check_method(method: str, x: Array, kernel: Array, params: dict) -> None:
    """Raise ValueError if no formulation has this name or if it does not support the forward map."""
    if method not in FORMULATIONS:
        raise argument_error("method", f"be one of {', '.join(map(repr, ('auto', *FORMULATIONS)))}", method)
    if not all(isinstance(n, int) for a in (x, kernel) for n in a.shape):
        return
    precision = compat.canonicalize_precision(params["precision"])
    problem = dispatch.read_forward(x, kernel, dict(params, precision=precision))
    reason = FORMULATIONS[method].unsupported_reason("forward", problem)
    if reason:
        hint = f"{reason[0].upper()}{reason[1:]}."
        raise argument_error("method", "name a formulation that supports this call", method, hint=hint)


def window_sum(x: Array, params: dict) -> Array:
    """Compute the sum of each window, by lax's window parameters."""
    if not compat.has_hooks:
        return maxima.reduce_window(x, 0, lax.add, params)
    with compat.marked("auto", x):
        return compat.WINDOW_SUM.bind(x, **params)
