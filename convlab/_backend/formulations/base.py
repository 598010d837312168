"""The protocol of a formulation, and the slices, pads and sums that several formulations share.

A formulation is the last step of a lowering: `tables` chooses one for a `Problem`, `dispatch` calls it.
"""

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

UNROLLED = 16  # terms of one fused loop; more would only take longer to compile
VECTOR = 16  # floats in a vector register


def _serves(p: Problem) -> str | None:
    return None


def _no_parts(kind: Kind, p: Problem) -> list[Part]:
    return []


@dataclasses.dataclass(frozen=True)
class Formulation:
    """A way to compute a convolution, its kernel gradient, or both.

    `forward(x, kernel, p, solve)` and `kernel_gradient(x, dy, p, solve)` compute the maps that `problem` describes;
    `dispatch` never calls them for an empty problem. A formulation that consists of other convolutions computes them by
    `solve(kind, a, b, problem)`, and lists them in `parts`.
    """

    name: str
    forward: Callable[[Array, Array, Problem, Solve], Array]
    kernel_gradient: Callable[[Array, Array, Problem, Solve], Array] | None = None
    forward_unsupported: Callable[[Problem], str | None] = _serves
    kernel_gradient_unsupported: Callable[[Problem], str | None] = _serves
    parts: Callable[[Kind, Problem], list[Part]] = _no_parts
    sums_directly: bool = True  # each output sums the products of its own window only, so an inf stays in its windows
    needs_engine: bool = False
    # `forward(x, kernel, p, order)` of a kernel whose axes (*window, in, out) are at the positions `order`
    forward_in_order: Callable[[Array, Array, Problem, tuple[int, ...]], Array] | None = None
    splits_batch: bool = False  # it reshapes the batch axis, so it does not support a batch that is split over devices

    def unsupported_reason(self, kind: Kind, p: Problem) -> str | None:
        """Return why it does not support the problem, None if it does."""
        if getattr(self, kind) is None:
            return f"{self.name} has no {kind.replace('_', ' ')}"
        if p.is_highest and not self.sums_directly:
            return f"{self.name} is not direct summation, which precision 'highest' requires"
        return getattr(self, f"{kind}_unsupported")(p)


# --- slices and pads ----------------------------------------------------------------------------------------------


def pad_image(x: Array, p: Problem) -> Array:
    """Apply `input_dilation` and `pads` to `x`."""
    return pad_spatial(x, p.pads, p.input_dilation)


def slice_at(image: Array, start: Sequence, sizes: Sequence[int], strides: Sequence[int]) -> Array:
    """Take a strided slice of the spatial axes, from a start that may be traced."""
    tail = image.shape[1 + len(sizes) :]
    spans = [(size - 1) * s + 1 for size, s in zip(sizes, strides)]
    view = lax.dynamic_slice(image, (0, *start, *(0 for _ in tail)), (image.shape[0], *spans, *tail))
    return lax.slice(view, (0,) * view.ndim, view.shape, (1, *strides, *(1 for _ in tail)))


def slice_for_tap(image: Array, tap: Sequence[int], p: Problem) -> Array:
    """Return the values of the padded image that the kernel element at index `tap` reads: `(n, *out, c)`."""
    return slice_at(image, [t * d for t, d in zip(tap, p.kernel_dilation)], p.out, p.strides)


def kernel_indices(p: Problem) -> Iterator[tuple[int, ...]]:
    """Iterate over the indices of the kernel's elements, last axis fastest."""
    return itertools.product(*map(range, p.window))


def split_groups(a: Array, p: Problem) -> list[Array]:
    """Split `(..., g * i)` into i arrays `(..., g)`, so that the groups fill the vectors."""
    per_group = a.shape[-1] // p.groups
    return [a[..., i::per_group] for i in range(per_group)] if per_group > 1 else [a]


def join_groups(parts: Sequence[Array]) -> Array:
    """Undo `split_groups`."""
    return parts[0] if len(parts) == 1 else jnp.stack(parts, -1).reshape(*parts[0].shape[:-1], -1)


# --- sums ---------------------------------------------------------------------------------------------------------


def sum_over(function: Callable, grid: tuple[int, ...], unrolled: int, *arrays: Array) -> Array:
    """Sum `function(index, *arrays)` over a grid of indices, in blocks and rows, so that no chain of additions is long.

    At most `unrolled` terms become one expression; more become loops. The function is traced once, for all indices.
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

    def sum_terms(at, first, count):
        return functools.reduce(operator.add, (term((*at, first + i)) for i in range(count)))

    def row(r, total):
        at = jnp.unravel_index(r, lead) if len(lead) > 1 else (r,) * len(lead)
        if blocks == 1:
            total += sum_terms(at, 0, UNROLLED)
        elif blocks:
            total += lax.fori_loop(0, blocks, lambda b, part: part + sum_terms(at, b * UNROLLED, UNROLLED), zero)
        return total + sum_terms(at, size - rest, rest) if rest else total

    return lax.fori_loop(0, math.prod(lead), row, zero) if lead else row(0, zero)
