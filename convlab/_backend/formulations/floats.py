"""The formulation `floats`: convolve bytes in float32, which a CPU multiplies far faster than integers.

It serves problems whose sums float32 represents exactly.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax import lax

from ..problem import Kind, Problem
from .base import Array, Formulation, Part, Solve

_EXACT = 2**24  # float32 represents every integer up to here


def _unsupported(terms: int, p: Problem) -> str | None:
    if not jnp.issubdtype(p.dtype, jnp.integer) or p.out_dtype != jnp.int32:
        return "floats serves integers whose sums are int32"
    largest = p.largest_product or max(-int(jnp.iinfo(p.dtype).min), int(jnp.iinfo(p.dtype).max)) ** 2
    return None if largest * terms <= _EXACT else "float32 does not represent every sum of these exactly"


def forward_unsupported(p: Problem) -> str | None:
    return _unsupported(math.prod(p.window) * p.channels // p.groups, p)


def kernel_gradient_unsupported(p: Problem) -> str | None:
    return _unsupported(p.batch * math.prod(p.out), p)


def _float32_problem(p: Problem) -> Problem:
    dtype, highest = jnp.dtype(jnp.float32), (lax.Precision.HIGHEST,) * 2
    return dataclasses.replace(p, dtype=dtype, out_dtype=dtype, precision=highest, largest_product=None)


def parts(kind: Kind, p: Problem) -> list[Part]:
    return [(kind, _float32_problem(p))]


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    return solve("forward", x.astype(jnp.float32), kernel.astype(jnp.float32), _float32_problem(p))


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    return solve("kernel_gradient", x.astype(jnp.float32), dy.astype(jnp.float32), _float32_problem(p))


FLOATS = Formulation("floats", forward, kernel_gradient, forward_unsupported, kernel_gradient_unsupported, parts)
