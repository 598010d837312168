"""The arrays of a model by path, for NNX modules and Linen variables, concrete or abstract."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Leaves:
    """A model taken apart.

    Attributes:
        arrays: by path, or their shapes where the model is abstract.
        rebuild: makes a model like it of other arrays by path; of those left out it keeps its own.
        mirrored: the groups of transposed kernels that are mirrored, by path of the layer, as far as the model tells.
        flattened: the images that its dense layers read, as far as its classes tell.
        rename: what its classes say of old names in state dicts.
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
    """The arrays of a model by path, and what else its loading needs."""
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
    """The paths of all modules in the order of attributes: that of their definition, as long as the model is no copy."""
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
    """Keys for the random streams that an abstract model has none for: dropout then draws as from `nnx.Rngs(0)`."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    flat = dict(nnx.to_flat_state(nnx.state(model, nnx.RngState)))
    made = {}
    for nth, (path, variable) in enumerate(flat.items()):
        shape = variable.get_value()
        if not isinstance(shape, jax.ShapeDtypeStruct):
            continue
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            value = jax.random.fold_in(jax.random.key(0), nth)
            value = value if shape.shape == () else jax.random.split(value, shape.shape)
        else:
            value = jnp.zeros(shape.shape, shape.dtype)
        made[path] = variable.replace(value)
    if made:
        nnx.update(model, nnx.from_flat_state(made))
