"""From one general convolution of a JAX program to the formulation that computes it.

The operands, in whatever layout, are brought to a `Problem`'s form; a convolution that JAX wrote as somebody's kernel
gradient is recognised by its structure and computed as one.
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


# The mark of a convolution of uint8 with int8 as integers of 16 bits, for lax takes only operands of one dtype.
BYTES = "bytes"


def read_forward(lhs: Any, rhs: Any, params: dict) -> Problem:
    """The problem of lax's convolution with these operands and parameters, as it is written."""
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
    """The map that lax's convolution most likely is, and its problem."""
    forward, groups = read_forward(lhs, rhs, params), params["batch_group_count"]
    small = math.prod(forward.out) < math.prod(forward.window)
    if groups == 1 and not (small and forward.groups == 1):
        return "forward", forward
    # The batch axis of lhs holds the channels, its feature axis the batch; rhs is dy, its window the positions of dy.
    extents = [(w - 1) * d + 1 for w, d in zip(forward.out, forward.strides)]
    ends = [
        (o - 1) * s + extent - lo - n
        for o, s, extent, (lo, _), n in zip(
            forward.window, forward.kernel_dilation, extents, forward.pads, forward.dilated
        )
    ]
    return "kernel_gradient", dataclasses.replace(
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
    """`_read`, unless the convolution is better served as the forward map that it is written as."""
    kind, p = _read(lhs, rhs, params)
    if method == BYTES:
        p = dataclasses.replace(p, largest_product=255 * 128)
    if kind == "kernel_gradient" and params["batch_group_count"] == 1:
        written, asked = read_forward(lhs, rhs, params), FORMULATIONS.get(method)
        only_forward = asked and asked.unsupported_reason(kind, p) and not asked.unsupported_reason("forward", written)
        if only_forward or target.platform == "tpu" and gemm.tiles(written):  # no kernel gradient has such strides
            return "forward", written
    return kind, p


def convolution(lhs: Array, rhs: Array, kind: Kind, p: Problem, choice: Choice, target: Target, params: dict) -> Array:
    """lax's general convolution with lax's parameters, by the formulation that was chosen."""
    spec = params["dimension_numbers"]
    batch, feature, *space = spec.lhs_spec
    out_feature, in_feature, *window = spec.rhs_spec
    out_batch, out_last, *out_space = spec.out_spec
    if kind == "forward":
        a, b = permuted(lhs, (batch, *space, feature)), permuted(rhs, (*window, in_feature, out_feature))
        return _from(compute(kind, a, b, p, choice, target), (out_batch, *out_space, out_last))
    a, b = permuted(lhs, (feature, *space, batch)), permuted(rhs, (in_feature, *window, out_feature))
    return _from(compute(kind, a, b, p, choice, target), (*out_space, out_batch, out_last))


def compute(kind: Kind, a: Array, b: Array, p: Problem, choice: Choice, target: Target) -> Array:
    """The map of two operands in the problem's form, by the formulation that was chosen."""
    if p.empty:
        return jnp.zeros(p.result_shape(kind), p.out_dtype)

    def solve(kind: Kind, a: Array, b: Array, part: Problem) -> Array:
        return compute(kind, a, b, part, choose(kind, part, "auto", target, choice.formulation.name), target)

    map_of = choice.formulation.forward if kind == "forward" else choice.formulation.kernel_gradient
    assert map_of is not None
    return map_of(a, b, p, solve).astype(p.out_dtype)


def parts(kind: Kind, p: Problem, choice: Choice, target: Target) -> list[str]:
    """The names of the formulations that compute what the chosen one is made of, in order, each once."""
    found: list[str] = []
    for part_kind, part in [] if p.empty else choice.formulation.parts(kind, p):
        inner = choose(part_kind, part, "auto", target, choice.formulation.name)
        found += [inner.formulation.name, *parts(part_kind, part, inner, target)]
    return list(dict.fromkeys(found))


def permuted(x: Array, order: Sequence[int]) -> Array:
    return x if tuple(order) == tuple(range(x.ndim)) else lax.transpose(x, order)


def _from(x: Array, order: Sequence[int]) -> Array:
    return permuted(x, sorted(range(x.ndim), key=order.__getitem__))
