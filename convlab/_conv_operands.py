"""Operands of convolutions: promotion and checks, the window of a kernel, and the bias."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ._arguments import argument_error, as_array, broadcast_to_rank, check_castable, check_number_dtype, read_modes
from ._padding import check_zero_padding
from ._window import Window

Array = jax.Array


def promote_operands(x: Any, kernel: Any) -> tuple[Array, Array]:
    x, kernel = as_array("x", x), as_array("kernel", kernel)
    if kernel.ndim < 2:
        raise argument_error("kernel", "have at least 2 axes (*window, c_in / groups, c_out)", kernel.shape)
    rank = kernel.ndim - 2
    if x.ndim < rank + 1:
        rule = f"have at least {rank + 1} axes (*batch, *spatial, channels)"
        raise argument_error("x", rule, x.shape, f"a kernel of shape {kernel.shape}")
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    check_number_dtype(x)
    return x, kernel


def widen_mixed_bytes(x: Any, kernel: Any, preferred_element_type: Any = None) -> tuple[Any, Any, Any, bool]:
    """Return uint8 with int8 as int16 for a result of int32, and whether the operands are such.

    Strict dtype promotion refuses the mixture."""
    if {str(getattr(a, "dtype", "")) for a in (x, kernel)} != {"int8", "uint8"}:
        return x, kernel, preferred_element_type, False
    result = jnp.int32 if preferred_element_type is None else preferred_element_type
    return jnp.asarray(x, jnp.int16), jnp.asarray(kernel, jnp.int16), result, True


def check_channels(x: Array, kernel: Array, in_channels: int, out_channels: int, groups: int) -> None:
    """Check that x has `in_channels` channels and that both channel counts divide by the number of groups."""
    channels = x.shape[-1]
    for name, number in (("input", channels), ("output", out_channels)):
        if number % groups:
            raise argument_error(
                "feature_group_count", f"divide the {name} channels", groups, f"{number} {name} channels"
            )
    if 0 in (channels, out_channels):
        raise argument_error("kernel", "have input and output channels", kernel.shape, f"{channels} input channels")
    if in_channels != channels:
        first = x.shape[x.ndim - kernel.ndim + 1] if x.ndim >= kernel.ndim else None
        hint = "It looks channels first; convlab's images are channels last." if first == in_channels else ""
        raise argument_error(
            "x", f"have {in_channels} channels on its last axis", x.shape, f"a kernel of shape {kernel.shape}", hint
        )


def add_bias(y: Array, bias: Any, features: int) -> Array:
    if bias is None:
        return y
    bias = as_array("bias", bias)
    if bias.shape != (features,):
        raise argument_error("bias", f"have shape ({features},)", bias.shape, f"{features} output channels")
    check_castable("bias", bias, y.dtype, "a result")
    return y + jnp.expand_dims(bias.astype(y.dtype), range(y.ndim - 1))


def read_window(kernel: Array, strides: Any, padding: Any, kernel_dilation: Any) -> Window:
    rank = kernel.ndim - 2
    strides = broadcast_to_rank("strides", strides, rank)
    return Window(kernel.shape[:-2], strides, padding, broadcast_to_rank("kernel_dilation", kernel_dilation, rank))


def read_dilation_and_modes(
    window: Window, padding: Any, padding_mode: Any, input_dilation: Any
) -> tuple[tuple, tuple]:
    """Return the input dilation and the padding mode of each axis; a dilated input allows zeros only."""
    dilation = broadcast_to_rank("input_dilation", input_dilation, window.rank)
    modes = read_modes(padding_mode, window.rank, window.padding)
    if max(dilation, default=1) > 1:
        check_zero_padding(window, modes, padding, padding_mode, f"input_dilation {input_dilation!r}")
    return dilation, modes
