"""From convlab's one internal convolution to lax's general form of it, whoever computes that."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax

from .._window import argument_error
from . import dispatch
from .tables import FORMULATIONS, unsupported_reason


def convolve(
    conv_general_dilated: Callable,
    x,
    kernel,
    *,
    strides,
    pads,
    input_dilation,
    kernel_dilation,
    groups,
    precision,
    preferred_element_type,
    out_sharding,
    method,
) -> jax.Array:
    """The convolution of `x: (n, *spatial, c)` by `kernel: (*window, c / groups, features)`."""
    last = x.ndim - 1
    image, taps = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
    options = dict(
        lhs_dilation=tuple(input_dilation),
        rhs_dilation=tuple(kernel_dilation),
        dimension_numbers=lax.ConvDimensionNumbers(image, taps, image),
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    strides, pads = tuple(strides), tuple(map(tuple, pads))
    if method != "auto":
        traced = jax.make_jaxpr(lambda x, k: lax.conv_general_dilated(x, k, strides, pads, **options))(x, kernel)
        # Inside shard_map a cast of an operand may stand before it.
        params = next(eqn.params for eqn in traced.eqns if eqn.primitive is lax.conv_general_dilated_p)
        check_method(method, x, kernel, params)
    return conv_general_dilated(x, kernel, strides, pads, method=method, **options)


def check_method(method: str, x, kernel, params: dict) -> None:
    """That the formulation serves the forward map, which a convolution with few places is though it looks like a gradient."""
    if method not in FORMULATIONS:
        raise argument_error("method", f"be one of {', '.join(map(repr, ('auto', *FORMULATIONS)))}", method)
    why = (
        unsupported_reason(method, "forward", dispatch.read_forward(x, kernel, params))
        if dispatch.is_static(x, kernel)
        else None
    )
    if why:
        raise argument_error("method", "name a formulation that serves this call", method, hint=f"{why[0].upper()}{why[1:]}.")
