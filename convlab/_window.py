"""The geometry of windows: paddings, effective sizes and numbers of positions, with integers only."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ._arguments import (
    argument_error,
    broadcast_to_rank,
    check_axis_sizes,
    describe_axes,
    is_int,
    is_sequence,
    read_padding,
)

Pair = tuple[int, int]


# --- paddings -----------------------------------------------------------------------------------------------------


def at_least_zero(size: Any) -> Any:
    """Return the larger of a size and 0, also for a symbolic size of `jax.export`, whose sign may be unknown."""
    return larger(size, 0)


def larger(a: Any, b: Any) -> Any:
    """Return the larger of two sizes, also of symbolic ones whose order may be unknown."""
    return max(a, b) if is_int(a) and is_int(b) else jax.core.max_dim(a, b)


def smaller(a: Any, b: Any) -> Any:
    """Return the smaller of two sizes, also of symbolic ones whose order may be unknown."""
    return min(a, b) if is_int(a) and is_int(b) else jax.core.min_dim(a, b)


def _same(effective_size: int, stride: int, length: int) -> Pair:
    total = at_least_zero((-(-length // stride) - 1) * stride + effective_size - length)
    return total // 2, total - total // 2


# How much a named padding pads: (effective size, stride, length) -> (before, after).
NAMED_PADDINGS: dict[str, Callable[[int, int, int], Pair]] = {
    "VALID": lambda effective_size, stride, length: (0, 0),
    "SAME": _same,
    "SAME_LOWER": lambda effective_size, stride, length: _same(effective_size, stride, length)[::-1],
    "CAUSAL": lambda effective_size, stride, length: (effective_size - 1, 0),
    "FULL": lambda effective_size, stride, length: (effective_size - 1, effective_size - 1),
    "CIRCULAR": lambda effective_size, stride, length: ((effective_size - 1) // 2, effective_size // 2),
    "REFLECT": lambda effective_size, stride, length: ((effective_size - 1) // 2, effective_size // 2),
}


# --- the window ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Window:
    """The geometry of a sliding window: its effective size, its padding and its number of positions.

    Args:
        size: taps along each spatial axis; an int is one axis.
        strides: steps between neighbouring positions, one or one per axis.
        padding: "VALID", "SAME", "SAME_LOWER", "CAUSAL", "FULL", "CIRCULAR", "REFLECT", an int, or one int or
            (before, after) pair per axis; negative numbers crop.
        dilation: distance between neighbouring taps, one or one per axis.
        ceil_mode: round the number of positions up, as PyTorch does: the last window may extend beyond the end, but
            starts inside the input or the padding before it.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: a number out of range, a wrong count of numbers, or an unknown name.

    Two windows with the same numbers are equal and hash alike.

    Example:
        >>> w = Window((3, 3), strides=2, padding="SAME", dilation=(1, 2))
        >>> w.effective_size
        (3, 5)
        >>> w.pads((28, 28))
        ((0, 1), (1, 2))
        >>> w.out((28, 28))
        (14, 14)

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", arXiv 1603.07285.
    """

    size: tuple[int, ...]
    strides: Any = 1
    padding: Any = "VALID"
    dilation: Any = 1
    ceil_mode: bool = False

    def __post_init__(self):
        size = broadcast_to_rank("size", self.size, len(self.size) if is_sequence(self.size) else 1)
        set_field = object.__setattr__  # the class is frozen
        set_field(self, "size", size)
        set_field(self, "strides", broadcast_to_rank("strides", self.strides, self.rank))
        set_field(self, "padding", read_padding(self.padding, self.rank, tuple(NAMED_PADDINGS)))
        set_field(self, "dilation", broadcast_to_rank("dilation", self.dilation, self.rank))

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def effective_size(self) -> tuple[int, ...]:
        """Return the extent of the dilated window on the input."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.size, self.dilation))

    def declared(self, spatial: Sequence[int]) -> tuple[Pair, ...]:
        """Return the padding before and after each axis, without the overhang of `ceil_mode`."""
        if isinstance(self.padding, str):
            return tuple(map(NAMED_PADDINGS[self.padding], self.effective_size, self.strides, spatial))
        return self.padding

    def pads(self, spatial: Sequence[int]) -> tuple[Pair, ...]:
        """Return the padding before and after each axis, including the overhang of `ceil_mode`."""
        declared, out = self.declared(spatial), self.out(spatial)
        ends = (
            (o - 1) * s + r - n - lo
            for o, s, r, n, (lo, _) in zip(out, self.strides, self.effective_size, spatial, declared)
        )
        return tuple((lo, larger(hi, end) if self.ceil_mode else hi) for (lo, hi), end in zip(declared, ends))

    def out(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the number of positions along each axis, 0 where the window does not fit."""
        return tuple(map(self._positions, spatial, self.declared(spatial), self.effective_size, self.strides))

    def _positions(self, length: int, pad: Pair, effective_size: int, stride: int) -> int:
        if not self.ceil_mode:
            return output_size(length, pad, effective_size, stride)
        span = length + sum(pad) - effective_size
        last_start = (length + pad[0] + smaller(pad[1], 0) - 1) // stride
        return at_least_zero(larger(span // stride, smaller(-(-span // stride), last_start)) + 1)

    def checked_output_shape(self, argument: str, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return `out`, checked not to be empty; an error message names `argument`."""
        if 0 in spatial:
            raise argument_error("x", "have no empty spatial axis", tuple(spatial), describe_axes(self.rank))
        out = self.out(spatial)
        if 0 in out:
            rule = f"fit into the padded input (an effective size of at most {self._padded(spatial)} with its dilation)"
            raise argument_error(
                argument, rule, self.size, f"spatial shape {tuple(spatial)} and padding {self.padding!r}"
            )
        fact = f"spatial shape {tuple(spatial)} and padding {self.padding!r}"
        check_axis_sizes(argument, (*out, *self._padded(spatial)), self.size, fact)
        return out

    def _padded(self, spatial: Sequence[int]) -> tuple[int, ...]:
        return tuple(at_least_zero(n + lo + hi) for n, (lo, hi) in zip(spatial, self.declared(spatial)))


def output_size(length: int, pads: Pair, effective_size: int, stride: int) -> int:
    """Return the number of positions of a window along an axis, 0 where it does not fit."""
    span = length + sum(pads) - effective_size
    return at_least_zero(span // stride + 1)


def dilate(spatial: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes after `dilation - 1` zeros are inserted between neighbours."""
    return tuple((n - 1) * d + 1 if n else 0 for n, d in zip(spatial, dilation))


# --- transposed convolution ---------------------------------------------------------------------------------------


def transposed_geometry(
    window: Window, spatial: Sequence[int], *, consistent: bool, flipped: bool
) -> tuple[tuple[Pair, int], ...]:
    """Return for each axis ((before, after), length) of the convolution that the transposed convolution inverts.

    `before` and `after` are that convolution's pads, `length` is its input size, the natural size of the transposed
    result. Named paddings mean the padding of that convolution, and so do pairs if `consistent`; otherwise pairs pad
    the dilated input, as in `lax.conv_transpose`.
    """
    paddings = (window.padding,) * window.rank if isinstance(window.padding, str) else window.padding
    rows = zip(spatial, window.effective_size, window.strides, paddings)
    return tuple(_transposed_axis(*row, consistent=consistent, flipped=flipped) for row in rows)


def _transposed_axis(n: int, effective_size: int, stride: int, padding: str | Pair, *, consistent: bool, flipped: bool):
    natural = (n - 1) * stride + effective_size
    if not isinstance(padding, str):
        lo, hi = padding if consistent else (effective_size - 1 - padding[0], effective_size - 1 - padding[1])
        return (lo, hi), natural - lo - hi
    if padding == "VALID":
        return (0, 0), n * stride + max(effective_size - stride, 0)
    if padding == "CIRCULAR" and not consistent:
        return _flax_circular(n * stride, max(natural, n * stride), flipped), n * stride
    if padding == "CAUSAL" and not consistent:
        return (0, effective_size - 1), n * stride
    lo, hi = NAMED_PADDINGS[padding](effective_size, stride, n * stride)
    return (lo, hi), natural - lo - hi if padding == "FULL" else n * stride


def _flax_circular(period: int, length: int, flipped: bool) -> Pair:
    """Return the pads of Flax's periodic transposed convolution, which is not an adjoint for even kernels."""
    missing = -(length - period) % (2 * period)
    before = missing // 2 if flipped else (missing + 1) // 2
    lo = -before % period
    return lo, length - period - lo


def read_output_shape(
    output_padding: Any, output_shape: Any, natural: Sequence[int], window: Window
) -> tuple[int, ...]:
    """Return the spatial shape of a transposed result: natural, enlarged by `output_padding`, or `output_shape`."""
    max_output_padding = tuple(map(max, window.strides, window.dilation))
    extra = broadcast_to_rank("output_padding", output_padding, window.rank, 0)
    if any(e >= s for e, s in zip(extra, max_output_padding)):
        rule = "be smaller than the larger of stride and dilation"
        raise argument_error(
            "output_padding", rule, output_padding, f"strides {window.strides} and dilation {window.dilation}"
        )
    if output_shape is None:
        sizes = tuple(map(operator.add, natural, extra))
        check_axis_sizes("strides", sizes, window.strides, f"a result of shape {sizes}")
        return sizes
    if any(extra):
        raise argument_error(
            "output_padding", "be 0", output_padding, f"output_shape {output_shape!r}", "Give one of the two."
        )
    shape = broadcast_to_rank("output_shape", output_shape, window.rank)
    check_axis_sizes("output_shape", shape, output_shape)
    if not all(n <= size < n + s for size, n, s in zip(shape, natural, max_output_padding)):
        most = tuple(n + s - 1 for n, s in zip(natural, max_output_padding))
        raise argument_error(
            "output_shape", f"lie between {tuple(natural)} and {most}", output_shape, describe_axes(window.rank)
        )
    return shape
