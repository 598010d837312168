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

WHOLE = 160  # channels, in or out, up to which one kernel holds all groups
FEW = 4  # groups, likewise; and the fewest that are put together
WIDTH = 32  # channels that the kernels of several groups have at least


def sums_directly(p: Problem) -> bool:
    """A channel meets the zeros of other groups' features, where an inf becomes a NaN."""
    return False


def unsupported_forward(p: Problem) -> str | None:
    return None if p.groups > 1 else "block_diagonal takes groups"


unsupported_kernel_gradient = unsupported_forward


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
    """(channels of a kernel, features): whether both are of one group. Features stay where they are, along the vectors."""
    of_channels = np.repeat(np.arange(together(p)), p.channels // p.groups)
    of_features = np.arange(p.features) // (p.features // p.groups) % together(p)
    return jnp.asarray(of_channels)[:, None] == jnp.asarray(of_features)


def forward(x, kernel, p: Problem):
    if empty(p) or 0 in p.spatial:
        return jnp.zeros((p.batch, *p.out, p.features), p.out_dtype)
    repeated = jnp.concatenate([kernel] * together(p), -2)
    return lax_direct.convolve(x, jnp.where(_own(p), repeated, jnp.zeros((), kernel.dtype)), _merged(p))


def kernel_gradient(x, dy, p: Problem):
    shape = (*p.window, p.channels // p.groups, p.features)
    if empty(p) or 0 in p.spatial:
        return jnp.zeros(shape, p.out_dtype)
    blocks = lax_direct.convolve_gradient(x, dy, _merged(p))
    own = jnp.where(_own(p), blocks, jnp.zeros((), blocks.dtype))
    return own.reshape(*p.window, together(p), *shape[-2:]).sum(p.rank).astype(p.out_dtype)
