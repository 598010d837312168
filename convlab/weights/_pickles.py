"""A reader of PyTorch's files without PyTorch: it reads tensors and plain containers, and executes nothing.

Since PyTorch 1.6 a file is a zip archive with `data.pkl`, which names storages, and one file of bytes per storage. An
older file consists of five pickles (a magic number, a version, the machine, the object, the names of the storages) and
the bytes of the storages.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Refused(Exception):
    """The error for a file that contains something other than tensors and plain containers."""


class Storage:
    """A flat array that a legacy file stores after its pickles and that is filled later."""

    def __init__(self, dtype: np.dtype, size: int):
        self.values = np.zeros(size, dtype) if size >= 0 else np.zeros(0, dtype)


def tensor(storage: Storage, offset: int, size: Sequence[int], stride: Sequence[int], *rest: Any) -> np.ndarray:
    """Return the tensor view of a storage, checked to lie inside it."""
    size, stride, offset = tuple(map(int, size)), tuple(map(int, stride)), int(offset)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if len(size) != len(stride) or min((offset, *size, *stride), default=0) < 0:
        raise Refused("a tensor of impossible shape")
    if math.prod(size) and last >= len(storage.values):
        raise Refused("a tensor beyond the end of its storage")
    if not math.prod(size):
        return np.zeros(size, storage.values.dtype)
    values = storage.values[offset:]
    return np.lib.stride_tricks.as_strided(values, size, [n * values.itemsize for n in stride], writeable=False)


def parameter(data: Any, *rest: Any) -> Any:
    return data


class Ignored:
    """The stand-in for an object beside the tensors, such as the options of a training program."""

    def __init__(self, *args: Any): ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...


PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): tensor,
    ("torch._utils", "_rebuild_tensor"): tensor,
    ("torch._utils", "_rebuild_parameter"): parameter,
    ("torch.serialization", "_get_layout"): str,
    ("torch", "Size"): tuple,
    ("torch", "device"): lambda *names: None,
} | {("torch", name): np.dtype(dtype) for name, dtype in STORAGES.items()}
# Objects that programs save with the state dict: their options, paths, the best accuracy as a NumPy scalar.
PLAIN |= {
    (module, name): Ignored
    for module, names in {
        "argparse": ("Namespace",),
        "pathlib": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
        "pathlib._local": ("PosixPath", "WindowsPath"),
        "numpy": ("dtype",),
        "numpy.core.multiarray": ("scalar",),
        "numpy._core.multiarray": ("scalar",),
        "_codecs": ("encode",),
        "datetime": ("datetime", "timedelta"),
        "collections": ("defaultdict", "Counter"),
        "builtins": ("set",),
        "__builtin__": ("set",),
    }.items()
    for name in names
}


class Reader(pickle.Unpickler):
    """An unpickler of dictionaries, lists, numbers, texts and tensors that refuses any other name without resolving
    it."""

    def __init__(self, file: Any, storage: Callable[..., Storage], encoding: str = "utf-8"):
        super().__init__(file, encoding=encoding)
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PLAIN:
            raise Refused(f"{module}.{name}")
        return PLAIN[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or (view and view[0] is not None):
            raise Refused("a storage of an unknown form")
        return self.storage(dtype, str(key), int(size))


def load_torch(path: str | os.PathLike) -> dict[str, Any]:
    """Read a file of `torch.save` without PyTorch and without executing anything from it.

    Args:
        path: a .pth or .pt file, in the current format or in the one before PyTorch 1.6.

    Returns:
        The saved object with NumPy arrays instead of tensors: a state dict for `from_torch`, or a checkpoint that
        contains one.

    Raises:
        ValueError: a file of another format, a truncated one, or one with objects other than tensors, numbers, texts,
            lists and dictionaries, such as a whole module: save its `state_dict()`. The options of a training program
            (`argparse.Namespace`), paths, dates and NumPy scalars may be there and are ignored.

    Example:
        >>> import torch, tempfile, os  # doctest: +SKIP
        >>> torch.save(torch.nn.Linear(3, 2).state_dict(), "linear.pth")  # doctest: +SKIP
        >>> load_torch("linear.pth")["weight"].shape  # doctest: +SKIP
        (2, 3)
    """
    name = os.fspath(path)
    try:
        found = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except Refused as refused:
        hint = "Nothing of the file was executed. Save `module.state_dict()`."
        raise ValueError(f"`path` must hold tensors in plain containers, got {refused} in {name!r}. {hint}") from None
    except OSError:
        raise
    except Exception:  # a truncated or damaged pickle can fail in any way
        raise ValueError(f"`path` must be a whole file of PyTorch's, got {name!r}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"`path` must hold a state dict, got {type(found).__name__} in {name!r}.")
    return found


def _read_zip(path: str | os.PathLike) -> Any:
    with zipfile.ZipFile(path) as archive:
        (index,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        folder = index.removesuffix("data.pkl")
        if f"{folder}constants.pkl" in archive.namelist():
            raise Refused("a TorchScript program")
        order = archive.read(f"{folder}byteorder").decode() if f"{folder}byteorder" in archive.namelist() else "little"
        kept: dict[str, Storage] = {}

        def storage(dtype: np.dtype, key: str, size: int) -> Storage:
            if key not in kept:
                content = archive.read(f"{folder}data/{key}")
                filled = Storage(dtype, 0)
                filled.values = np.frombuffer(content, dtype if order == "little" else dtype.newbyteorder(">"), size)
                kept[key] = filled
            return kept[key]

        return Reader(io.BytesIO(archive.read(index)), storage).load()


def _read_legacy(path: str | os.PathLike) -> Any:
    kept: dict[str, Storage] = {}

    def storage(dtype: np.dtype, key: str, size: int) -> Storage:
        if size * dtype.itemsize > whole:
            raise EOFError
        return kept.setdefault(key, Storage(dtype, size))

    with open(path, "rb") as file:
        whole = os.fstat(file.fileno()).st_size
        read = lambda: Reader(file, storage).load()
        if read() != MAGIC:
            raise ValueError
        version, system, found, keys = read(), read(), read(), read()
        if version != 1001 or not system.get("little_endian", True):
            raise ValueError
        for key in keys:
            values = kept[str(key)].values
            (size,) = np.frombuffer(file.read(8), np.int64)
            content = file.read(int(size) * values.itemsize)
            if size != len(values) or len(content) != values.nbytes:
                raise EOFError
            values[...] = np.frombuffer(content, values.dtype)
    return found
