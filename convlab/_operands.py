"""What convolutions share: their operands, brought to one dtype and checked, their window and its border."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ._patches import as_array, check_kept, check_number
from ._window import Window, argument_error, broadcast_to_rank, read_modes

Array = jax.Array


def promoted(x: Any, kernel: Any) -> tuple[Array, Array]:
    x, kernel = as_array("x", x), as_array("kernel", kernel)
    if kernel.ndim < 2:
        raise argument_error("kernel", "have at least 2 axes (*window, c_in / groups, c_out)", kernel.shape)
    rank = kernel.ndim - 2
    if x.ndim < rank + 1:
        rule = f"have at least {rank + 1} axes (*batch, *spatial, channels)"
        raise argument_error("x", rule, x.shape, f"a kernel of shape {kernel.shape}")
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    check_number(x)
    return x, kernel


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


def with_bias(y: Array, bias: Any, features: int) -> Array:
    if bias is None:
        return y
    bias = as_array("bias", bias)
    if bias.shape != (features,):
        raise argument_error("bias", f"have shape ({features},)", bias.shape, f"{features} output channels")
    check_kept("bias", bias, y.dtype, "a result")
    return y + jnp.expand_dims(bias.astype(y.dtype), range(y.ndim - 1))


def as_window(kernel: Array, strides: Any, padding: Any, kernel_dilation: Any) -> Window:
    rank = kernel.ndim - 2
    strides = broadcast_to_rank("strides", strides, rank)
    return Window(kernel.shape[:-2], strides, padding, broadcast_to_rank("kernel_dilation", kernel_dilation, rank))


def read_border(window: Window, padding: Any, padding_mode: Any, input_dilation: Any) -> tuple[tuple, tuple]:
    """Return the input dilation and the padding mode of each axis; a dilated input allows zeros only."""
    dilation = broadcast_to_rank("input_dilation", input_dilation, window.rank)
    modes = read_modes(padding_mode, window.rank, window.padding)
    if max(dilation, default=1) > 1:
        check_zeros(window, modes, padding, padding_mode, f"input_dilation {input_dilation!r}")
    return dilation, modes


def check_zeros(window: Window, modes: tuple[str, ...], padding: Any, padding_mode: Any, fact: str) -> None:
    """Check that the image is padded with zeros only."""
    if set(modes) - {"zeros"}:
        named = window.padding in ("CIRCULAR", "REFLECT")
        argument, value = ("padding", padding) if named else ("padding_mode", padding_mode)
        raise argument_error(argument, "pad with zeros", value, fact)
