"""Files of arrays: safetensors, and a reader that detects the format."""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

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


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read the arrays of a file, .safetensors or PyTorch's .pth and .pt; the content determines the format.

    Args:
        path: the file.

    Returns:
        NumPy arrays by name; for a PyTorch file the result of `load_torch`.

    Raises:
        ValueError: a file of another format, or a truncated one.
        OSError: no such file.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> save_safetensors({"fc.bias": np.arange(3.0)}, path)
        >>> load(path)["fc.bias"].tolist()
        [0.0, 1.0, 2.0]
    """
    from ._pickles import load_torch

    with open(path, "rb") as file:
        begin = file.read(9)
    is_safetensors = begin[8:9] in (b"{", b" ") and int.from_bytes(begin[:8], "little") < 1 << 40
    if not is_safetensors and begin[:2] != b"PK" and str(os.fspath(path)).endswith(".safetensors"):
        is_safetensors = True  # its name tells what a broken file should be
    return load_safetensors(path) if is_safetensors else load_torch(path)


def load_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the arrays of a safetensors file.

    Args:
        path: the file.

    Returns:
        NumPy arrays by name, read-only views of the file's bytes; for `from_torch`.

    Raises:
        ValueError: a file of another format, or a dtype that NumPy does not have.

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
        entries = json.loads(content[8:start]).items()
        header = {name: _read_entry(entry) for name, entry in entries if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise broken from None
    if start > len(content):
        raise broken
    arrays = {}
    for name, (code, shape, first, last) in header.items():
        if code not in DTYPES:
            raise ValueError(f"`path` must hold dtypes of {', '.join(DTYPES)}, got {code} in {name!r}.")
        chunk, dtype = content[start + first : start + last], np.dtype(DTYPES[code])
        if len(chunk) != math.prod(shape) * dtype.itemsize:
            raise broken
        arrays[name] = np.frombuffer(chunk, dtype).reshape(shape)
    return arrays


def _read_entry(entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Return the dtype's code, the shape, and the ends of an array's bytes."""
    shape = tuple(map(operator.index, entry["shape"]))
    first, last = map(operator.index, entry["data_offsets"])
    if min(first, last, *shape) < 0:
        raise ValueError(entry)
    return str(entry["dtype"]), shape, first, last


def save_safetensors(arrays: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write arrays, such as those of `to_torch`, to a safetensors file.

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
        array = as_numpy(array)
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


def as_numpy(tensor: Any) -> np.ndarray:
    """Convert a PyTorch tensor, or anything that NumPy reads, to an array."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor.numpy()
    import torch  # NumPy has no bfloat16: convert through the bits

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
