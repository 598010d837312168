"""The arrays of a model by path, for NNX modules and Linen variables, concrete or abstract."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Leaves:
    """The leaves of a model and the data that loading needs.

    Attributes:
        arrays: arrays by path, or shapes if the model is abstract.
        rebuild: a function from arrays by path to a model; the model keeps its own arrays for missing paths.
        mirrored: the groups of mirrored transposed kernels, by path of the layer, if the model declares them.
        flattened: the image shapes of its dense layers, if its classes declare them.
        rename: the renaming of old state dict entries, if its classes declare it.
        order: the paths of its layers with arrays, in the order of attributes.
        modules: its NNX modules by path.
    """

    arrays: dict[Path, Any]
    rebuild: Callable[[Mapping[Path, Any]], Any]
    mirrored: dict[str, int]
    flattened: dict[str, Any]
    rename: Callable[[str], str]
    order: list[str]
    modules: dict[str, Any]


def take_apart(model: Any) -> Leaves:
    """Return the leaves of a model and the data that loading needs."""
    return _linen(model) if isinstance(model, Mapping) else _nnx(model)


def _linen(variables: Mapping) -> Leaves:
    from flax import traverse_util

    flat = traverse_util.flatten_dict(variables)
    collections = {path[1:]: path[:1] for path in flat}

    def rebuild(arrays):
        kept = {path[1:]: leaf for path, leaf in flat.items()} | dict(arrays)
        return traverse_util.unflatten_dict({collections[path] + path: leaf for path, leaf in kept.items()})

    arrays = {path[1:]: leaf for path, leaf in flat.items()}
    order = list(dict.fromkeys(".".join(path[:-1]) for path in arrays))
    return Leaves(arrays, rebuild, {}, {}, lambda key: key, order, {})


def _nnx(model: Any) -> Leaves:
    from flax import nnx

    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"`model` must be an nnx.Module or the variables of a Linen module, got {type(model).__name__}."
        )
    flat = dict(nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))))
    paths = {tuple(map(str, path)): path for path in flat}

    def rebuild(arrays):
        filled = nnx.clone(model)
        nnx.update(filled, nnx.from_flat_state({paths[p]: flat[paths[p]].replace(leaf) for p, leaf in arrays.items()}))
        _seed(filled)
        return filled

    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    mirrored = {
        path: getattr(module, "feature_group_count", 1)
        for path, module in modules.items()
        if getattr(module, "transpose_kernel", True) is False
    }
    flattened, renames = {}, []
    for path, module in modules.items():
        for inner, image in getattr(module, "torch_flattened", {}).items():
            flattened[".".join(filter(None, [path, inner]))] = image
        if hasattr(module, "torch_renamed"):
            renames.append(module.torch_renamed)
    arrays = {path: flat[full].get_value() for path, full in paths.items()}
    holding = {".".join(path[:-1]) for path in arrays}
    flattened = {path: image for path, image in flattened.items() if path in holding}
    order = [path for path in _ordered(model) if path in holding]
    return Leaves(arrays, rebuild, mirrored, flattened, _chained(renames), order, modules)


def _chained(renames: list[Callable[[str], str]]) -> Callable[[str], str]:
    def rename(key: str) -> str:
        for one in renames:
            key = one(key)
        return key

    return rename


def _ordered(model: Any) -> list[str]:
    """Return the paths of all modules in order of definition, if the model is not a copy."""
    from flax import nnx

    found, done = [], set()

    def visit(node: Any, path: str) -> None:
        if id(node) in done:
            return
        done.add(id(node))
        found.append(path)
        children = [(name, child) for name, child in vars(node).items() if isinstance(child, nnx.Module)]
        if all(name.isdigit() for name, _ in children):
            children.sort(key=lambda child: int(child[0]))
        for name, child in children:
            visit(child, f"{path}.{name}".lstrip("."))

    visit(model, "")
    return found


def _seed(model: Any) -> None:
    """Initialize the random streams of an abstract model, so that dropout draws as from `nnx.Rngs(0)`."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    flat = dict(nnx.to_flat_state(nnx.state(model, nnx.RngState)))
    initial = {}
    for nth, (path, variable) in enumerate(flat.items()):
        shape = variable.get_value()
        if not isinstance(shape, jax.ShapeDtypeStruct):
            continue
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            value = jax.random.fold_in(jax.random.key(0), nth)
            value = value if shape.shape == () else jax.random.split(value, shape.shape)
        else:
            value = jnp.zeros(shape.shape, shape.dtype)
        initial[path] = variable.replace(value)
    if initial:
        nnx.update(model, nnx.from_flat_state(initial))
