"""Small groups as large ones: several groups' kernels on the diagonal of one kernel, zeros elsewhere.

For a matrix unit, which multiplies 128 channels by 128 features at once whatever is in them; the zeros are multiplied too, and no
group of a few channels is laid out in a tile of its own. (The block-diagonal form of a grouped convolution: Xie et al. 2017,
arXiv:1611.05431, figure 3.)
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from . import lax_direct
from .problem import Problem
from .taps import empty

WIDTH = 128  # channels that fill a matrix unit


def direct(p: Problem) -> bool:
    """A channel meets the zeros of other groups' features, where an inf becomes a NaN."""
    return False


def refusal_forward(p: Problem) -> str | None:
    return None if _together(p) > 1 else f"dense takes groups of fewer than {WIDTH} channels, in or out"


refusal_kernel_gradient = refusal_forward


def _together(p: Problem) -> int:
    """How many groups one kernel holds: as few as fill the unit, all if those do not."""
    narrow = min(p.channels, p.features) // p.groups
    return next(m for m in range(1, p.groups + 1) if p.groups % m == 0 and (m * narrow >= WIDTH or m == p.groups))


def _merged(p: Problem) -> Problem:
    return dataclasses.replace(p, groups=p.groups // _together(p))


def _own(p: Problem) -> np.ndarray:
    """(group of the channel, 1, 1, group of the feature, 1): whether the two groups are the same one."""
    many = _together(p)
    return np.eye(many, dtype=bool).reshape(many, 1, 1, many, 1)


def forward(x, kernel, p: Problem):
    if empty(p) or 0 in p.spatial:
        return jnp.zeros((p.batch, *p.out, p.features), p.out_dtype)
    q = _merged(p)
    blocks = kernel.reshape(*p.window, 1, p.channels // p.groups, q.groups, -1, p.features // p.groups)
    diagonal = jnp.where(_own(p), blocks, jnp.zeros((), kernel.dtype))
    return lax_direct.convolve(x, diagonal.reshape(*p.window, -1, p.features), q)


def kernel_gradient(x, dy, p: Problem):
    shape = (*p.window, p.channels // p.groups, p.features)
    if empty(p) or 0 in p.spatial:
        return jnp.zeros(shape, p.out_dtype)
    q = _merged(p)
    blocks = lax_direct.convolve_gradient(x, dy, q)
    blocks = blocks.reshape(*p.window, _together(p), p.channels // p.groups, q.groups, -1, p.features // p.groups)
    return jnp.where(_own(p), blocks, jnp.zeros((), blocks.dtype)).sum(p.rank).reshape(shape).astype(p.out_dtype)
