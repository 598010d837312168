"""Geometry of windows, named paddings and the form of error messages: integers only, no arrays.

This module reads loose arguments once, into tuples and a frozen `Window`; other modules rely on their form.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import jax

Pair = tuple[int, int]


def argument_error(
    argument: str, rule: str, value: Any, fact: str = "", hint: str = "", kind: type[Exception] = ValueError
) -> Exception:
    """Build the exception for a bad argument in the form of all messages: argument, rule, fact, value, hint."""
    text = f"`{argument}` must {rule}" + (f" for {fact}" if fact else "") + f", got {value!r}."
    return kind(text + (f" {hint}" if hint else ""))


# --- integers: one, or one per axis -------------------------------------------------------------------------------


def is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    """Return whether `value` is a list, a tuple or an array with an axis; texts and mappings are not sequences."""
    if isinstance(value, (str, bytes, dict, set)):
        return False
    return getattr(value, "ndim", 1) > 0 and hasattr(value, "__len__") and hasattr(value, "__iter__")


def as_int(value: Any) -> int | None:
    """Return `value` as an int, or None for anything else: booleans, floats, values that `jax.jit` traces."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def is_int(value: Any) -> bool:
    return as_int(value) is not None


def listed(value: Any) -> Any:
    """Convert an array to lists, so that its elements are no arrays, which `jax.jit` would trace; return all else."""
    try:
        return value.tolist() if hasattr(value, "tolist") else value
    except TypeError:
        return value


def traced(value: Any) -> str:
    """Return a hint if `value` is traced, and so known too late; otherwise an empty text."""
    late = "Tracer" in type(value).__name__ or (isinstance(value, (tuple, list)) and any(map(traced, value)))
    return "It is traced: name it in `static_argnames` of `jax.jit`." if late else ""


def axes(rank: int) -> str:
    return f"{rank} spatial {'axis' if rank == 1 else 'axes'}"


def integer(argument: str, value: Any, minimum: int | None = 1, fact: str = "") -> int:
    """Return `value` as an int, checked to be at least `minimum`."""
    rule = "be an int" + ("" if minimum is None else f" >= {minimum}")
    number = as_int(value)
    if number is None:
        raise argument_error(argument, rule, value, fact, traced(value), TypeError)
    if minimum is not None and number < minimum:
        raise argument_error(argument, rule, value, fact)
    return number


def check_not_empty(argument: str, value: Any) -> None:
    """Check that `value` is not an empty sequence, which would mean no spatial axis."""
    if is_sequence(value) and len(value) == 0:
        raise argument_error(argument, "have a number for at least one spatial axis", value)


MAX_AXIS = 2**31 - 1  # XLA counts the positions along an axis in 32 bits


def check_axis_sizes(argument: str, sizes: Sequence[int], value: Any, fact: str = "") -> None:
    """Check that XLA can index every axis of the result."""
    if any(is_int(size) and size > MAX_AXIS for size in sizes):
        raise argument_error(argument, "leave fewer than 2**31 positions along every axis", value, fact)


def broadcast_to_rank(argument: str, value: Any, rank: int, minimum: int | None = 1, hint: str = "") -> tuple[int, ...]:
    """Return one int for all axes, or one int per axis, as `rank` ints of at least `minimum`."""
    several = listed((value,) * rank if is_int(value) else value)
    bound = "" if minimum is None else f" >= {minimum}"
    rule = f"be an int{bound} or one int{bound} per axis"
    if not is_sequence(several) or not all(map(is_int, several)):
        raise argument_error(argument, rule, value, axes(rank), traced(value) or hint, TypeError)
    numbers = tuple(map(operator.index, several))
    if len(numbers) != rank or (minimum is not None and any(v < minimum for v in numbers)):
        raise argument_error(argument, rule, value, axes(rank), hint)
    return numbers


def at_least_zero(size: Any) -> Any:
    """Return the larger of a size and 0, also of a symbolic size of `jax.export`, which may not tell before it is
    known."""
    return max(size, 0) if is_int(size) else jax.core.max_dim(size, 0)


# --- paddings -----------------------------------------------------------------------------------------------------


def _same(reach: int, stride: int, length: int) -> Pair:
    total = at_least_zero((-(-length // stride) - 1) * stride + reach - length)
    return total // 2, total - total // 2


# How much a named padding pads: (effective size, stride, length) -> (before, after).
NAMED: dict[str, Callable[[int, int, int], Pair]] = {
    "VALID": lambda reach, stride, length: (0, 0),
    "SAME": _same,
    "SAME_LOWER": lambda reach, stride, length: _same(reach, stride, length)[::-1],
    "CAUSAL": lambda reach, stride, length: (reach - 1, 0),
    "FULL": lambda reach, stride, length: (reach - 1, reach - 1),
    "CIRCULAR": lambda reach, stride, length: ((reach - 1) // 2, reach // 2),
    "REFLECT": lambda reach, stride, length: ((reach - 1) // 2, reach // 2),
}
MODES = ("zeros", "constant", "reflect", "replicate", "circular")


def read_padding(padding: Any, rank: int, argument: str = "padding", named: Sequence[str] = tuple(NAMED)):
    """Return a padding as its upper-case name, or as one (before, after) pair per axis."""
    names = f"one of {', '.join(map(repr, named))}, " if named else ""
    rule = f"be {names}an int, or one int or (before, after) pair per axis"
    if isinstance(padding, str):
        if padding.upper() in named:
            return padding.upper()
        raise argument_error(argument, rule, padding, axes(rank))
    if is_int(padding):
        return ((operator.index(padding),) * 2,) * rank
    if not is_sequence(padding):
        raise argument_error(argument, rule, padding, axes(rank), traced(padding), TypeError)
    pairs = tuple((p, p) if is_int(p) else listed(p) for p in listed(padding))
    if not all(is_sequence(p) and all(map(is_int, p)) for p in pairs):
        raise argument_error(argument, rule, padding, axes(rank), traced(padding), TypeError)
    if len(pairs) != rank or any(len(p) != 2 for p in pairs):
        is_scalar = rank == 1 and len(pairs) == 2 and all(map(is_int, padding))
        raise argument_error(
            argument, rule, padding, axes(rank), f"Write ({tuple(padding)},) for one pair." if is_scalar else ""
        )
    return tuple((operator.index(a), operator.index(b)) for a, b in pairs)


def read_modes(
    padding_mode: Any, rank: int, padding: Any = (), argument: str = "padding_mode", value: Any = 0
) -> tuple[str, ...]:
    """Return one padding mode per axis; the paddings "CIRCULAR" and "REFLECT" imply theirs."""
    rule = f"be one of {', '.join(map(repr, MODES))}, or one of them per axis"
    modes = (padding_mode,) * rank if isinstance(padding_mode, str) else padding_mode
    if not is_sequence(modes) or not all(isinstance(m, str) for m in modes):
        raise argument_error(argument, rule, padding_mode, axes(rank), kind=TypeError)
    lower = tuple(m.lower() for m in modes)
    if len(lower) != rank or not set(lower) <= set(MODES):
        raise argument_error(argument, rule, padding_mode, axes(rank))
    if padding in ("CIRCULAR", "REFLECT"):
        own = padding.lower()
        if not set(lower) <= {"zeros", own}:
            raise argument_error(argument, f"be 'zeros' or {own!r}", padding_mode, f"padding {padding!r}")
        return (own,) * rank
    return lower


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
        fix = object.__setattr__
        fix(self, "size", size)
        fix(self, "strides", broadcast_to_rank("strides", self.strides, self.rank))
        fix(self, "padding", read_padding(self.padding, self.rank))
        fix(self, "dilation", broadcast_to_rank("dilation", self.dilation, self.rank))

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
            return tuple(map(NAMED[self.padding], self.effective_size, self.strides, spatial))
        return self.padding

    def pads(self, spatial: Sequence[int]) -> tuple[Pair, ...]:
        """Return the padding before and after each axis, including the overhang of `ceil_mode`."""
        declared, out = self.declared(spatial), self.out(spatial)
        ends = (
            (o - 1) * s + r - n - lo
            for o, s, r, n, (lo, _) in zip(out, self.strides, self.effective_size, spatial, declared)
        )
        return tuple((lo, max(hi, end) if self.ceil_mode else hi) for (lo, hi), end in zip(declared, ends))

    def out(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return the number of positions along each axis, 0 where the window does not fit."""
        return tuple(map(self._positions, spatial, self.declared(spatial), self.effective_size, self.strides))

    def _positions(self, length: int, pad: Pair, effective_size: int, stride: int) -> int:
        positions, span = output_size(length, pad, effective_size, stride), length + sum(pad) - effective_size
        if not self.ceil_mode:
            return positions
        positions = span // stride + 1
        return max(positions + (span % stride > 0 and positions * stride < length + pad[0] + min(pad[1], 0)), 0)

    def checked_output_shape(self, argument: str, spatial: Sequence[int]) -> tuple[int, ...]:
        """Return `out`, checked not to be empty; an error message names `argument`."""
        if 0 in spatial:
            raise argument_error("x", "have no empty spatial axis", tuple(spatial), axes(self.rank))
        out = self.out(spatial)
        if 0 in out:
            rule = f"fit into the padded input (a reach of at most {self._padded(spatial)} with its dilation)"
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
    """Return sizes after `dilation - 1` zeros are put between neighbours."""
    return tuple((n - 1) * d + 1 if n else 0 for n, d in zip(spatial, dilation))


# --- transposed convolution ---------------------------------------------------------------------------------------


def transposed(
    window: Window, spatial: Sequence[int], *, consistent: bool, flipped: bool
) -> tuple[tuple[Pair, int], ...]:
    """Return for each axis ((before, after), length): the convolution that the transposed convolution inverts.

    `before` and `after` are that convolution's pads, `length` is its input size, the natural size of the transposed
    result. Named paddings mean the padding of that convolution, and so do pairs if `consistent`; otherwise pairs pad
    the dilated input, as in `lax.conv_transpose`.
    """
    paddings = (window.padding,) * window.rank if isinstance(window.padding, str) else window.padding
    rows = zip(spatial, window.effective_size, window.strides, paddings)
    return tuple(_transposed(*row, consistent=consistent, flipped=flipped) for row in rows)


def _transposed(n: int, reach: int, stride: int, padding: str | Pair, *, consistent: bool, flipped: bool):
    natural = (n - 1) * stride + reach
    if not isinstance(padding, str):
        lo, hi = padding if consistent else (reach - 1 - padding[0], reach - 1 - padding[1])
        return (lo, hi), natural - lo - hi
    if padding == "VALID":
        return (0, 0), n * stride + max(reach - stride, 0)
    if padding == "CIRCULAR" and not consistent:
        return _flax_circular(n * stride, max(natural, n * stride), flipped), n * stride
    if padding == "CAUSAL" and not consistent:
        return (0, reach - 1), n * stride
    lo, hi = NAMED[padding](reach, stride, n * stride)
    return (lo, hi), natural - lo - hi if padding == "FULL" else n * stride


def _flax_circular(period: int, length: int, flipped: bool) -> Pair:
    """Return the pads of Flax's periodic transposed convolution, which is no adjoint for even kernels."""
    missing = -(length - period) % (2 * period)
    before = missing // 2 if flipped else (missing + 1) // 2
    lo = -before % period
    return lo, length - period - lo


def read_output(output_padding: Any, output_shape: Any, natural: Sequence[int], window: Window) -> tuple[int, ...]:
    """Return the sizes of a transposed result: natural, enlarged by `output_padding`, or given by `output_shape`."""
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
            "output_shape", f"lie between {tuple(natural)} and {most}", output_shape, axes(window.rank)
        )
    return shape
