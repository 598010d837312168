"""Compute lax's general convolution, in any layout, by a formulation.

`lowering` calls `read` to describe an equation as a `Problem`, `tables.choose` to choose a formulation for it, and
`convolution` to compute it. A convolution that JAX wrote as a kernel gradient is recognised by its structure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .formulations import gemm
from .problem import Kind, Problem
from .tables import FORMULATIONS, Choice, Target, choose

Array = jax.Array


# Marks a convolution of uint8 with int8, which is bound with operands of int16, for lax takes only one dtype.
BYTES = "bytes"


def read_forward(lhs: Any, rhs: Any, params: dict) -> Problem:
    """Return the problem of lax's convolution, read as a forward map."""
    spec = params["dimension_numbers"]
    image = [lhs.shape[a] for a in spec.lhs_spec]
    kernel = [rhs.shape[a] for a in spec.rhs_spec]
    precision = params["precision"]
    return Problem(
        batch=image[0],
        spatial=tuple(image[2:]),
        channels=image[1],
        window=tuple(kernel[2:]),
        features=kernel[0],
        strides=tuple(params["window_strides"]),
        pads=tuple(map(tuple, params["padding"])),
        input_dilation=tuple(params["lhs_dilation"]),
        kernel_dilation=tuple(params["rhs_dilation"]),
        groups=params["feature_group_count"],
        dtype=jnp.dtype(lhs.dtype),
        out_dtype=jnp.dtype(params["preferred_element_type"] or lhs.dtype),
        precision=precision if isinstance(precision, (tuple, type(None))) else (precision,) * 2,
    )


def _read(lhs: Any, rhs: Any, params: dict) -> tuple[Kind, Problem]:
    """Return the map that lax's convolution most likely is, and its problem.

    JAX writes a kernel gradient as a convolution with few outputs and a large window, or with batch groups.
    """
    forward, groups = read_forward(lhs, rhs, params), params["batch_group_count"]
    small = math.prod(forward.out) < math.prod(forward.window)
    if groups == 1 and not (small and forward.groups == 1):
        return "forward", forward
    return "kernel_gradient", _as_kernel_gradient(forward, groups)


def _as_kernel_gradient(forward: Problem, groups: int) -> Problem:
    """Return the problem whose kernel gradient a forward map is.

    The batch axis of lhs is the channels, its feature axis the batch; rhs is dy, its window the positions of dy.
    """
    extents = [(w - 1) * d + 1 for w, d in zip(forward.out, forward.strides)]
    ends = [
        (o - 1) * s + extent - lo - n
        for o, s, extent, (lo, _), n in zip(
            forward.window, forward.kernel_dilation, extents, forward.pads, forward.dilated
        )
    ]
    return dataclasses.replace(
        forward,
        batch=forward.channels,
        channels=forward.batch,
        window=forward.out,
        strides=forward.kernel_dilation,
        pads=tuple((lo, end) for (lo, _), end in zip(forward.pads, ends)),
        kernel_dilation=forward.strides,
        groups=groups,
    )


def read(lhs: Any, rhs: Any, params: dict, method: str, target: Target) -> tuple[Kind, Problem]:
    """Return the map that lax's convolution is to be computed as, and its problem.

    What looks like a kernel gradient is computed as the forward map that it is written as if the requested method
    serves only that, or on TPU and GPU if its windows tile the image; large windows that do are known on GPU in the
    kernel gradient too, though it has more outputs than positions of dy.
    """
    kind, p = _read(lhs, rhs, params)
    if kind == "forward" and p.groups == 1 and target.platform == "gpu":
        gradient = _as_kernel_gradient(p, 1)
        if gemm.tiles_image(gradient) and math.prod(gradient.window) >= gemm.LARGE:
            return "kernel_gradient", gradient
    if method == BYTES:
        p = dataclasses.replace(p, largest_product=255 * 128)
    if kind == "kernel_gradient" and params["batch_group_count"] == 1:
        forward, requested = read_forward(lhs, rhs, params), FORMULATIONS.get(method)
        only_forward = (
            requested and requested.unsupported_reason(kind, p) and not requested.unsupported_reason("forward", forward)
        )
        if (
            only_forward or target.platform != "cpu" and gemm.tiles_image(forward)
        ):  # no kernel gradient has such strides
            return "forward", forward
    return kind, p


def convolution(lhs: Array, rhs: Array, kind: Kind, p: Problem, choice: Choice, target: Target, params: dict) -> Array:
    """Compute lax's general convolution, with lax's operands and parameters, by the chosen formulation."""
    spec = params["dimension_numbers"]
    batch, feature, *space = spec.lhs_spec
    out_feature, in_feature, *window = spec.rhs_spec
    out_batch, out_last, *out_space = spec.out_spec
    if kind == "forward":
        a, order = permute(lhs, (batch, *space, feature)), (*window, in_feature, out_feature)
        in_order = choice.formulation.forward_in_order
        if in_order is not None and p.groups == 1 and not p.empty:
            y = in_order(a, rhs, p, order).astype(p.out_dtype)
        else:
            y = compute(kind, a, permute(rhs, order), p, choice, target)
        return unpermute(y, (out_batch, *out_space, out_last))
    a, b = permute(lhs, (feature, *space, batch)), permute(rhs, (in_feature, *window, out_feature))
    return unpermute(compute(kind, a, b, p, choice, target), (*out_space, out_batch, out_last))


def compute(kind: Kind, a: Array, b: Array, p: Problem, choice: Choice, target: Target) -> Array:
    """Compute the map of two operands in the problem's layout by the chosen formulation."""
    if p.empty:
        return jnp.zeros(p.result_shape(kind), p.out_dtype)

    def solve(kind: Kind, a: Array, b: Array, part: Problem) -> Array:
        return compute(kind, a, b, part, choose(kind, part, "auto", target, choice.formulation.name), target)

    map_of = choice.formulation.forward if kind == "forward" else choice.formulation.kernel_gradient
    assert map_of is not None
    return map_of(a, b, p, solve).astype(p.out_dtype)


def parts(kind: Kind, p: Problem, choice: Choice, target: Target) -> list[str]:
    """Return the names of the formulations that compute the chosen one's inner convolutions, in order, each once."""
    found: list[str] = []
    for part_kind, part in [] if p.empty else choice.formulation.parts(kind, p):
        inner = choose(part_kind, part, "auto", target, choice.formulation.name)
        found += [inner.formulation.name, *parts(part_kind, part, inner, target)]
    return list(dict.fromkeys(found))


def permute(x: Array, order: Sequence[int]) -> Array:
    """Transpose `x`, unless the axes are in that order already."""
    return x if tuple(order) == tuple(range(x.ndim)) else lax.transpose(x, order)


def unpermute(x: Array, order: Sequence[int]) -> Array:
    """Undo `permute`."""
    return permute(x, sorted(range(x.ndim), key=order.__getitem__))
