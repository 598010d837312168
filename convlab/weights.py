"""Parameters from PyTorch to NNX and Linen and back: state dicts and safetensors files.

The two sides differ in names and in the order of axes, no more; every number is the same. A leaf of a Flax model at the
path `("features", 0, "kernel")` is the entry `"features.0.weight"` of the state dict:

| leaf                 | entry          | its axes there                                                        |
|----------------------|----------------|-----------------------------------------------------------------------|
| `kernel`, dense      | `weight`       | `(out, in)`; after a flatten, `in` counts channels before places      |
| `kernel`, convolution| `weight`       | `(out, in / groups, *window)`                                         |
| `kernel`, transposed | `weight`       | `(in, out / groups, *window)`, mirrored unless `transpose_kernel=True`|
| `scale`, `embedding` | `weight`       | the same                                                              |
| `bias`               | `bias`         | the same                                                              |
| `mean`, `var`        | `running_...`  | the same                                                              |

With `weight_norm=True` the `scale` of a convolution is `parametrizations.weight.original0`, `(out, 1, ...)`, and its `kernel`
`parametrizations.weight.original1`, as `torch.nn.utils.parametrizations.weight_norm` makes them.

A transposed convolution gives PyTorch's numbers with `use_consistent_padding=True`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

ENTRIES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
NORMED = {"kernel": "parametrizations.weight.original1", "scale": "parametrizations.weight.original0"}


# --- state dicts --------------------------------------------------------------------------------------------------


def from_torch(
    state_dict: Mapping[str, Any],
    model: Any,
    *,
    names: Mapping[str, str] | Callable[[str], str] | None = None,
    flattened: Mapping[str, Sequence[int]] | None = None,
    mirrored: Mapping[str, int] | None = None,
) -> Any:
    """A model with the parameters and running statistics of a PyTorch state dict.

    Args:
        state_dict: PyTorch's `module.state_dict()`, or the same with NumPy arrays.
        model: the model to fill: an `nnx.Module`, or Linen variables `{"params": ..., "batch_stats": ...}`.
        names: where the paths of the two differ, from the beginning of one of `model` to that of PyTorch's, such as
            `{"Conv_0": "features.0"}`; the longest beginning counts. Or a function of the path of a layer in `model` that
            gives PyTorch's, such as `lambda path: path.replace(".layers.", ".")` for `nnx.Sequential`.
        flattened: for each dense layer behind a flatten, by its path in `model`, the shape `(*spatial, c)` that was
            flattened.
        mirrored: for Linen, for each transposed convolution with `transpose_kernel=False`, by its path in `model`, the
            number of its groups. An `nnx.Module` says so itself.

    Returns:
        A model like `model` with the numbers of `state_dict`, in the dtypes of `model`; `model` is left as it is.

    Raises:
        TypeError: a state dict that is no mapping, a model of another library.
        ValueError: entries that are missing, left over or of another shape; a path in an option that `model` does not
            have.

    Example:
        >>> variables = {"params": {"fc": {"kernel": jnp.zeros((3, 2))}}}
        >>> from_torch({"fc.weight": np.arange(6.0).reshape(2, 3)}, variables)["params"]["fc"]["kernel"].tolist()
        [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]

    `num_batches_tracked` has no counterpart and is left out.
    """
    import jax.numpy as jnp

    if not isinstance(state_dict, Mapping):
        raise TypeError(f"`state_dict` must be a mapping of names to arrays, got {type(state_dict).__name__}.")
    leaves, rebuild, found = _leaves(model)
    layouts = _Layouts(leaves, names, flattened, found | dict(mirrored or {}))
    expected = {layouts.entry(path): path for path in leaves}
    given = {key: value for key, value in state_dict.items() if not key.endswith("num_batches_tracked")}
    if given.keys() != expected.keys():
        missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
        faults = [f"none for {_few(missing)}"] * bool(missing) + [f"{_few(unknown)} besides"] * bool(unknown)
        hint = " Pass `names` where paths differ." if len(faults) == 2 else ""
        raise ValueError(f"`state_dict` must have the entries of `model` and no other, got {' and '.join(faults)}.{hint}")
    filled = {}
    for key, path in expected.items():
        array = layouts.array(path, _as_numpy(given[key]))
        leaf = leaves[path]
        if array.shape != leaf.shape:
            raise ValueError(f"`state_dict` must make {path[-1]} {leaf.shape} for {key!r}, got {array.shape}.")
        filled[path] = jnp.asarray(array, leaf.dtype)
    return rebuild(filled)


def to_torch(
    model: Any,
    *,
    names: Mapping[str, str] | Callable[[str], str] | None = None,
    flattened: Mapping[str, Sequence[int]] | None = None,
    mirrored: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """The state dict of a model, as PyTorch names and lays out its entries: the inverse of `from_torch`, bit by bit.

    Args:
        model, names, flattened, mirrored: as in `from_torch`.

    Returns:
        NumPy arrays by name; `{k: torch.tensor(v) for k, v in to_torch(model).items()}` is for
        `module.load_state_dict`.

    Raises:
        ValueError: a path in an option that `model` does not have.

    Example:
        >>> to_torch({"params": {"conv": {"kernel": jnp.zeros((3, 3, 8, 16))}}})["conv.weight"].shape
        (16, 8, 3, 3)
    """
    leaves, _, found = _leaves(model)
    layouts = _Layouts(leaves, names, flattened, found | dict(mirrored or {}))
    state = {}
    for path, leaf in leaves.items():
        state[layouts.entry(path)] = np.ascontiguousarray(layouts.tensor(path, np.asarray(leaf)))
    return state


def _leaves(model: Any) -> tuple[dict, Any, dict[str, int]]:
    """The arrays by path, how to make a model of others, and the groups of mirrored kernels as far as it tells."""
    return _linen_leaves(model) if isinstance(model, Mapping) else _nnx_leaves(model)


def _linen_leaves(variables: Mapping) -> tuple[dict, Any, dict[str, int]]:
    from flax import traverse_util

    flat = traverse_util.flatten_dict(variables)
    collections = {path[1:]: path[:1] for path in flat}

    def rebuild(leaves):
        return traverse_util.unflatten_dict({collections[path] + path: leaf for path, leaf in leaves.items()})

    return {path[1:]: leaf for path, leaf in flat.items()}, rebuild, {}


def _nnx_leaves(model: Any) -> tuple[dict, Any, dict[str, int]]:
    from flax import nnx

    if not isinstance(model, nnx.Module):
        raise TypeError(f"`model` must be an nnx.Module or the variables of a Linen module, got {type(model).__name__}.")
    flat = dict(nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))))
    paths = {tuple(map(str, path)): path for path in flat}

    def rebuild(leaves):
        filled = nnx.clone(model)
        nnx.update(filled, nnx.from_flat_state({paths[p]: flat[paths[p]].replace(leaf) for p, leaf in leaves.items()}))
        return filled

    mirrored = {
        ".".join(map(str, path)): getattr(module, "feature_group_count", 1)
        for path, module in nnx.iter_modules(model)
        if getattr(module, "transpose_kernel", True) is False
    }
    return {path: flat[full][...] for path, full in paths.items()}, rebuild, mirrored


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


class _Layouts:
    """Where each leaf is found in a state dict, and in which order of axes."""

    def __init__(self, leaves, names, flattened, mirrored):
        self.rename = names if callable(names) else None
        self.names, self.flattened, self.mirrored = {} if callable(names) else names or {}, flattened or {}, mirrored
        kernels = {path[:-1]: leaf.ndim for path, leaf in leaves.items() if path[-1] == "kernel"}
        self.normed = {module: ndim for module, ndim in kernels.items() if (*module, "scale") in leaves}
        modules = {".".join(path[:-1]) for path in leaves}
        known = {".".join(path[:n]) for path in leaves for n in range(len(path))}
        for option, paths, allowed in (
            ("names", self.names, known),
            ("flattened", self.flattened, modules),
            ("mirrored", self.mirrored, modules),
        ):
            for path in paths:
                if path not in allowed:
                    raise ValueError(f"`{option}` must name paths of `model`, got {path!r}. It has {sorted(modules)}.")

    def entry(self, path: tuple[str, ...]) -> str:
        *module, leaf = path
        if self.rename:
            module = [self.rename(".".join(module))]
        for n in range(len(module), -1, -1):
            begin = ".".join(module[:n])
            if begin in self.names:
                module = [self.names[begin], *module[n:]]
                break
        entry = NORMED.get(leaf) if path[:-1] in self.normed else None
        return ".".join(filter(None, [*module, entry or ENTRIES.get(leaf, leaf)]))

    def array(self, path: tuple[str, ...], entry: np.ndarray) -> np.ndarray:
        """The leaf of an entry of the state dict."""
        if path[-1] == "kernel":
            return self.kernel(path, entry)
        return entry.reshape(-1) if path[-1] == "scale" and path[:-1] in self.normed else entry

    def tensor(self, path: tuple[str, ...], leaf: np.ndarray) -> np.ndarray:
        """The entry of a leaf."""
        if path[-1] == "kernel":
            return self.weight(path, leaf)
        if path[-1] == "scale" and path[:-1] in self.normed:
            return leaf.reshape(-1, *(1,) * (self.normed[path[:-1]] - 1))
        return leaf

    def kernel(self, path: tuple[str, ...], weight: np.ndarray) -> np.ndarray:
        module = ".".join(path[:-1])
        if weight.ndim == 2:
            return _from_channels_first(weight, self.flattened.get(module)).T
        if module in self.mirrored:
            return _mirror(weight, self.mirrored[module])
        return np.moveaxis(weight, (0, 1), (-1, -2))

    def weight(self, path: tuple[str, ...], kernel: np.ndarray) -> np.ndarray:
        module = ".".join(path[:-1])
        if kernel.ndim == 2:
            return _to_channels_first(kernel.T, self.flattened.get(module))
        if module in self.mirrored:
            return _unmirror(kernel, self.mirrored[module])
        return np.moveaxis(kernel, (-1, -2), (0, 1))


def _from_channels_first(weight: np.ndarray, image: Sequence[int] | None) -> np.ndarray:
    """`(out, c * places)` as `(out, places * c)`, for an image `(*spatial, c)`."""
    if image is None:
        return weight
    *spatial, c = _checked(image, weight)
    return np.moveaxis(weight.reshape(-1, c, *spatial), 1, -1).reshape(weight.shape)


def _to_channels_first(weight: np.ndarray, image: Sequence[int] | None) -> np.ndarray:
    if image is None:
        return weight
    return np.moveaxis(weight.reshape(-1, *_checked(image, weight)), -1, 1).reshape(weight.shape)


def _checked(image: Sequence[int], weight: np.ndarray) -> Sequence[int]:
    if math.prod(image) != weight.shape[1]:
        raise ValueError(f"`flattened` must be shapes (*spatial, c) of {weight.shape[1]} numbers, got {tuple(image)}.")
    return image


def _mirror(weight: np.ndarray, groups: int) -> np.ndarray:
    """`(in, out / g, *window)` as `(*window, in / g, out)`, its taps in reverse."""
    window = weight.shape[2:]
    grouped = np.flip(weight, tuple(range(2, weight.ndim))).reshape(groups, -1, *weight.shape[1:])
    return np.moveaxis(grouped, (1, 0, 2), (-3, -2, -1)).reshape(*window, weight.shape[0] // groups, -1)


def _unmirror(kernel: np.ndarray, groups: int) -> np.ndarray:
    *window, seen, made = kernel.shape
    grouped = np.moveaxis(kernel.reshape(*window, seen, groups, made // groups), (-3, -2, -1), (1, 0, 2))
    return np.flip(grouped.reshape(groups * seen, made // groups, *window), tuple(range(2, kernel.ndim)))


def _as_numpy(tensor: Any) -> np.ndarray:
    """A PyTorch tensor, or anything that NumPy reads."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor.numpy()
    import torch  # NumPy has no bfloat16 of its own: by way of the bits

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


# --- safetensors --------------------------------------------------------------------------------------------------

DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "U32": np.uint32,
    "I32": np.int32,
    "F32": np.float32,
    "U64": np.uint64,
    "I64": np.int64,
    "F64": np.float64,
}


def load_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file.

    Args:
        path: the file.

    Returns:
        NumPy arrays by name, read-only views of the file's bytes; for `from_torch`.

    Raises:
        ValueError: a file of another form, or a dtype that NumPy has no name for.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> save_safetensors({"fc.bias": np.arange(3.0)}, path)
        >>> load_safetensors(path)["fc.bias"].tolist()
        [0.0, 1.0, 2.0]

    The format: 8 bytes with the length of a JSON header, the header, the arrays.
    """
    with open(path, "rb") as file:
        content = file.read()
    start = 8 + int.from_bytes(content[:8], "little")
    broken = ValueError(f"`path` must be a whole safetensors file, got {os.fspath(path)!r}.")
    try:
        header = {
            name: (entry["dtype"], entry["shape"], *entry["data_offsets"])
            for name, entry in json.loads(content[8:start]).items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        raise broken from None
    arrays = {}
    for name, (code, shape, first, last) in header.items():
        if code not in DTYPES:
            raise ValueError(f"`path` must hold dtypes of {', '.join(DTYPES)}, got {code} in {name!r}.")
        chunk, dtype = content[start + first : start + last], np.dtype(DTYPES[code])
        if len(chunk) != math.prod(shape) * dtype.itemsize:
            raise broken
        arrays[name] = np.frombuffer(chunk, dtype).reshape(shape)
    return arrays


def save_safetensors(arrays: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Writes arrays, such as those of `to_torch`, to a safetensors file that PyTorch's tools read.

    Args:
        arrays: arrays by name.
        path: the file, which is overwritten.

    Raises:
        ValueError: an array whose dtype the format does not have.

    Example:
        >>> import os, tempfile
        >>> save_safetensors({"fc.bias": np.zeros(3)}, os.path.join(tempfile.mkdtemp(), "model.safetensors"))
    """
    codes = {np.dtype(dtype): code for code, dtype in DTYPES.items()}
    header, chunks, offset = {}, [], 0
    for name, array in arrays.items():
        array = _as_numpy(array)
        if array.dtype not in codes:
            raise ValueError(f"`arrays` must be of dtypes {', '.join(map(str, codes))}, got {array.dtype} in {name!r}.")
        chunk = array.tobytes()
        header[name] = {
            "dtype": codes[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(chunk)],
        }
        chunks.append(chunk)
        offset += len(chunk)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.writelines([len(text).to_bytes(8, "little"), text, *chunks])
