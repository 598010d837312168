"""A window along one axis, and the two ways through it without a padded copy: by runs of outputs, and by what each
input reaches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ..._window import output_size

MOST_RUNS = 4  # more pieces than these take longer to compile than a padded copy to compute


@dataclasses.dataclass(frozen=True)
class Axis:
    """Output `o` sees the dilated, padded input at `o * stride + tap * dilation`, for each tap of the window."""

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
    def trivial(self) -> bool:
        return self.effective_size == self.stride == self.base == 1 and self.low == self.high == 0

    @property
    def tiles(self) -> bool:
        """Whether no place is seen twice and no window is cut."""
        return self.base == 1 and self.stride >= self.effective_size and self.low == 0 and self.high <= 0

    @functools.cached_property
    def on_input(self) -> np.ndarray:
        """(out, window): which taps of each output fall on input."""
        place = np.arange(self.out)[:, None] * self.stride + np.arange(self.window) * self.dilation - self.low
        return (place >= 0) & (place < self.dilated) & (place % self.base == 0)

    @property
    def first_on_input(self) -> np.ndarray:
        """Per output the first tap that is no padding; 0 where all are."""
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
        """The place in the undilated input of an output's tap, without base dilation."""
        return output * self.stride + tap * self.dilation - self.low

    @property
    def transposed(self) -> Axis:
        """The axis whose transpose this one is, if its stride is 1: places of the one are outputs of the other."""
        low = self.effective_size - 1 - self.low
        high = (self.size - 1) * self.base + self.effective_size - low - self.out
        return dataclasses.replace(self, size=self.out, stride=self.base, base=1, low=low, high=high)

    @property
    def blocks(self) -> int:
        """Strides that cover the input: the place `stride * block + phase` of the dilated input."""
        return -(-self.dilated // self.stride)

    @functools.cached_property
    def readers(self) -> list[tuple[int, np.ndarray]]:
        """(back, taps): through `taps[phase]`, -1 for none, the output `block + back` sees the place `stride * block +
        phase`."""
        found = {}
        for back in range((self.low - self.effective_size) // self.stride, (self.low + self.stride) // self.stride + 1):
            offset = np.arange(self.stride) + self.low - back * self.stride
            hit = (offset >= 0) & (offset < self.effective_size) & (offset % self.dilation == 0)
            if hit.any():
                found[back] = np.where(hit, offset // self.dilation, -1)
        return list(found.items())

    @property
    def reader_pads(self) -> tuple[int, int]:
        """The zeros before and after the outputs with which every block is readers alike."""
        backs = [back for back, _ in self.readers]
        return max(0, -min(backs)), max(0, self.blocks + max(backs) - self.out)

    @functools.cached_property
    def reader_runs(self) -> list[tuple[int, int, tuple[int, ...]]] | None:
        """(first block, number, which of `reached` exist) of the runs of blocks that are readers alike; None if too
        many."""
        output = np.arange(self.blocks)[:, None] + [back for back, _ in self.readers]
        return _runs((output >= 0) & (output < self.out))


def _runs(marks: np.ndarray) -> list[tuple[int, int, tuple[int, ...]]] | None:
    """Runs of equal rows: (first, number, the marked columns)."""
    if not marks.size:
        return None if marks.shape[0] else []
    edges = [0, *(np.flatnonzero((marks[1:] != marks[:-1]).any(axis=1)) + 1).tolist(), len(marks)]
    if len(edges) > MOST_RUNS + 1:
        return None
    return [(a, b - a, tuple(np.flatnonzero(marks[a]).tolist())) for a, b in zip(edges, edges[1:])]


def axes_of(shape: Sequence[int], params: dict) -> list[Axis]:
    """The axes on which anything happens, first to last, by the parameters of lax's window primitives."""
    ones = (1,) * len(shape)
    rows = zip(
        shape,
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params.get("base_dilation", ones),
        params.get("window_dilation", ones),
    )
    found = (Axis(i, n, k, s, lo, hi, b, d) for i, (n, k, s, (lo, hi), b, d) in enumerate(rows))
    return [axis for axis in found if not axis.trivial]
