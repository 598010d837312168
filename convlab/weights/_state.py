"""Conversion of state dicts to models and back."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np

from . import _compare, _matching, _recurrent
from ._files import as_numpy
from ._layouts import Layouts
from ._leaves import Leaves, take_apart

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params")
PREFIXES = ("module.", "_orig_mod.")
COUNT = "n_averaged"  # an entry of `torch.optim.swa_utils.AveragedModel` besides its module
OLD_NORM = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
Names = Mapping[str, str] | Callable[[str], str] | str | None


@dataclasses.dataclass(frozen=True)
class Report:
    """The parts of a state dict that `from_torch(..., strict=False)` did not use.

    Attributes:
        missing: entries that the model has and the state dict lacks: these leaves keep the model's numbers.
        unknown: entries of the state dict that the model lacks.
        reshaped: entries of another shape, as texts: these leaves keep the model's numbers too.
        differences: differences between the computations of the PyTorch module and the model.
    """

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{field.name}: {few(getattr(self, field.name))}" for field in dataclasses.fields(self)]
        return "\n".join(line for line in lines if not line.endswith(": ")) or "everything was used"


@overload
def from_torch(
    state_dict: Any,
    model: Any,
    *,
    names: Names = None,
    flattened: Mapping[str, Sequence[int] | None] | None = None,
    mirrored: Mapping[str, int] | None = None,
    leaves: Mapping[str, Any] | None = None,
    strict: Literal[True] = True,
) -> Any: ...


@overload
def from_torch(
    state_dict: Any,
    model: Any,
    *,
    names: Names = None,
    flattened: Mapping[str, Sequence[int] | None] | None = None,
    mirrored: Mapping[str, int] | None = None,
    leaves: Mapping[str, Any] | None = None,
    strict: Literal[False],
) -> tuple[Any, Report]: ...


def from_torch(
    state_dict: Any,
    model: Any,
    *,
    names: Names = None,
    flattened: Mapping[str, Sequence[int] | None] | None = None,
    mirrored: Mapping[str, int] | None = None,
    leaves: Mapping[str, Any] | None = None,
    strict: bool = True,
) -> Any:
    """Fill a model with the parameters and running statistics of a PyTorch state dict.

    Args:
        state_dict: PyTorch's `module.state_dict()`, the same with NumPy arrays, or a checkpoint that contains it, also
            with a wrapper's name before every entry (`module.`, Lightning's `model.`); or the module itself, which is
            also compared with an NNX `model` in properties outside the state dict: epsilon, padding, strides,
            activations.
        model: the model to fill: an `nnx.Module`, or Linen variables `{"params": ..., "batch_stats": ...}`; either may
            be abstract, from `nnx.eval_shape` or `jax.eval_shape`.
        names: a mapping for paths that differ, from a prefix in `model` to the prefix in PyTorch, such as `{"Conv_0":
            "features.0"}`; the longest prefix applies. Or a function from the path of a layer in `model` to PyTorch's
            path, such as `lambda path: path.replace(".layers.", ".")` for `nnx.Sequential`. Or `"by order"`: layers are
            paired in order, every shape is checked, and the pairs are printed (see `match`).
        flattened: for each dense layer after a flatten, by its path in `model`, the flattened shape `(*spatial, c)`;
            None for no reordering. The networks of `convlab.models` declare theirs.
        mirrored: for Linen, for each transposed convolution with `transpose_kernel=False`, by its path in `model`, its
            number of groups. An `nnx.Module` declares it.
        leaves: names and shapes of leaves in PyTorch, by name or whole path in `model`: `{"gamma": "weight"}`, or
            `{"gamma": ("layer_scale", (-1, 1, 1))}` with a shape.
        strict: whether every entry must be used and every leaf be filled.

    Returns:
        A model like `model` with the numbers of `state_dict`, in the dtypes of `model`; `model` itself is unchanged.
        With `strict=False` a pair of that model and a `Report`.

    Raises:
        TypeError: a state dict that is not a mapping, or a model of another library.
        ValueError: entries that are missing, unused or of another shape; a path in an option that `model` does not
            have; a module with another computation.

    Example:
        >>> variables = {"params": {"fc": {"kernel": jnp.zeros((3, 2))}}}
        >>> from_torch({"fc.weight": np.arange(6.0).reshape(2, 3)}, variables)["params"]["fc"]["kernel"].tolist()
        [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]

    `num_batches_tracked` has no counterpart and is ignored. Flax's LSTM and GRU cells take the stacked gates of
    PyTorch; a layer of `torch.nn.LSTM` above the first is `{"cell": "lstm.l1"}` in `names`.
    """
    import jax.numpy as jnp

    module = state_dict if hasattr(state_dict, "named_modules") and hasattr(state_dict, "state_dict") else None
    given = unwrapped(state_dict if module is None else module.state_dict())
    parts = take_apart(model)
    given = {
        parts.rename(_weight_norm(key)): value
        for key, value in given.items()
        if not key.endswith("num_batches_tracked")
    }
    options = dict(mirrored=mirrored, leaves=leaves)
    if names == "by order":
        table = _matching.paired(parts, _shapes(given), options)
        print(table)
        if not table.agrees:
            raise ValueError(_other_order(table))
        names = table.names
    elif isinstance(names, str):
        raise ValueError(f"`names` must be a mapping, a function or 'by order', got {names!r}.")
    both = parts.flattened | dict(flattened or {})
    layouts = Layouts(parts.arrays, names, both, parts.mirrored | dict(mirrored or {}), leaves)
    given = _without_wrapper(given, {layouts.entry(path) for path in parts.arrays}, parts.rename)
    for cell, form in _recurrent.cells(parts.order).items():
        path = tuple(cell.split(".")) if cell else ()
        given = _recurrent.unstacked(given, cell, layouts.module(path), form, layouts.entry, parts.arrays)
    expected = {layouts.entry(path): path for path in parts.arrays}
    missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if strict and (missing or unknown):
        raise ValueError(_unequal(missing, unknown, parts, given, options, names))
    filled, reshaped = {}, []
    for key, path in expected.items():
        if key not in given:
            continue
        leaf = parts.arrays[path]
        array = layouts.array(path, as_numpy(given[key]), tuple(leaf.shape))
        if array.shape == tuple(leaf.shape):
            filled[path] = jnp.asarray(array, leaf.dtype)
        else:
            reshaped.append(f"{path[-1]} {tuple(leaf.shape)} for {key!r}, got {array.shape}")
    if strict and reshaped:
        more = f" {len(reshaped) - 1} more differ." if len(reshaped) > 1 else ""
        raise ValueError(f"`state_dict` must make {reshaped[0]}.{more}")
    _warn_of_flattening(given, expected, parts, both)
    differences = [] if module is None else _compare.differences(module, parts.modules, layouts)
    if strict and differences:
        raise ValueError(f"`model` must compute what `state_dict`'s module does, got {'; '.join(differences)}.")
    result = parts.rebuild(filled)
    return result if strict else (result, Report(tuple(missing), tuple(unknown), tuple(reshaped), tuple(differences)))


def to_torch(
    model: Any,
    *,
    names: Mapping[str, str] | Callable[[str], str] | None = None,
    flattened: Mapping[str, Sequence[int] | None] | None = None,
    mirrored: Mapping[str, int] | None = None,
    leaves: Mapping[str, Any] | None = None,
    tensors: bool = False,
) -> dict[str, Any]:
    """Return the state dict of a model with PyTorch's names and layouts: the exact inverse of `from_torch`.

    Args:
        model, names, flattened, mirrored, leaves: as in `from_torch`.
        tensors: whether to return tensors, for `module.load_state_dict`; this needs PyTorch.

    Returns:
        NumPy arrays, or tensors, by name.

    Raises:
        ValueError: a path in an option that `model` does not have.

    Example:
        >>> to_torch({"params": {"conv": {"kernel": jnp.zeros((3, 3, 8, 16))}}})["conv.weight"].shape
        (16, 8, 3, 3)
    """
    parts = take_apart(model)
    both = parts.flattened | dict(flattened or {})
    layouts = Layouts(parts.arrays, names, both, parts.mirrored | dict(mirrored or {}), leaves)
    state: dict[str, Any] = {}
    for path, leaf in parts.arrays.items():
        state[layouts.entry(path)] = np.ascontiguousarray(layouts.tensor(path, np.asarray(leaf)))
    return _tensors(state, parts) if tensors else state


def _tensors(state: Mapping[str, np.ndarray], parts: Leaves) -> dict[str, Any]:
    """Convert arrays to tensors, with the versions that some PyTorch modules expect."""
    from collections import OrderedDict

    import torch

    entries: Any = OrderedDict()
    for key, array in state.items():
        bits = array.view(np.int16) if array.dtype.name == "bfloat16" else array
        tensor = torch.tensor(np.array(bits))
        entries[key] = tensor.view(torch.bfloat16) if bits is not array else tensor
    entries._metadata = OrderedDict(
        (path, {"version": module.torch_version})
        for path, module in parts.modules.items()
        if hasattr(module, "torch_version")
    )
    return entries


def match(state_dict: Any, model: Any, **options: Any) -> _matching.Table:
    """Pair the layers of a model and of a state dict in order, and compare the shapes of each pair.

    Args:
        state_dict, model, options: as in `from_torch`; of the options only `mirrored` and `leaves` apply.

    Returns:
        A `Table`. It prints one line per pair, marked if shapes differ, or if only the order identifies the pair
        because other layers have the same shapes and the names differ. `agrees` is whether all shapes are equal;
        `names` is an argument for `from_torch`.

    The order of a model is that of its attributes; a copy of a module, or one from `nnx.eval_shape`, has lost it.

    Example:
        >>> print(match({"0.weight": np.zeros((2, 3))}, {"params": {"fc": {"kernel": jnp.zeros((3, 2))}}}))
        model  state dict  shapes
        fc     0           2x3
    """
    given = unwrapped(state_dict.state_dict() if hasattr(state_dict, "named_modules") else state_dict)
    given = {_weight_norm(key): value for key, value in given.items() if not key.endswith("num_batches_tracked")}
    return _matching.paired(take_apart(model), _shapes(given), options)


def unwrapped(state_dict: Any, prefixes: Sequence[str] = PREFIXES) -> dict[str, Any]:
    """Return the state dict inside a checkpoint, without `prefixes`, which wrapper modules add to every name."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"`state_dict` must be a mapping of names to arrays, got {type(state_dict).__name__}.")
    for name in WRAPPERS:
        if isinstance(state_dict.get(name), Mapping):
            return unwrapped(state_dict[name], prefixes)
    state = dict(state_dict)
    names = [str(key) for key in state if key != COUNT]
    for prefix in prefixes:
        if names and all(name.startswith(prefix) for name in names):
            return unwrapped({name.removeprefix(prefix): state[name] for name in names}, prefixes)
    for key, value in state.items():
        if not hasattr(value, "shape") and not isinstance(value, (int, float, list, tuple)):
            raise TypeError(
                f"`state_dict` must be a mapping of names to arrays, got {type(value).__name__} for {key!r}."
            )
    return state


def _without_wrapper(given: dict[str, Any], expected: set[str], rename: Callable[[str], str]) -> dict[str, Any]:
    """Remove the attribute of a wrapper, such as Lightning's `model.`, that every entry begins with, if the model's
    entries are found then and not before."""
    inner = given
    while inner and not inner.keys() & expected:
        first, dots = next(iter(inner)).partition(".")[:2]
        if not dots or any(not key.startswith(f"{first}.") for key in inner):
            return given
        inner = {rename(key.removeprefix(f"{first}.")): value for key, value in inner.items()}
    return inner


def few(names: Sequence[str]) -> str:
    """Return the first of the names and the number of the others."""
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(np.shape(value) if not hasattr(value, "shape") else value.shape) for key, value in state.items()}


def _weight_norm(key: str) -> str:
    """Rename the entries of weight normalization before PyTorch 2.0 to the current names."""
    for old, new in OLD_NORM.items():
        if key.endswith(old) or key == old[1:]:
            return (key.removesuffix(old[1:]) + new[1:]) if key != old[1:] else new[1:]
    return key


def _unequal(missing: list, unknown: list, parts: Leaves, given: dict, options: dict, names: Names) -> str:
    faults = [f"none for {few(missing)}"] * bool(missing) + [f"{few(unknown)} besides"] * bool(unknown)
    said = f"`state_dict` must have the entries of `model` and no other, got {' and '.join(faults)}."
    if len(faults) < 2 or names is not None:
        return said
    table = _matching.paired(parts, _shapes(given), options)
    if not table.agrees:
        return f"{said} Pass `names` where paths differ; `weights.match` shows both sides."
    shown = table.text(_matching.SHOWN)
    return f"{said} In the order of both all shapes fit; if these pairs are right, pass names='by order':\n{shown}"


def _other_order(table: _matching.Table) -> str:
    first = next(row for row in table.rows if not row.agrees)
    position = f"{first.ours or 'nothing'!r} beside {first.theirs or 'nothing'!r}"
    hint = "A copy of a module has lost the order of its attributes: give the model as it was constructed."
    return f"`names` 'by order' must pair layers of equal shapes, got {position}. {hint}"


def _warn_of_flattening(
    given: Mapping[str, Any], expected: Mapping[str, Any], parts: Leaves, said: Mapping[str, Any]
) -> None:
    """Warn of a dense layer after a convolution that reads a multiple of its channels, if no flattened shape was
    given."""
    channels = None
    for key in given:
        path = expected.get(key)
        if path is not None and path[-1] == "scale" and channels:  # a normalization of concatenated channels
            channels = parts.arrays[path].shape[0]
        if path is None or path[-1] != "kernel":
            continue
        *_, inputs, outputs = parts.arrays[path].shape
        module, dense = ".".join(path[:-1]), len(parts.arrays[path].shape) == 2
        if dense and channels and inputs > channels and inputs % channels == 0 and module not in said:
            side = math.isqrt(inputs // channels)
            shape = (side, side, channels) if side * side * channels == inputs else f"(*spatial, {channels})"
            warnings.warn(
                f"`flattened` should say how {module!r} reads the {channels} channels before it: "
                "PyTorch flattens channels before"
                f" positions. Pass flattened={{{module!r}: {shape}}}, "
                "or None for the shape where no order is to be changed.",
                UserWarning,
                stacklevel=3,
            )
        transposed = module in parts.mirrored or getattr(parts.modules.get(module), "transpose_kernel", False)
        channels = None if dense else (inputs if transposed and module not in parts.mirrored else outputs)
