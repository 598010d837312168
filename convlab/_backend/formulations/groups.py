"""The formulation `groups`: one convolution for each of a few groups.

XLA's fast loop nest on a CPU supports only convolutions without groups.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from ..problem import Kind, Problem
from .base import Array, Formulation, Part, Solve

MAX_GROUPS = 16


def unsupported(p: Problem) -> str | None:
    return None if 1 < p.groups <= MAX_GROUPS else f"groups takes 2 to {MAX_GROUPS} groups"


def _group_problem(p: Problem) -> Problem:
    return dataclasses.replace(p, channels=p.channels // p.groups, features=p.features // p.groups, groups=1)


def parts(kind: Kind, p: Problem) -> list[Part]:
    return [(kind, _group_problem(p))]


def _map_groups(kind: Kind, a: Array, b: Array, p: Problem, solve: Solve) -> Array:
    pairs = zip(jnp.split(a, p.groups, -1), jnp.split(b, p.groups, -1))
    return jnp.concatenate([solve(kind, one, other, _group_problem(p)) for one, other in pairs], -1)


def forward(x: Array, kernel: Array, p: Problem, solve: Solve) -> Array:
    return _map_groups("forward", x, kernel, p, solve)


def kernel_gradient(x: Array, dy: Array, p: Problem, solve: Solve) -> Array:
    return _map_groups("kernel_gradient", x, dy, p, solve)


GROUPS = Formulation("groups", forward, kernel_gradient, unsupported, unsupported, parts)
