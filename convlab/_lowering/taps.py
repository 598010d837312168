"""Shift-multiply-add: the sum over the taps of the window of a shifted image times that tap's weights.

One fused elementwise loop, so the best form where a matrix product would have next to nothing to contract: depthwise
convolution (Howard et al. 2017, arXiv:1704.04861) with any multiplier, and a handful of channels.
"""

from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
from jax import lax

from .problem import Problem


def accumulator(p: Problem):
    """The dtype of sums: `out_dtype`, but never narrower than float32 among the floats."""
    narrow = jnp.issubdtype(p.out_dtype, jnp.floating) and jnp.finfo(p.out_dtype).bits < 32
    return jnp.dtype(jnp.float32) if narrow else jnp.dtype(p.out_dtype)


def padded(x, p: Problem):
    """x after `lhs_dilation` and `pads`."""
    config = [(0, 0, 0), *((lo, hi, d - 1) for (lo, hi), d in zip(p.pads, p.lhs_dilation)), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config) if any(map(any, config)) else x


def shifted(image, tap, p: Problem):
    """What the tap at index `tap` of the window sees of the padded image: (n, *out, c)."""
    starts = [t * d for t, d in zip(tap, p.rhs_dilation)]
    limits = [start + (o - 1) * s + 1 for start, o, s in zip(starts, p.out, p.strides)]
    n, c = image.shape[0], image.shape[-1]
    return lax.slice(image, (0, *starts, 0), (n, *limits, c), (1, *p.strides, 1))


def indices(p: Problem):
    """The taps of the window, last axis fastest."""
    return itertools.product(*map(range, p.window))


def empty(p: Problem) -> bool:
    """Whether there is nothing to sum over or nothing to fill."""
    return 0 in (p.batch, p.channels, p.features, *p.out, *p.window)


def direct(p: Problem) -> bool:
    return True


def refusal_forward(p: Problem) -> str | None:
    if any(d > 1 for d in p.lhs_dilation):
        return "taps would multiply the zeros of a dilated input; phases splits it first"
    if math.prod(p.window) * (p.channels // p.groups) > 256:
        return "taps unrolls window * channels per group, more than 256 here"
    return None


def forward(x, kernel, p: Problem):
    if empty(p):
        return jnp.zeros((p.batch, *p.out, p.features), p.out_dtype)
    acc, per_group, multiplier = accumulator(p), p.channels // p.groups, p.features // p.groups
    image, total = padded(x, p), 0
    for tap, i in itertools.product(indices(p), range(per_group)):
        seen = shifted(image[..., i::per_group], tap, p).astype(acc)
        weights = kernel[(*tap, i)].astype(acc)
        total += seen * weights if multiplier == 1 else seen[..., None] * weights.reshape(p.groups, multiplier)
    return total.reshape(p.batch, *p.out, p.features).astype(p.out_dtype)
