"""Convolutions and pools of images and volumes whose spatial axes are split over devices.

Each function takes the place of its namesake in `convlab` inside a `jax.shard_map` over the axes of a mesh, with one
more argument: `axis_names`, for each spatial axis the mesh axis over which it is split, or None. `x` is the device's
part of the image, kernel and bias are whole, and the result is the device's part of the result on one device, with the
same gradients. Devices exchange only the parts that the windows of their neighbours read, by `lax.ppermute`.

    mesh = jax.make_mesh((8,), ("rows",))
    split, whole = jax.P(None, "rows"), jax.P()  # (n, h, w, c) in eight bands

    def network(x, kernel):
        y = jax.nn.relu(sharding.conv(x, kernel, axis_names=("rows", None)))
        return sharding.max_pool(y, 2, 2, axis_names=("rows", None))

    x, kernel = jax.device_put((x, kernel), (jax.NamedSharding(mesh, split), jax.NamedSharding(mesh, whole)))
    y = jax.jit(jax.shard_map(network, mesh=mesh, in_specs=(split, whole), out_specs=split))(x, kernel)

Operations on single positions (activations, dense layers over channels) need no function, and a global average is
`lax.pmean(convlab.global_avg_pool(x), "rows")`. An axis that the devices cannot share evenly, before or after, raises
an error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

import convlab

from .._arguments import argument_error, broadcast_to_rank, read_modes
from ..typing import Ints, Padding, PaddingModes
from ._parts import (
    AxisNames,
    exchange,
    gather,
    read_names,
    views_of,
    whole_output,
)

__all__ = ["avg_pool", "conv", "conv_transpose", "exchange", "lp_pool", "max_pool", "min_pool", "sum_pool"]


def conv(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    axis_names: AxisNames,
    strides: Ints = 1,
    padding: Padding = "SAME",
    padding_mode: PaddingModes = "zeros",
    padding_value: Any = 0,
    kernel_dilation: Ints = 1,
    **options: Any,
) -> Array:
    """Compute `convlab.conv` of an image whose spatial axes are split over devices.

    Args:
        x: `(*batch, *spatial, c_in)`, this device's part.
        kernel, bias: whole, as in `convlab.conv`.
        axis_names: for each spatial axis the mesh axis over which it is split, or None.
        strides, padding, padding_mode, padding_value, kernel_dilation: as in `convlab.conv`, for the whole image.
        options: all other options of `convlab.conv` except `input_dilation`; use `conv_transpose` for it.

    Returns:
        `(*batch, *out, c_out)`, this device's part.

    Raises:
        TypeError, ValueError: as `convlab.conv` for the whole image.
        ValueError: an output that the devices cannot share evenly; "reflect" or "replicate" with windows that reach
            beyond the neighbouring part.

    Example:
        >>> mesh = jax.make_mesh((1,), ("rows",))
        >>> split, whole = jax.P(None, "rows"), jax.P()
        >>> f = functools.partial(conv, axis_names=("rows", None), strides=2)
        >>> f = jax.shard_map(f, mesh=mesh, in_specs=(split, whole), out_specs=split)
        >>> x = jax.device_put(jnp.ones((1, 8, 8, 3)), jax.NamedSharding(mesh, split))
        >>> f(x, jax.device_put(jnp.ones((3, 3, 3, 16)), jax.NamedSharding(mesh, whole))).shape
        (1, 4, 4, 16)
    """
    kernel = jnp.asarray(kernel)
    size = kernel.shape[:-2]
    split = read_names(axis_names, len(size))
    own: dict[str, Any] = dict(padding_mode=padding_mode, padding_value=padding_value, **options)
    whole = functools.partial(
        convlab.conv, kernel=kernel, bias=bias, strides=strides, padding=padding, kernel_dilation=kernel_dilation, **own
    )
    out = whole_output(whole, x, split)
    modes = read_modes(padding_mode, len(size), _upper(padding))
    views = tuple(views_of(x, size, strides, padding, kernel_dilation, split, out))
    part = gather(x, views, modes, padding_value)
    own["padding_mode"] = tuple("zeros" if view.name else mode for view, mode in zip(views, modes))
    if "constant" not in own["padding_mode"]:
        own["padding_value"] = 0
    pads = [view.kept for view in views]
    return convlab.conv(part, kernel, bias, strides=strides, padding=pads, kernel_dilation=kernel_dilation, **own)


def conv_transpose(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    axis_names: AxisNames,
    strides: Ints = 1,
    padding: Padding = "SAME",
    kernel_dilation: Ints = 1,
    output_padding: Ints = 0,
    output_shape: Ints | None = None,
    use_consistent_padding: bool = False,
    **options: Any,
) -> Array:
    """Compute `convlab.conv_transpose` of an image whose spatial axes are split over devices.

    Args:
        x: `(*batch, *spatial, c_in)`, this device's part.
        kernel, bias: whole, as in `convlab.conv_transpose`.
        axis_names: for each spatial axis the mesh axis over which it is split, or None.
        strides, padding, kernel_dilation, output_padding, output_shape, use_consistent_padding: as in
            `convlab.conv_transpose`, for the whole image; an axis that is split must grow by its stride.
        options: every other option of `convlab.conv_transpose` but `padding_mode`.

    Returns:
        `(*batch, *out, c_out)`, this device's part.

    Raises:
        TypeError, ValueError: as `convlab.conv_transpose` for the whole image.
        ValueError: padding "CIRCULAR"; an output that is not `strides` times the input along a split axis.

    Example:
        >>> mesh = jax.make_mesh((1,), ("rows",))
        >>> split, whole = jax.P(None, "rows"), jax.P()
        >>> f = functools.partial(conv_transpose, axis_names=("rows", None), strides=2)
        >>> f = jax.shard_map(f, mesh=mesh, in_specs=(split, whole), out_specs=split)
        >>> x = jax.device_put(jnp.ones((1, 8, 8, 3)), jax.NamedSharding(mesh, split))
        >>> f(x, jax.device_put(jnp.ones((3, 3, 3, 16)), jax.NamedSharding(mesh, whole))).shape
        (1, 16, 16, 16)
    """
    if padding in ("CIRCULAR", "circular") or options.pop("padding_mode", "zeros") != "zeros":
        raise ValueError('`padding` must pad with zeros for a split transposed convolution, got "CIRCULAR" or a mode.')
    kernel = jnp.asarray(kernel)
    rank = kernel.ndim - 2
    split = read_names(axis_names, rank)
    steps = broadcast_to_rank("strides", strides, rank)
    dilations = broadcast_to_rank("kernel_dilation", kernel_dilation, rank)
    own: dict[str, Any] = dict(strides=strides, kernel_dilation=kernel_dilation, **options)
    ends: dict[str, Any] = dict(
        output_padding=output_padding, output_shape=output_shape, use_consistent_padding=use_consistent_padding
    )
    whole = functools.partial(convlab.conv_transpose, kernel=kernel, bias=bias, padding=padding, **own, **ends)
    out = whole_output(whole, x, split)
    pads, first = [], x.ndim - 1 - rank
    for axis, name in enumerate(split):
        length, step = x.shape[first + axis], steps[axis]
        effective_size = (kernel.shape[axis] - 1) * dilations[axis] + 1
        lo, positions = _crop(padding, axis, effective_size, step, out[axis], use_consistent_padding), out[axis]
        if name:
            if positions != (whole_length := length * lax.axis_size(name)) * step:
                rule = f"grow an axis that is split by its stride {step}"
                raise argument_error(
                    "padding", rule, padding, f"spatial axis {axis}, of which it makes {positions} from {whole_length}"
                )
            before, after = max(0, (effective_size - 1 - lo) // step), max(0, -(-lo // step))
            x = exchange(x, first + axis, name, before, after)
            lo, positions, length = lo + before * step, length * step, x.shape[first + axis]
        pads.append((lo, (length - 1) * step + effective_size - lo - positions))
    return convlab.conv_transpose(x, kernel, bias, padding=pads, use_consistent_padding=True, **own)


def max_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    axis_names: AxisNames,
    window_dilation: Ints = 1,
) -> Array:
    """Compute `convlab.max_pool` of an image whose spatial axes are split over devices. Strides default to 1, as in
    Flax.

    Args:
        x: `(*batch, *spatial, c)`, this device's part.
        window_shape, strides, padding, window_dilation: as in `convlab.max_pool`, for the whole image.
        axis_names: for each spatial axis the mesh axis over which it is split, or None.

    Returns:
        `(*batch, *out, c)`, this device's part.

    Raises:
        TypeError, ValueError: as `convlab.max_pool` for the whole image.
        ValueError: an output that the devices cannot share evenly.

    Example:
        >>> mesh = jax.make_mesh((1,), ("rows",))
        >>> split = jax.P(None, "rows")
        >>> f = functools.partial(max_pool, window_shape=2, strides=2, axis_names=("rows", None))
        >>> x = jax.device_put(jnp.ones((1, 8, 8, 3)), jax.NamedSharding(mesh, split))
        >>> jax.shard_map(f, mesh=mesh, in_specs=split, out_specs=split)(x).shape
        (1, 4, 4, 3)
    """
    return _pool(
        convlab.max_pool,
        x,
        window_shape,
        strides,
        padding,
        axis_names=axis_names,
        window_dilation=window_dilation,
        fill=_lowest(x.dtype),
    )


def min_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    axis_names: AxisNames,
    window_dilation: Ints = 1,
) -> Array:
    """Compute `convlab.min_pool` of an image whose spatial axes are split over devices; otherwise as `max_pool`."""
    return _pool(
        convlab.min_pool,
        x,
        window_shape,
        strides,
        padding,
        axis_names=axis_names,
        window_dilation=window_dilation,
        fill=_highest(x.dtype),
    )


def sum_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    axis_names: AxisNames,
    window_dilation: Ints = 1,
) -> Array:
    """Compute `convlab.sum_pool` of an image whose spatial axes are split over devices; otherwise as `max_pool`."""
    return _pool(
        convlab.sum_pool, x, window_shape, strides, padding, axis_names=axis_names, window_dilation=window_dilation
    )


def lp_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    *,
    axis_names: AxisNames,
    norm_type: float = 2.0,
    window_dilation: Ints = 1,
) -> Array:
    """Compute `convlab.lp_pool` of an image whose spatial axes are split over devices; otherwise as `max_pool`."""
    pool = functools.partial(convlab.lp_pool, norm_type=norm_type)
    return _pool(pool, x, window_shape, strides, padding, axis_names=axis_names, window_dilation=window_dilation)


def avg_pool(
    x: Array,
    window_shape: Ints,
    strides: Ints | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
    *,
    axis_names: AxisNames,
    window_dilation: Ints = 1,
) -> Array:
    """Compute `convlab.avg_pool` of an image whose spatial axes are split over devices; otherwise as `max_pool`.

    `count_include_pad` as in `convlab.avg_pool`.
    """
    pool = functools.partial(convlab.avg_pool, count_include_pad=count_include_pad)
    if count_include_pad:
        return _pool(pool, x, window_shape, strides, padding, axis_names=axis_names, window_dilation=window_dilation)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    y = _pool(
        pool, x.astype(dtype), window_shape, strides, padding, axis_names=axis_names, window_dilation=window_dilation
    )
    split, rank = read_names(axis_names, len(axis_names)), len(axis_names)
    out = [y.shape[y.ndim - 1 - rank + axis] * (lax.axis_size(name) if name else 1) for axis, name in enumerate(split)]
    size = broadcast_to_rank("window_shape", window_shape, rank)
    views = views_of(x, size, _steps(strides), padding, window_dilation, split, out)
    for axis, view in enumerate(views):
        if view.name:  # the pool counted the received positions around the image as part of it
            taps = view.start() + jnp.arange(view.out)[:, None] * view.step + jnp.arange(view.taps) * view.dilation
            count = ((taps >= 0) & (taps < view.whole)).sum(1)
            factor = jnp.where(count > 0, view.taps / jnp.maximum(count, 1), 0).astype(dtype)
            y = y * factor.reshape([-1 if a == y.ndim - 1 - rank + axis else 1 for a in range(y.ndim)])
    return y.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else y


def _pool(
    pool: Callable, x: Array, window_shape, strides, padding, *, axis_names, window_dilation, fill: Any = 0
) -> Array:
    rank = len(axis_names)
    split = read_names(axis_names, rank)
    size, steps = broadcast_to_rank("window_shape", window_shape, rank), _steps(strides)
    out = whole_output(lambda x: pool(x, size, steps, padding, window_dilation=window_dilation), x, split)
    modes = read_modes("zeros", rank, _upper(padding))
    views = tuple(views_of(x, size, steps, padding, window_dilation, split, out))
    modes = tuple("constant" if mode == "zeros" and fill != 0 else mode for mode in modes)
    part = gather(x, views, modes, fill)
    if all(view.name for view in views) or padding not in ("CIRCULAR", "REFLECT"):
        return pool(part, size, steps, [view.kept for view in views], window_dilation=window_dilation)
    raise argument_error(
        "padding", "be zeros or numbers", padding, "a pool of which some axes are split and some are not"
    )


def _steps(strides: Any) -> Any:
    return 1 if strides is None else strides


def _upper(padding: Any) -> Any:
    return padding.upper() if isinstance(padding, str) else padding


def _crop(padding: Any, axis: int, effective_size: int, step: int, out: int, consistent: bool) -> int:
    """Return how much `padding` crops from the start of the full transposed result."""
    if not isinstance(padding, str):
        given = padding if hasattr(padding, "__index__") else padding[axis]
        before = given if hasattr(given, "__index__") else given[0]
        return before if consistent else effective_size - 1 - before
    if padding.upper() == "CAUSAL" and not consistent:
        return 0
    return convlab.Window((effective_size,), step, padding).declared((out,))[0][0]


def _lowest(dtype: Any) -> Any:
    return -jnp.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).min


def _highest(dtype: Any) -> Any:
    return jnp.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).max
