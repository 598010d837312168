"""From one general convolution of a JAX program to the formulation that computes it on a platform.

The operands, in whatever layout, are brought to a `Problem`'s form; a convolution that JAX wrote as somebody's kernel gradient is
recognised by its structure and computed as one.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax import lax

from . import gemm, lax_direct
from .problem import Problem
from .tables import FORMULATIONS, answer, choose, unsupported_reason

Array = jnp.ndarray
NONE: frozenset[str] = frozenset()


def read_forward(lhs, rhs, params) -> Problem:
    """The problem of lax's convolution with these operands and parameters, as it is written."""
    spec = params["dimension_numbers"]
    image = [lhs.shape[a] for a in spec.lhs_spec]
    taps = [rhs.shape[a] for a in spec.rhs_spec]
    precision = params["precision"]
    return Problem(
        batch=image[0],
        spatial=tuple(image[2:]),
        channels=image[1],
        window=tuple(taps[2:]),
        features=taps[0],
        strides=tuple(params["window_strides"]),
        pads=tuple(map(tuple, params["padding"])),
        lhs_dilation=tuple(params["lhs_dilation"]),
        rhs_dilation=tuple(params["rhs_dilation"]),
        groups=params["feature_group_count"],
        dtype=jnp.dtype(lhs.dtype),
        out_dtype=jnp.dtype(params["preferred_element_type"] or lhs.dtype),
        precision=precision if isinstance(precision, (tuple, type(None))) else (precision,) * 2,
    )


def read(lhs, rhs, params) -> tuple[str, Problem]:
    """The map ("forward" or "kernel_gradient") that lax's convolution most likely is, and its problem."""
    forward, groups = read_forward(lhs, rhs, params), params["batch_group_count"]
    small = math.prod(forward.out) < math.prod(forward.window)
    if groups == 1 and not (small and forward.groups == 1):
        return "forward", forward
    # The batch axis of lhs holds the channels, its feature axis the batch; rhs is dy, its window the places of dy.
    reach = [(w - 1) * d + 1 for w, d in zip(forward.out, forward.strides)]
    ends = [
        (o - 1) * s + r - lo - n
        for o, s, r, (lo, _), n in zip(forward.window, forward.rhs_dilation, reach, forward.pads, forward.dilated)
    ]
    return "kernel_gradient", dataclasses.replace(
        forward,
        batch=forward.channels,
        channels=forward.batch,
        window=forward.out,
        strides=forward.rhs_dilation,
        pads=tuple((lo, end) for (lo, _), end in zip(forward.pads, ends)),
        rhs_dilation=forward.strides,
        groups=groups,
    )


def _to(x, order):
    return x if order == tuple(range(x.ndim)) else lax.transpose(x, order)


def _from(x, order):
    back = sorted(range(x.ndim), key=order.__getitem__)
    return _to(x, tuple(back))


def conv(
    lhs: Array, rhs: Array, method: str = "auto", without: frozenset[str] = NONE, platform: str = "cpu", **params
) -> Array:
    """lax's general convolution with lax's parameters, by the formulation that the platform's table or `method` names."""
    kind, p = read(lhs, rhs, params)
    if (
        kind == "kernel_gradient"
        and params["batch_group_count"] == 1
        and method != "auto"
        and unsupported_reason(method, kind, p)
    ):
        written = read_forward(lhs, rhs, params)
        kind, p = (kind, p) if unsupported_reason(method, "forward", written) else ("forward", written)
    if platform == "tpu" and params["batch_group_count"] == 1 and gemm.tiles(read_forward(lhs, rhs, params)):
        kind, p = "forward", read_forward(lhs, rhs, params)  # no kernel gradient has such strides
    if platform != "cpu" and answer(kind, p, method, without, platform)[0] == "lax":
        choose(kind, p, method, without, platform)
        return lax.conv_general_dilated_p.bind(lhs, rhs, **params)  # as it was written
    spec = params["dimension_numbers"]
    batch, feature, *space = spec.lhs_spec
    out_feature, in_feature, *window = spec.rhs_spec
    out_batch, out_last, *out_space = spec.out_spec
    options = method, without, platform
    if kind == "forward":
        y = forward(_to(lhs, (batch, *space, feature)), _to(rhs, (*window, in_feature, out_feature)), p, *options)
        return _from(y, (out_batch, *out_space, out_last))
    x, dy = _to(lhs, (feature, *space, batch)), _to(rhs, (in_feature, *window, out_feature))
    return _from(kernel_gradient(x, dy, p, *options), (*out_space, out_batch, out_last))


def forward(x, kernel, p: Problem, method: str = "auto", without: frozenset[str] = NONE, platform: str = "cpu"):
    name, _ = choose("forward", p, method, without, platform)
    if name in ("subpixel", "output_blocking"):
        options = "auto", without | {name}, platform
        return FORMULATIONS[name].forward(x, kernel, p, lambda x, k, part: forward(x, k, part, *options))
    if name == "lax" and platform != "cpu":
        return lax_direct.convolve(x, kernel, p)
    return FORMULATIONS[name].forward(x, kernel, p)


def kernel_gradient(x, dy, p: Problem, method: str = "auto", without: frozenset[str] = NONE, platform: str = "cpu"):
    name, _ = choose("kernel_gradient", p, method, without, platform)
    if name == "subpixel":
        options = "auto", without, platform
        return FORMULATIONS[name].kernel_gradient(x, dy, p, lambda x, dy, part: kernel_gradient(x, dy, part, *options))
    if name == "lax" and platform != "cpu":
        return lax_direct.convolve_gradient(x, dy, p)
    return FORMULATIONS[name].kernel_gradient(x, dy, p)


def is_static(*arrays) -> bool:
    """Whether all sizes are known: a symbolic one (`jax.export`) leaves nothing to choose by."""
    return all(isinstance(n, int) for a in arrays for n in a.shape)
