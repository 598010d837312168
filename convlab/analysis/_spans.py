"""Receptive intervals: for each element of an array the input positions it depends on, by spatial axis of the input.

A `Span` holds the exact first and last position for every element; axes without variation have size 1. Positions before
0 and beyond the end stand for padding: intervals continue over the border, which gives the theoretical receptive field
instead of the clipped one. An operation that moves elements (slice, reshape, gather) moves both ends.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

EMPTY = 2**30  # `first` of an interval without positions; `last` is the negative


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
    """The receptive interval of each element: `first` and `last` broadcast against the array.

    Neighbouring elements along `axis` have intervals that are `stride` input positions apart."""

    first: np.ndarray
    last: np.ndarray
    axis: int | None
    stride: Fraction

    @classmethod
    def of(cls, first: np.ndarray, last: np.ndarray, axis: int | None = None, stride: Fraction | int = 0) -> Span:
        """Return a span with size 1 on axes without variation; an unknown `axis` becomes the one along which it
        varies."""
        first, last = squeeze_constant_axes(first), squeeze_constant_axes(last)
        varying = [i for i, sizes in enumerate(zip(first.shape, last.shape)) if max(sizes) > 1]
        if axis is None and len(varying) == 1:
            stride = common_distance(np.moveaxis(first + last, varying[0], 0).reshape(-1))
            axis = varying[0] if stride else None
        return cls(first, last, axis, Fraction(stride))

    @classmethod
    def everything(cls, spans: Sequence[Span], ndim: int) -> Span:
        """Return one interval for all elements, the hull of `spans`."""
        shape = (1,) * ndim
        first, last = min(int(s.first.min()) for s in spans), max(int(s.last.max()) for s in spans)
        return cls(np.full(shape, first), np.full(shape, last), None, Fraction(0))


def common_distance(sums: np.ndarray) -> Fraction:
    """Return the distance of neighbouring intervals from their `first + last`; 0 if it is not constant."""
    for period in range(1, min(len(sums) // 2, 64) + 1):
        steps = sums[period:] - sums[:-period]
        if (steps == steps[0]).all():
            return Fraction(int(steps[0]), 2 * period)
    # windows of uneven size have a constant distance on average
    stride = Fraction(int(sums[-1] - sums[0]), 2 * (len(sums) - 1))
    off = sums - sums[0] - 2 * float(stride) * np.arange(len(sums))
    return stride if abs(off).max() <= 2 else Fraction(0)


def squeeze_constant_axes(ends: np.ndarray) -> np.ndarray:
    """Reduce `ends` to size 1 along the axes on which it is constant."""
    for axis, size in enumerate(ends.shape):
        head = ends.take([0], axis) if size else ends
        if size > 1 and (ends == head).all():
            ends = head
    return ends


def identity(shape: Sequence[int], axis: int) -> Span:
    """Return the span of the input itself along `axis`."""
    positions = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return Span(positions, positions, axis, Fraction(1))


def hull(spans: Sequence[Span]) -> Span:
    """Join spans elementwise; all have the rank of the result."""
    leading = next((s for s in spans if s.axis is not None and s.stride), spans[0])
    first = functools.reduce(np.minimum, (s.first for s in spans))
    last = functools.reduce(np.maximum, (s.last for s in spans))
    joined = Span.of(first, last, leading.axis, leading.stride)
    if leading.axis is None or leading.first.shape[leading.axis] == 1:
        return joined
    still = joined.first.shape[leading.axis] == joined.last.shape[leading.axis] == 1
    return Span(joined.first, joined.last, None, Fraction(0)) if still else joined


def reduce_axes(span: Span, axes: Sequence[int], keep: bool = False) -> Span:
    """Join the intervals of all elements along `axes`, which are dropped unless `keep`."""
    axes = tuple(axes)
    first, last = span.first.min(axes, keepdims=keep), span.last.max(axes, keepdims=keep)
    if span.axis is None or span.axis in axes:
        return Span.of(first, last)
    axis = span.axis - (0 if keep else sum(a < span.axis for a in axes))
    return Span.of(first, last, axis, span.stride)


def move_elements(span: Span, shape: Sequence[int], move: Callable[[np.ndarray], np.ndarray]) -> Span:
    """Return the span of `move(x)` for an `x` of `shape`, where `move` only moves, repeats and drops elements."""
    first, last = (move(np.broadcast_to(ends, shape)) for ends in (span.first, span.last))
    axis, stride = _moved_axis(span, shape, move)
    return Span.of(first, last, axis, stride)


def _moved_axis(span: Span, shape: Sequence[int], move: Callable) -> tuple[int | None, Fraction]:
    """Return the axis to which `move` maps the axis of `span`, and the new stride."""
    if span.axis is None:
        return None, Fraction(0)
    index = np.arange(shape[span.axis]).reshape([-1 if i == span.axis else 1 for i in range(len(shape))])
    result = move(np.broadcast_to(index, shape))
    if shape[span.axis] == 1:
        return (span.axis, span.stride) if result.ndim == len(shape) else (None, Fraction(0))
    taken = squeeze_constant_axes(result)
    varying = [i for i, size in enumerate(taken.shape) if size > 1]
    if len(varying) != 1:
        return None, Fraction(0)
    steps = np.diff(taken.reshape(-1))
    return (varying[0], int(steps[0]) * span.stride) if (steps == steps[0]).all() else (None, Fraction(0))


@dataclasses.dataclass(frozen=True)
class AxisWindow:
    """A window along one axis: output `o` reads the dilated, padded input at `o * stride + tap * dilation`."""

    size: int
    window: int
    stride: int = 1
    low: int = 0
    out: int = 1
    base: int = 1
    dilation: int = 1

    @property
    def trivial(self) -> bool:
        return self.window == self.stride == self.base == 1 and self.low == 0 and self.out == self.size

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return `(out, window)` arrays: the input position that each tap reads, and whether there is one."""
        position = np.arange(self.out)[:, None] * self.stride + np.arange(self.window) * self.dilation - self.low
        return position // self.base, position % self.base == 0

    def real(self) -> int:
        """Return the number of taps, over all outputs, that read the input."""
        index, real = self.positions()
        return int((real & (index >= 0) & (index < self.size)).sum())

    def nominal(self) -> int:
        """Return taps times outputs or, for a dilated input as in transposed convolutions, taps times inputs."""
        return self.window * (self.size if self.base > 1 and self.stride == 1 else self.out)


def apply_window(span: Span, axis: int, window: AxisWindow) -> Span:
    """Return the span of the result of a window along `axis`."""
    still = span.first.shape[axis] == span.last.shape[axis] == 1 and span.axis != axis
    if still or window.trivial:
        return span
    stride = span.stride if span.axis == axis else Fraction(0)
    index, real = window.positions()
    ends = []
    for values, empty, extreme in ((span.first, EMPTY, np.min), (span.last, -EMPTY, np.max)):
        values = np.moveaxis(values, axis, 0)
        values = np.broadcast_to(values, (window.size, *values.shape[1:]))
        bounds = _index_beyond_borders(values, index, stride)
        bounds = np.where(real.reshape(*real.shape, *(1,) * (bounds.ndim - 2)), bounds, empty)
        ends.append(np.moveaxis(extreme(bounds, axis=1), 0, axis))
    first, last = ends
    return Span.of(first, last, span.axis, stride * window.stride / window.base if span.axis == axis else span.stride)


def _index_beyond_borders(values: np.ndarray, index: np.ndarray, stride: Fraction) -> np.ndarray:
    """Index `values`, which continue beyond both borders in steps of `stride`."""
    size, period = len(values), stride.denominator
    before, behind = -(index // period), -((size - 1 - index) // period)
    periods = np.where(index < 0, before, np.where(index >= size, -behind, 0))
    bounds = values[(index + periods * period).clip(0, size - 1)]
    shift = periods.reshape(*periods.shape, *(1,) * (bounds.ndim - 2)) * stride.numerator
    return np.where(abs(bounds) == EMPTY, bounds, bounds - shift)
