"""The part of a split axis that the windows of one device read, and its exchange between devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

import convlab

from .._arguments import argument_error

AxisNames = Sequence[str | None]


def exchange(x: Array, axis: int, axis_name: str, before: int, after: int, *, wrap: bool = False) -> Array:
    """Extend the device's part by the last `before` positions in front of it and the first `after` positions behind it.

    Args:
        x: the device's part; all devices have parts of one size.
        axis: the array axis that is split over `axis_name`, counted from 0.
        axis_name: a mesh axis of the enclosing `jax.shard_map`.
        before, after: number of positions to receive; they may lie beyond the next device.
        wrap: whether the last device and the first are neighbours; otherwise zeros lie beyond them.

    Returns:
        `x`, longer by `before + after` along `axis`.

    Example:
        >>> mesh = jax.make_mesh((1,), ("i",))
        >>> f = functools.partial(exchange, axis=0, axis_name="i", before=1, after=1, wrap=True)
        >>> x = jax.device_put(jnp.arange(3), jax.NamedSharding(mesh, jax.P("i")))
        >>> jax.shard_map(f, mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P("i"))(x).tolist()
        [2, 0, 1, 2, 0]
    """
    length, devices = x.shape[axis], lax.axis_size(axis_name)

    def received(hop: int, positions: int) -> Array:
        """Return the positions of the device `hop` further down that are nearest to this one."""
        positions = min(positions, length)
        sent = (
            lax.slice_in_dim(x, length - positions, length, axis=axis)
            if hop > 0
            else lax.slice_in_dim(x, 0, positions, axis=axis)
        )
        pairs = [(i, (i + hop) % devices) for i in range(devices) if wrap or 0 <= i + hop < devices]
        return lax.ppermute(sent, axis_name, pairs) if pairs else jnp.zeros_like(sent)

    left = [received(hop, before - (hop - 1) * length) for hop in range(-(-before // length), 0, -1)]
    right = [received(-hop, after - (hop - 1) * length) for hop in range(1, -(-after // length) + 1)]
    return lax.concatenate([*left, x, *right], axis) if left or right else x


class View(NamedTuple):
    """The part of a spatial axis that one device's windows read. An axis that is not split has only `kept`."""

    name: str | None
    kept: tuple[int, int]  # pads that are left to the operation
    taps: int = 0
    step: int = 1
    dilation: int = 1
    pads: tuple[int, int] = (0, 0)  # of the whole axis
    part: int = 0  # positions of the input on a device
    whole: int = 0  # positions of the input on all of them
    out: int = 0  # positions of the output on a device

    @property
    def length(self) -> int:
        """Return the number of positions that the device's windows read, inside the image or around it."""
        return (self.out - 1) * self.step + (self.taps - 1) * self.dilation + 1

    @property
    def firsts(self) -> list[int]:
        """Return the start of each device's windows, relative to its part."""
        drift = self.out * self.step - self.part
        return [device * drift - self.pads[0] for device in range(self.whole // self.part)]

    def start(self) -> Array:
        """Return the start of this device's windows in the whole axis."""
        return lax.axis_index(self.name) * self.out * self.step - self.pads[0]


def views_of(x, size, strides, padding, dilation, split, out) -> Iterator[View]:
    rank = len(split)
    window = convlab.Window(size, strides, padding, dilation)
    first = x.ndim - 1 - rank
    parts = x.shape[first:-1]
    devices = [lax.axis_size(name) if name else 1 for name in split]
    pads = window.pads([n * d for n, d in zip(parts, devices)])
    for axis, name in enumerate(split):
        if not name:
            yield View(None, pads[axis])
            continue
        if out[axis] % devices[axis]:
            rule = f"make an output that {devices[axis]} devices can share evenly"
            fact = f"spatial axis {axis}, of which it makes {out[axis]} from {parts[axis] * devices[axis]}"
            raise argument_error("padding", rule, padding, fact, f'"SAME" with strides that divide {parts[axis]} does.')
        yield View(
            name,
            kept=(0, 0),
            taps=window.size[axis],
            step=window.strides[axis],
            dilation=window.dilation[axis],
            pads=pads[axis],
            part=parts[axis],
            whole=parts[axis] * devices[axis],
            out=out[axis] // devices[axis],
        )


def gather(x: Array, views: Sequence[View], modes: Sequence[str], fill: Any) -> Array:
    """Gather the positions that this device's windows read along every split axis."""
    first = x.ndim - 1 - len(views)
    for axis, (view, mode) in enumerate(zip(views, modes), first):
        if not view.name:
            continue
        if mode not in ("zeros", "constant") and min(view.pads) < 0:
            raise argument_error(
                "padding", f"not crop in mode {mode!r}", view.pads, f"spatial axis {axis - first}, which is split"
            )
        before, after = max(0, -min(view.firsts)), max(0, max(view.firsts) + view.length - view.part)
        edge = _edge(x, axis, view, mode, before, after) if mode in ("reflect", "replicate") else None
        x = exchange(x, axis, view.name, before, after, wrap=mode == "circular")
        if edge is not None:
            x = edge(x)
        elif mode == "constant":
            position = lax.axis_index(view.name) * view.part - before + jnp.arange(x.shape[axis])
            inside = (position >= 0) & (position < view.whole)
            x = jnp.where(
                inside.reshape([-1 if a == axis else 1 for a in range(x.ndim)]), x, jnp.asarray(fill, x.dtype)
            )
        drift = view.out * view.step - view.part
        begin = before - view.pads[0] + (lax.axis_index(view.name) * drift if drift else 0)
        x = lax.dynamic_slice_in_dim(x, begin, view.length, axis)
    return x


def _edge(x: Array, axis: int, view: View, mode: str, before: int, after: int) -> Callable[[Array], Array]:
    """Replace the zeros that the first and the last device receive by padding of the mode."""
    most = view.part - (mode == "reflect")
    if max(before, after) > most:
        fact = f"mode {mode!r} and {view.part} places a device"
        raise argument_error(
            "kernel", f"reach at most {most} places into the neighbouring part", max(before, after), fact
        )
    pads = [(before, after) if a == axis else (0, 0) for a in range(x.ndim)]
    padded = jnp.pad(x, pads, mode="reflect" if mode == "reflect" else "edge")
    position = jnp.arange(padded.shape[axis]).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    device, last = lax.axis_index(view.name), view.whole // view.part - 1
    outside = ((device == 0) & (position < before)) | ((device == last) & (position >= before + view.part))
    return lambda received: jnp.where(outside, padded, received)


# --- reading arguments ----------------------------------------------------------------------------------------------


def read_names(axis_names: AxisNames, rank: int) -> tuple[str | None, ...]:
    if isinstance(axis_names, str) or len(axis_names) != rank:
        raise argument_error("axis_names", "be one mesh axis or None per axis", axis_names, f"{rank} spatial axes")
    return tuple(axis_names)


def whole_output(operation: Callable[[Any], Array], x: Array, split: Sequence[str | None]) -> tuple[int, ...]:
    """Return the spatial shape of the operation's result for the whole image, which checks every argument."""
    first = x.ndim - 1 - len(split)
    whole = [n * (lax.axis_size(name) if name else 1) for n, name in zip(x.shape[first:-1], split)]
    result = jax.eval_shape(operation, jax.ShapeDtypeStruct((*x.shape[:first], *whole, x.shape[-1]), x.dtype))
    return result.shape[first:-1]
