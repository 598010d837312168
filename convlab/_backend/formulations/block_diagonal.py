"""The formulation `block_diagonal`: several small groups become one, with their kernels on the diagonal and zeros
elsewhere.

It is for a TPU's matrix unit, which multiplies 128 channels by 128 features at once even if most of them are zeros or
padding; a group of a few channels would fill a tile of its own. (The block-diagonal form of a grouped convolution: Xie
et al. 2017, arXiv:1611.05431, figure 3.)
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from ..problem import Problem
from . import lax
from .base import Array, Formulation, Solve

WHOLE = 160  # one kernel combines all groups if there are at most so many channels, in or out,
FEW = 4  # or at most so many groups; otherwise it combines at least so many
WIDTH = 32  # least number of channels of a combined kernel


def forward_unsupported(p: Problem) -> str | None:
    return None if p.groups > 1 else "block_diagonal takes groups"


def is_one_kernel(p: Problem) -> bool:
    """Return whether one kernel combines all groups because they are few or small."""
    return p.groups <= FEW or min(p.channels, p.features) <= WHOLE


def groups_per_kernel(p: Problem) -> int:
    """Return how many groups one kernel combines."""
    if is_one_kernel(p):
        return p.groups
    narrow = min(p.channels, p.features) // p.groups
    return next(m for m in range(FEW, p.groups + 1) if p.groups % m == 0 and (m * narrow >= WIDTH or m == p.groups))


def _merged_problem(p: Problem) -> Problem:
    return dataclasses.replace(p, groups=p.groups // groups_per_kernel(p))


def _same_group(p: Problem):
    """Return a mask `(channels of a kernel, features)` of the pairs that belong to the same group."""
    of_channels = np.repeat(np.arange(groups_per_kernel(p)), p.channels // p.groups)
    of_features = np.arange(p.features) // (p.features // p.groups) % groups_per_kernel(p)
    return jnp.asarray(of_channels)[:, None] == jnp.asarray(of_features)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    repeated = jnp.concatenate([kernel] * groups_per_kernel(p), -2)
    return lax.forward(x, jnp.where(_same_group(p), repeated, jnp.zeros((), kernel.dtype)), _merged_problem(p))


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    shape = (*p.window, p.channels // p.groups, p.features)
    blocks = lax.kernel_gradient(x, dy, _merged_problem(p))
    own = jnp.where(_same_group(p), blocks, jnp.zeros((), blocks.dtype))
    return own.reshape(*p.window, groups_per_kernel(p), *shape[-2:]).sum(p.rank)


# A channel is multiplied by the zeros of other groups' features, where an inf becomes a NaN.
BLOCK_DIAGONAL = Formulation(
    "block_diagonal", forward, kernel_gradient, forward_unsupported, forward_unsupported, sums_directly=False
)
