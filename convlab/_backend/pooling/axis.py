"""The geometry of a window along one axis, for reductions that need no padded copy of the input.

Forward reductions (`pooling.windows`) go through `runs` of outputs whose windows have the same taps on input; their
transposes go through `reader_runs`, blocks of input positions that the same outputs read.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ..._window import output_size

MAX_RUNS = 4  # more runs take longer to compile than a padded copy takes to compute


@dataclasses.dataclass(frozen=True)
class Axis:
    """Output `o` reads the dilated, padded input at `o * stride + tap * dilation`, for each tap of the window."""

    index: int
    size: int
    window: int
    stride: int
    low: int
    high: int
    base: int
    dilation: int

    @property
    def dilated(self) -> int:
        """Size after base dilation, before padding."""
        return (self.size - 1) * self.base + 1 if self.size else 0

    @property
    def effective_size(self) -> int:
        return (self.window - 1) * self.dilation + 1

    @property
    def out(self) -> int:
        return output_size(self.dilated, (self.low, self.high), self.effective_size, self.stride)

    @property
    def is_trivial(self) -> bool:
        return self.effective_size == self.stride == self.base == 1 and self.low == self.high == 0

    @property
    def tiles(self) -> bool:
        """Whether no position is read twice and no window reads padding."""
        return self.base == 1 and self.stride >= self.effective_size and self.low == 0 and self.high <= 0

    @functools.cached_property
    def on_input(self) -> np.ndarray:
        """A mask (out, window) of the taps of each output that fall on input."""
        position = np.arange(self.out)[:, None] * self.stride + np.arange(self.window) * self.dilation - self.low
        return (position >= 0) & (position < self.dilated) & (position % self.base == 0)

    @property
    def first_on_input(self) -> np.ndarray:
        """The first tap of each output that falls on input; 0 if none does."""
        if self.base > 1:
            return np.argmax(self.on_input, axis=1)
        start = np.arange(self.out) * self.stride - self.low
        first = np.maximum(0, -(start // self.dilation))
        return np.where((first < self.window) & (start + first * self.dilation < self.size), first, 0)

    @functools.cached_property
    def runs(self) -> list[tuple[int, int, tuple[int, ...]]] | None:
        """Runs of outputs with the same taps on input, as (first output, count, taps); None if too many."""
        return None if self.base > 1 else _runs(self.on_input)

    def start(self, output: int, tap: int) -> int:
        """Return the input position of an output's tap, for an axis without base dilation."""
        return output * self.stride + tap * self.dilation - self.low

    @property
    def transposed(self) -> Axis:
        """For an axis of stride 1, the axis that it is the transpose of: its inputs are the other's outputs."""
        low = self.effective_size - 1 - self.low
        high = (self.size - 1) * self.base + self.effective_size - low - self.out
        return dataclasses.replace(self, size=self.out, stride=self.base, base=1, low=low, high=high)

    @property
    def blocks(self) -> int:
        """How many strides cover the dilated input, whose positions are `stride * block + phase`."""
        return -(-self.dilated // self.stride)

    @functools.cached_property
    def readers(self) -> list[tuple[int, np.ndarray]]:
        """The outputs that read a block of the input, as (back, taps).

        Output `block + back` reads position `stride * block + phase` through tap `taps[phase]`; -1 means not at all.
        """
        found = {}
        for back in range((self.low - self.effective_size) // self.stride, (self.low + self.stride) // self.stride + 1):
            offset = np.arange(self.stride) + self.low - back * self.stride
            reads = (offset >= 0) & (offset < self.effective_size) & (offset % self.dilation == 0)
            if reads.any():
                found[back] = np.where(reads, offset // self.dilation, -1)
        return list(found.items())

    @property
    def reader_pads(self) -> tuple[int, int]:
        """The pads of the outputs with which all `readers` exist for every block."""
        backs = [back for back, _ in self.readers]
        return max(0, -min(backs)), max(0, self.blocks + max(backs) - self.out)

    @functools.cached_property
    def reader_runs(self) -> list[tuple[int, int, tuple[int, ...]]] | None:
        """Runs of blocks with the same `readers`, as (first block, count, their indices); None if too many."""
        output = np.arange(self.blocks)[:, None] + [back for back, _ in self.readers]
        return _runs((output >= 0) & (output < self.out))


def _runs(marks: np.ndarray) -> list[tuple[int, int, tuple[int, ...]]] | None:
    """Return the runs of equal rows as (first, count, the columns that are True)."""
    if not marks.size:
        return None if marks.shape[0] else []
    edges = [0, *(np.flatnonzero((marks[1:] != marks[:-1]).any(axis=1)) + 1).tolist(), len(marks)]
    if len(edges) > MAX_RUNS + 1:
        return None
    return [(a, b - a, tuple(np.flatnonzero(marks[a]).tolist())) for a, b in zip(edges, edges[1:])]


def axes_of(shape: Sequence[int], params: dict) -> list[Axis]:
    """Return the axes that a window of lax's parameters changes, first to last."""
    ones = (1,) * len(shape)
    rows = zip(
        shape,
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params.get("base_dilation", ones),
        params.get("window_dilation", ones),
    )
    found = (
        Axis(index=i, size=n, window=w, stride=s, low=lo, high=hi, base=b, dilation=d)
        for i, (n, w, s, (lo, hi), b, d) in enumerate(rows)
    )
    return [axis for axis in found if not axis.is_trivial]
