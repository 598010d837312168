"""The devices of a run, and the processes that share it: JAX's own runtime and collectives."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .engine import AXIS
from .errors import UserError


class EveryProcessKnows(UserError):
    """An error that all processes detect at the same moment, so that none must notify the others."""


def connect(coordinator: str, process_id: int, num_processes: int) -> None:
    """Make this process one of `num_processes` that train together; call it before any other use of JAX.

    Raises:
        UserError: the others were not found.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=120)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the run at {coordinator}: {str(error).splitlines()[0]}") from error


def mesh(asked: str) -> Mesh | None:
    """Return the mesh of the requested devices, a number or "all"; None for one device.

    Raises:
        UserError: there are fewer devices, or a process would have none.
    """
    there = jax.device_count()
    if jax.process_count() > 1 and asked not in ("all", str(there)):
        raise UserError(f"`--devices` must be all or {there} for {jax.process_count()} processes, got {asked}")
    count = there if asked == "all" else int(asked)
    if count > there:
        raise UserError(f"`--devices` must be at most {there}, the devices that JAX finds here, got {count}")
    return (
        jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
        if count > 1
        else None
    )


def place(tree: Any, mesh: Mesh | None) -> Any:
    """Copy the arrays of `tree` to each device of `mesh`, unsplit."""
    if not mesh:
        return jax.tree.map(jax.numpy.asarray, tree)
    everywhere = NamedSharding(mesh, P())

    def copy(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, everywhere, lambda index: leaf[index])

    return jax.tree.map(copy, tree)


def fetch(tree: Any) -> Any:
    """Return the same tree as NumPy arrays."""
    return jax.tree.map(np.asarray, tree)


def leads() -> bool:
    """Return whether this process is the one that writes files and shows progress."""
    return jax.process_index() == 0


def tell(value: Any = None) -> Any:
    """Return the leader's `value`, JSON-serializable, in every process; all of them must call this at the same point.

    Raises:
        UserError: the leader stopped with an error.
    """
    if jax.process_count() > 1:
        content = np.frombuffer(json.dumps(value).encode(), np.uint8)
        size = int(_broadcast(np.int32(len(content))))
        value = json.loads(_broadcast(np.resize(content, size)).astype(np.uint8).tobytes())
    if isinstance(value, dict) and "stopped" in value and not leads():
        raise UserError(f"the first process has stopped: {value['stopped']}")
    return value


def tell_arrays(tree: Any) -> Any:
    """Return the leader's arrays in every process; the others pass arrays of the same shapes."""
    return _broadcast(tree) if jax.process_count() > 1 else tree


def _broadcast(tree: Any) -> Any:
    from jax.experimental import multihost_utils

    return fetch(multihost_utils.broadcast_one_to_all(tree))


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Let an error that ends the leader inside this context also end the processes that wait for its message."""
    try:
        yield
    except EveryProcessKnows:
        raise
    except BaseException as error:
        tell({"stopped": str(error) or type(error).__name__})
        raise
