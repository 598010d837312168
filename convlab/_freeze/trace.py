"""Programs of functions and modules, as functions of their array arguments."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._backend import compat
from .._backend.fusion.program import Program, from_jaxpr


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Positional and keyword arguments, split into arrays and static values."""

    structure: Any
    static: tuple[tuple[int, Any], ...]
    arrays: tuple[Any, ...]

    @staticmethod
    def of(args: tuple, kwargs: dict[str, Any]) -> Arguments:
        leaves, structure = jax.tree.flatten((args, kwargs))
        static = tuple((i, leaf) for i, leaf in enumerate(leaves) if not _is_array(leaf))
        return Arguments(structure, static, tuple(leaf for leaf in leaves if _is_array(leaf)))

    @property
    def key(self) -> Hashable:
        return self.structure, self.static, tuple(map(_type_of, self.arrays))

    def call(self, function: Callable, arrays: tuple[Any, ...]) -> Any:
        leaves, rest = dict(self.static), iter(arrays)
        total = len(self.static) + len(arrays)
        args, kwargs = jax.tree.unflatten(
            self.structure, [leaves[i] if i in leaves else next(rest) for i in range(total)]
        )
        return function(*args, **kwargs)

    def trace(self, function: Callable) -> tuple[Program, Any]:
        """Return the program of `function` of the arrays, and the structure of its results."""
        closed, shapes = jax.make_jaxpr(lambda *arrays: self.call(function, arrays), return_shape=True)(*self.arrays)
        return from_jaxpr(closed), jax.tree.structure(shapes)


def _type_of(array: Any) -> Any:
    """Return the type of an array, which is also that of a `ShapeDtypeStruct` that describes it."""
    if not isinstance(array, jax.ShapeDtypeStruct):
        return jax.typeof(array)
    return jax.make_jaxpr(lambda x: x)(array).in_avals[0]


def array_types(args: tuple) -> tuple | None:
    """Return the types of the arguments if all of them are JAX's arrays, else None."""
    for arg in args:
        if not isinstance(arg, jax.Array):
            return None
    return tuple(map(jax.typeof, args))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def is_module(model: Any) -> bool:
    """Return whether this is an NNX or Equinox module, which contains its parameters."""
    return _is_nnx(model) or "equinox" in sys.modules and isinstance(model, sys.modules["equinox"].Module)


def _is_nnx(model: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(model, nnx.Module)


def function_of(model: Any) -> Callable:
    """Return a function that calls the module as it is now, without changing its state."""
    if not _is_nnx(model):
        return keep(model)
    nnx = sys.modules["flax.nnx"]
    graph, state = nnx.split(model)
    state = keep(state)
    # The call may write to variables that are created inside the trace.
    return lambda *args, **kwargs: nnx.merge(graph, jax.tree.map(lambda a: a, state))(*args, **kwargs)


def keep(tree: Any) -> Any:
    """Return the tree with arrays that later writes and donations of its own do not change."""
    with compat.ensure_compile_time_eval():
        return jax.tree.map(_keep, tree)


def _keep(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf.copy()
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return leaf
    aliased = isinstance(leaf.dtype, np.dtype) and not leaf.weak_type and leaf.devices() == jnp.zeros(()).devices()
    # The new array has the same memory on the CPU, and JAX then does not donate it.
    return jax.device_put(np.asarray(leaf)) if aliased else jnp.copy(leaf)
