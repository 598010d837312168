"""Reductions of long windows that overlap, from those of windows half as long."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from ._patches import has_many_taps
from ._window import Window

# Of windows that overlap less, a copy of every tap takes little memory.
MIN_OVERLAP = 4


def overlap_much(window: Window) -> bool:
    """Return whether a window has many taps, of which most windows read the same."""
    return has_many_taps(window) and math.prod(window.size) > MIN_OVERLAP * math.prod(window.strides)


def reduce_by_halves(state: Any, first: int, window: Window, combine: Callable[[Any, Any], Any]) -> Any:
    """Reduce windows without padding along the axes from `first` on; `state` are arrays for each position."""
    for axis, geometry in enumerate(zip(window.size, window.strides, window.dilation), first):
        state = reduce_axis(state, axis, *geometry, combine)
    return state


def reduce_axis(
    state: Any, axis: int, taps: int, stride: int, dilation: int, combine: Callable[[Any, Any], Any]
) -> Any:
    """Reduce windows along an axis: about `2 * log2(taps)` steps, each of the size of the image.

    `combine(one, other)` reduces the states of two windows, of which the first begins before the other; it is
    associative, and no tap is in both.
    """

    def part(state: Any, start: int, length: Any, step: int = 1) -> Any:
        return jax.tree.map(lambda a: lax.slice_in_dim(a, start, start + (length - 1) * step + 1, step, axis), state)

    n = jax.tree.leaves(state)[0].shape[axis]
    out = n - (taps - 1) * dilation
    # windows of `width` taps; `done` taps are reduced already, to `whole`
    block, width, whole, done = state, 1, state, 0
    while done < taps:
        if taps & width:
            length = out + (taps - done - width) * dilation
            here = part(block, done * dilation, length)
            whole = combine(part(whole, 0, length), here) if done else here
            done += width
        if done < taps:
            length = n - (2 * width - 1) * dilation
            block = combine(part(block, 0, length), part(block, width * dilation, length))
            width *= 2
    return part(whole, 0, (out - 1) // stride + 1, stride)
