"""The reading of loose arguments, and the form of every error message.

These functions run first: they convert options to ints, tuples and names, and arrays to JAX arrays. The other modules
rely on that form.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

Array = jax.Array


def argument_error(
    argument: str, rule: str, value: Any, fact: str = "", hint: str = "", kind: type[Exception] = ValueError
) -> Exception:
    """Build the exception for a bad argument in the form of all messages: argument, rule, fact, value, hint."""
    text = f"`{argument}` must {rule}" + (f" for {fact}" if fact else "") + f", got {value!r}."
    return kind(text + (f" {hint}" if hint else ""))


# --- integers: one, or one per axis -------------------------------------------------------------------------------


def is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    """Return whether `value` is a list, a tuple or an array with an axis; strings and mappings are not sequences."""
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


def is_symbolic(value: Any) -> bool:
    """Return whether a value is a symbolic size of `jax.export`."""
    return export.is_symbolic_dim(value)


def to_list(value: Any) -> Any:
    """Convert an array to lists, so that its elements are no arrays, which `jax.jit` would trace; return other values
    unchanged."""
    try:
        return value.tolist() if hasattr(value, "tolist") else value
    except TypeError:
        return value


def tracing_hint(value: Any) -> str:
    """Return a hint if `value` is traced, and so unknown while options are read; otherwise an empty text."""
    traced = "Tracer" in type(value).__name__ or (isinstance(value, (tuple, list)) and any(map(tracing_hint, value)))
    return "It is traced: name it in `static_argnames` of `jax.jit`." if traced else ""


def describe_axes(rank: int) -> str:
    return f"{rank} spatial {'axis' if rank == 1 else 'axes'}"


def read_int(argument: str, value: Any, minimum: int | None = 1, fact: str = "") -> int:
    """Return `value` as an int, checked to be at least `minimum`."""
    rule = "be an int" + ("" if minimum is None else f" >= {minimum}")
    number = as_int(value)
    if number is None:
        raise argument_error(argument, rule, value, fact, tracing_hint(value), TypeError)
    if minimum is not None and number < minimum:
        raise argument_error(argument, rule, value, fact)
    return number


def check_not_empty(argument: str, value: Any) -> None:
    """Check that `value` is not an empty sequence, which would mean no spatial axis."""
    if is_sequence(value) and len(value) == 0:
        raise argument_error(argument, "have a number for at least one spatial axis", value)


MAX_AXIS = 2**31 - 1  # XLA indexes the positions along an axis with 32 bits


def check_axis_sizes(argument: str, sizes: Sequence[int], value: Any, fact: str = "") -> None:
    """Check that XLA can index every axis of the result."""
    if any(is_int(size) and size > MAX_AXIS for size in sizes):
        raise argument_error(argument, "leave fewer than 2**31 positions along every axis", value, fact)


def broadcast_to_rank(argument: str, value: Any, rank: int, minimum: int | None = 1, hint: str = "") -> tuple[int, ...]:
    """Return one int for all axes, or one int per axis, as `rank` ints of at least `minimum`."""
    several = to_list((value,) * rank if is_int(value) else value)
    bound = "" if minimum is None else f" >= {minimum}"
    rule = f"be an int{bound} or one int{bound} per axis"
    if not is_sequence(several) or not all(map(is_int, several)):
        raise argument_error(argument, rule, value, describe_axes(rank), tracing_hint(value) or hint, TypeError)
    numbers = tuple(map(operator.index, several))
    if len(numbers) != rank or (minimum is not None and any(v < minimum for v in numbers)):
        raise argument_error(argument, rule, value, describe_axes(rank), hint)
    return numbers


def broadcast_sizes(argument: str, value: Any, rank: int) -> tuple[Any, ...]:
    """Return one size for all axes, or one per axis, as `rank` ints >= 1 or symbolic sizes of `jax.export`."""
    several = (value,) * rank if is_symbolic(value) else value
    if is_sequence(several) and any(map(is_symbolic, several)) and len(several) == rank:
        others = iter(broadcast_to_rank(argument, (*(1 if is_symbolic(v) else v for v in several),), rank))
        return tuple(v if is_symbolic(v) else size for v, size in zip(several, others))
    return broadcast_to_rank(argument, several, rank)


# --- paddings -----------------------------------------------------------------------------------------------------


PADDING_MODES = ("zeros", "constant", "reflect", "replicate", "circular")


def read_padding(padding: Any, rank: int, named: Sequence[str], argument: str = "padding") -> Any:
    """Return a padding as one of the upper-case names `named`, or as one (before, after) pair per axis."""
    names = f"one of {', '.join(map(repr, named))}, " if named else ""
    rule = f"be {names}an int, or one int or (before, after) pair per axis"
    if isinstance(padding, str):
        if padding.upper() in named:
            return padding.upper()
        raise argument_error(argument, rule, padding, describe_axes(rank))
    if is_int(padding):
        return ((operator.index(padding),) * 2,) * rank
    if not is_sequence(padding):
        raise argument_error(argument, rule, padding, describe_axes(rank), tracing_hint(padding), TypeError)
    pairs = tuple((p, p) if is_int(p) else to_list(p) for p in to_list(padding))
    if not all(is_sequence(p) and all(map(is_int, p)) for p in pairs):
        raise argument_error(argument, rule, padding, describe_axes(rank), tracing_hint(padding), TypeError)
    if len(pairs) != rank or any(len(p) != 2 for p in pairs):
        is_scalar = rank == 1 and len(pairs) == 2 and all(map(is_int, padding))
        raise argument_error(
            argument,
            rule,
            padding,
            describe_axes(rank),
            f"Write ({tuple(padding)},) for one pair." if is_scalar else "",
        )
    return tuple((operator.index(a), operator.index(b)) for a, b in pairs)


def read_modes(padding_mode: Any, rank: int, padding: Any = (), argument: str = "padding_mode") -> tuple[str, ...]:
    """Return one padding mode per axis; the paddings "CIRCULAR" and "REFLECT" imply theirs."""
    rule = f"be one of {', '.join(map(repr, PADDING_MODES))}, or one of them per axis"
    modes = (padding_mode,) * rank if isinstance(padding_mode, str) else padding_mode
    if not is_sequence(modes) or not all(isinstance(m, str) for m in modes):
        raise argument_error(argument, rule, padding_mode, describe_axes(rank), kind=TypeError)
    lower = tuple(m.lower() for m in modes)
    if len(lower) != rank or not set(lower) <= set(PADDING_MODES):
        raise argument_error(argument, rule, padding_mode, describe_axes(rank))
    if padding in ("CIRCULAR", "REFLECT"):
        own = padding.lower()
        if not set(lower) <= {"zeros", own}:
            raise argument_error(argument, f"be 'zeros' or {own!r}", padding_mode, f"padding {padding!r}")
        return (own,) * rank
    return lower


# --- arrays -------------------------------------------------------------------------------------------------------


def as_array(argument: str, x: Any, kind: str = "an array") -> Array:
    """Convert `x` to a JAX array; lists and other objects raise, as in `jax.numpy`."""
    if not isinstance(x, (jax.Array, np.ndarray, np.generic)):
        raise argument_error(argument, f"be {kind}", x, kind=TypeError)
    return jnp.asarray(x)


def check_number_dtype(x: Array, argument: str = "x") -> None:
    if x.dtype == bool:
        raise argument_error(argument, "have a number dtype", x.dtype.name, kind=TypeError)


def check_real_dtype(x: Array, argument: str = "x") -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating) and not jnp.issubdtype(x.dtype, jnp.integer):
        raise argument_error(argument, "have a real number dtype", x.dtype.name, kind=TypeError)


def check_real(argument: str, value: Any) -> None:
    """Check that `value` is a real number, which may be traced."""
    is_scalar = isinstance(value, (int, float, complex, np.generic)) or getattr(value, "shape", None) == ()
    if not is_scalar or isinstance(value, (bool, np.bool_)):
        raise argument_error(argument, "be a number", value, kind=TypeError)
    if jnp.iscomplexobj(value):
        raise argument_error(argument, "be a real number", value, kind=TypeError)


def check_scalar(argument: str, value: Any, x: Array) -> None:
    """Check that `value` is a scalar, and real if `x` is."""
    if not isinstance(value, (bool, int, float, complex, np.generic)) and getattr(value, "shape", None) != ():
        raise argument_error(argument, "be a number", value, kind=TypeError)
    if jnp.iscomplexobj(value) and not jnp.iscomplexobj(x):
        raise argument_error(argument, "be a real number", value, f"`x` of dtype {x.dtype.name}", kind=TypeError)


def check_castable(argument: str, value: Array, dtype: Any, owner: str) -> None:
    """Check that `dtype` can hold `value` without dropping an imaginary part or a fraction."""
    if jnp.iscomplexobj(value) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise argument_error(argument, "be real", value.dtype.name, f"{owner} of dtype {dtype.name}", kind=TypeError)
    if jnp.issubdtype(value.dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.inexact):
        raise argument_error(
            argument, "be integers", value.dtype.name, f"{owner} of dtype {dtype.name}", kind=TypeError
        )


def check_ordered_dtype(x: Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating) and not jnp.issubdtype(x.dtype, jnp.integer) and x.dtype != bool:
        raise argument_error("x", "have an ordered dtype", x.dtype.name, kind=TypeError)


def index_dtype(sizes: Sequence[int], argument: str = "x") -> Any:
    """Return the dtype of flat indices over axes of these sizes."""
    wide = jax.dtypes.canonicalize_dtype(jnp.int64) == jnp.int64
    if not all(map(is_int, sizes)):  # symbolic sizes of `jax.export`, which may be of any value
        return jnp.dtype(jnp.int64 if wide else jnp.int32)
    if math.prod(sizes) <= MAX_AXIS:
        return jnp.dtype(jnp.int32)
    if not wide:
        hint = "Set jax_enable_x64 for indices of 64 bits."
        raise argument_error(argument, "have fewer than 2**31 positions", tuple(sizes), "indices of 32 bits", hint)
    return jnp.dtype(jnp.int64)


def image_rank(x: Array, argument: str) -> int:
    """Return the number of spatial axes that an int stands for: all axes but one batch axis and the channels."""
    if x.ndim < 3:
        raise argument_error("x", "have one batch axis, spatial axes and channels", x.shape, f"an int `{argument}`")
    return x.ndim - 2


def check_image(x: Array, rank: int) -> None:
    if x.ndim < rank + 1:
        raise argument_error(
            "x", f"have at least {rank + 1} axes (*batch, *spatial, channels)", x.shape, describe_axes(rank)
        )


def spatial_shape(x: Array, rank: int) -> tuple[int, ...]:
    return x.shape[x.ndim - 1 - rank : -1]
