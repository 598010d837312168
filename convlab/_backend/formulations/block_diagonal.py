"""Small groups as large ones: several groups' kernels on the diagonal of one kernel, zeros elsewhere.

For a matrix unit, which multiplies 128 channels by 128 features at once whatever is in them; the zeros are multiplied
too, and no group of a few channels is laid out in a tile of its own. (The block-diagonal form of a grouped convolution:
Xie et al. 2017, arXiv:1611.05431, figure 3.)
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from ..problem import Problem
from . import lax
from .base import Array, Formulation, Solve

WHOLE = 160  # channels, in or out, up to which one kernel holds all groups
FEW = 4  # groups, likewise; and the fewest that are put together
WIDTH = 32  # channels that the kernels of several groups have at least


def forward_unsupported(p: Problem) -> str | None:
    return None if p.groups > 1 else "block_diagonal takes groups"


def whole(p: Problem) -> bool:
    """Whether one kernel holds all groups because they are few or small."""
    return p.groups <= FEW or min(p.channels, p.features) <= WHOLE


def together(p: Problem) -> int:
    """How many groups one kernel holds."""
    if whole(p):
        return p.groups
    narrow = min(p.channels, p.features) // p.groups
    return next(m for m in range(FEW, p.groups + 1) if p.groups % m == 0 and (m * narrow >= WIDTH or m == p.groups))


def _merged(p: Problem) -> Problem:
    return dataclasses.replace(p, groups=p.groups // together(p))


def _own(p: Problem):
    """(channels of a kernel, features): whether both are of one group. Features stay where they are, along the
    vectors."""
    of_channels = np.repeat(np.arange(together(p)), p.channels // p.groups)
    of_features = np.arange(p.features) // (p.features // p.groups) % together(p)
    return jnp.asarray(of_channels)[:, None] == jnp.asarray(of_features)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    repeated = jnp.concatenate([kernel] * together(p), -2)
    return lax.forward(x, jnp.where(_own(p), repeated, jnp.zeros((), kernel.dtype)), _merged(p))


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    shape = (*p.window, p.channels // p.groups, p.features)
    blocks = lax.kernel_gradient(x, dy, _merged(p))
    own = jnp.where(_own(p), blocks, jnp.zeros((), blocks.dtype))
    return own.reshape(*p.window, together(p), *shape[-2:]).sum(p.rank)


# A channel meets the zeros of other groups' features, where an inf becomes a NaN.
BLOCK_DIAGONAL = Formulation(
    "block_diagonal", forward, kernel_gradient, forward_unsupported, forward_unsupported, sums_directly=False
)
