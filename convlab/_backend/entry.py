"""What the public functions call: lax's own primitives, bound under the mark that the lowering rules look for."""

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
    """`lax.conv_general_dilated`, marked."""
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
    holds_bytes: bool = False,
) -> Array:
    """The convolution of `x: (n, *spatial, c)` by `kernel: (*window, c / groups, features)`.

    `holds_bytes`: operands of 16 bits are those of uint8 and int8.
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
    elif holds_bytes:
        method = dispatch.BYTES
    if not all(isinstance(p, int) for pair in pads for p in pair):  # which lax has from names alone
        params["precision"] = compat.canonical_precision(precision)
        return compat.CONVOLUTION.bind(x, kernel, batch_group_count=1, out_sharding=out_sharding, **params)
    return conv_general_dilated(x, kernel, method=method, out_sharding=out_sharding, **params)


def _check_method(method: str, x: Array, kernel: Array, params: dict) -> None:
    """That the formulation serves the forward map, which a convolution with few positions is though it looks like a
    gradient."""
    if method not in FORMULATIONS:
        raise argument_error("method", f"be one of {', '.join(map(repr, ('auto', *FORMULATIONS)))}", method)
    if not all(isinstance(n, int) for a in (x, kernel) for n in a.shape):
        return
    precision = compat.canonical_precision(params["precision"])
    problem = dispatch.read_forward(x, kernel, dict(params, precision=precision))
    why = FORMULATIONS[method].unsupported_reason("forward", problem)
    if why:
        raise argument_error(
            "method", "name a formulation that serves this call", method, hint=f"{why[0].upper()}{why[1:]}."
        )


def window_sum(x: Array, params: dict) -> Array:
    """The sum of each window, by lax's parameters."""
    if not compat.has_hooks:
        return maxima.by_public_lax(x, 0, lax.add, params)
    with compat.marked("auto", x):
        return compat.WINDOW_SUM.bind(x, **params)
