"""What a formulation is, and the slicing and padding that several of them share."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ..buffers import pad_spatial
from ..problem import Kind, Problem

Array = jax.Array
Solve = Callable[[Kind, Array, Array, Problem], Array]
Part = tuple[Kind, Problem]

# Terms of one fused loop. More would only compile longer; their own sum keeps the accumulators' chains short.
UNROLLED = 16
VECTOR = 16  # floats of a vector register


def _serves(p: Problem) -> str | None:
    return None


def _no_parts(kind: Kind, p: Problem) -> list[Part]:
    return []


@dataclasses.dataclass(frozen=True)
class Formulation:
    """A way to compute a convolution, its kernel gradient, or both.

    `forward(x, kernel, p, solve)` and `kernel_gradient(x, dy, p, solve)` compute the maps of `problem`; neither is ever
    asked for an empty one. A formulation that is made of other convolutions asks `solve(kind, a, b, problem)` for them,
    and lists them in `parts`.
    """

    name: str
    forward: Callable[[Array, Array, Problem, Solve], Array]
    kernel_gradient: Callable[[Array, Array, Problem, Solve], Array] | None = None
    forward_unsupported: Callable[[Problem], str | None] = _serves
    kernel_gradient_unsupported: Callable[[Problem], str | None] = _serves
    parts: Callable[[Kind, Problem], list[Part]] = _no_parts
    sums_directly: bool = True  # so that an inf stays in the windows that hold it
    needs_engine: bool = False
    splits_batch: bool = False  # which must not be, where the batch is split over devices already

    def unsupported_reason(self, kind: Kind, p: Problem) -> str | None:
        """Why it cannot serve the problem, None if it can."""
        if getattr(self, kind) is None:
            return f"{self.name} has no {kind.replace('_', ' ')}"
        if p.is_highest and not self.sums_directly:
            return f"{self.name} is not direct summation, as precision 'highest' asks"
        return getattr(self, f"{kind}_unsupported")(p)


# --- slices and pads ----------------------------------------------------------------------------------------------


def padded(x: Array, p: Problem) -> Array:
    """`x` after `input_dilation` and `pads`."""
    return pad_spatial(x, p.pads, p.input_dilation)


def slice_at(image: Array, start: Sequence, sizes: Sequence[int], strides: Sequence[int]) -> Array:
    """A strided slice of the spatial axes, at a position that a loop may compute."""
    tail = image.shape[1 + len(sizes) :]
    spans = [(size - 1) * s + 1 for size, s in zip(sizes, strides)]
    view = lax.dynamic_slice(image, (0, *start, *(0 for _ in tail)), (image.shape[0], *spans, *tail))
    return lax.slice(view, (0,) * view.ndim, view.shape, (1, *strides, *(1 for _ in tail)))


def shifted(image: Array, tap: Sequence[int], p: Problem) -> Array:
    """What the kernel element at index `tap` reads of the padded image: `(n, *out, c)`."""
    return slice_at(image, [t * d for t, d in zip(tap, p.kernel_dilation)], p.out, p.strides)


def kernel_indices(p: Problem) -> Iterator[tuple[int, ...]]:
    """The indices of the kernel's elements, last axis fastest."""
    return itertools.product(*map(range, p.window))


def split_groups(a: Array, p: Problem) -> list[Array]:
    """`(..., g * i)` as i arrays `(..., g)`: the groups lie along the vector."""
    per_group = a.shape[-1] // p.groups
    return [a[..., i::per_group] for i in range(per_group)] if per_group > 1 else [a]


def join_groups(parts: Sequence[Array]) -> Array:
    """The inverse of `split_groups`."""
    return parts[0] if len(parts) == 1 else jnp.stack(parts, -1).reshape(*parts[0].shape[:-1], -1)


# --- sums ----------- ---------------------------------------------------------------------------------------------


def sum_over(function: Callable, grid: tuple[int, ...], unrolled: int, *arrays: Array) -> Array:
    """The sum of `function(index, *arrays)` over a grid: blocks into rows, rows into the whole, so that no chain of
    additions is long.

    The function is traced once for all its indices, which are static nowhere.
    """
    call = jax.jit(function)

    def term(index: Sequence) -> Array:
        return call(tuple(index), *arrays)

    if math.prod(grid) <= unrolled:
        return functools.reduce(operator.add, map(term, itertools.product(*map(range, grid))))
    *lead, size = grid
    blocks, rest = divmod(size, UNROLLED)
    first = jax.eval_shape(term, (0,) * len(grid))
    zero = jnp.zeros(first.shape, first.dtype)

    def some(at, first, count):
        return functools.reduce(operator.add, (term((*at, first + i)) for i in range(count)))

    def row(r, total):
        at = jnp.unravel_index(r, lead) if len(lead) > 1 else (r,) * len(lead)
        if blocks == 1:
            total += some(at, 0, UNROLLED)
        elif blocks:
            total += lax.fori_loop(0, blocks, lambda b, part: part + some(at, b * UNROLLED, UNROLLED), zero)
        return total + some(at, size - rest, rest) if rest else total

    return lax.fori_loop(0, math.prod(lead), row, zero) if lead else row(0, zero)
