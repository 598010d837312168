"""Exports a trained network to a file for other programs, by the file's suffix, and imports it.

.stablehlo    the whole network, bytes `(n, 28, 28)` to logits `(n, 10)` for any n, on CPU, CUDA and TPU (`jax.export`)
.safetensors  its parameters by Flax's names, `conv1.kernel` and so on
.pt           a PyTorch state dict: `conv1.weight` and so on, as `torch.save` writes it
"""

from __future__ import annotations

import io
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from convlab import weights

from . import engine, model
from .data import SIZE
from .errors import UserError, explained
from .files import write_atomically

PLATFORMS = ("cpu", "cuda", "tpu")
# The shape before the first dense layer, (*spatial, c): PyTorch flattens it channels first.
FLATTENED = {"dense1": (5, 5, 16)}

Logits = Callable[[jax.Array], jax.Array]


def _stablehlo(params: Any) -> bytes:
    apply = model.nnx_network().apply
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("n"), SIZE, SIZE), jnp.uint8)
    program = jax.jit(lambda images: apply(params, engine.normalise(images)))
    return bytes(export.export(program, platforms=PLATFORMS)(images).serialize())


def _from_stablehlo(path: pathlib.Path) -> Logits:
    program = export.deserialize(bytearray(path.read_bytes()))
    if [(*aval.shape[1:], aval.dtype) for aval in program.in_avals] != [(SIZE, SIZE, jnp.uint8)]:
        raise ValueError("its input is not images of 28x28 bytes")
    return jax.jit(program.call)


def _safetensors(params: Any) -> bytes:
    flat = {f"{layer}.{name}": leaf for layer, own in params.items() for name, leaf in own.items()}
    with tempfile.TemporaryDirectory() as folder:
        weights.save_safetensors(flat, path := pathlib.Path(folder) / "model")
        return path.read_bytes()


def _from_safetensors(path: pathlib.Path) -> Logits:
    params: dict[str, dict[str, np.ndarray]] = {}
    for name, leaf in weights.load_safetensors(path).items():
        layer, _, parameter = name.rpartition(".")
        params.setdefault(layer, {})[parameter] = leaf
    return _applied(params)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError("a .pt file needs PyTorch, which is not installed; .safetensors does not") from error
    return torch


def _pt(params: Any) -> bytes:
    torch, file = _torch(), io.BytesIO()
    state = weights.to_torch({"params": params}, flattened=FLATTENED)
    torch.save({name: torch.tensor(array) for name, array in state.items()}, file)
    return file.getvalue()


def _from_pt(path: pathlib.Path) -> Logits:
    state = _torch().load(path, map_location="cpu", weights_only=True)
    like = {"params": jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), _shapes())}
    return _applied(weights.from_torch(state, like, flattened=FLATTENED)["params"])


def _shapes() -> Any:
    return jax.eval_shape(model.nnx_network().init, engine.random_key(0))


def _applied(params: Any) -> Logits:
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, _shapes()):
        raise ValueError("it holds the parameters of another network")
    apply = model.nnx_network().apply
    return jax.jit(lambda images: apply(params, engine.normalise(images)))


FORMATS = {
    ".stablehlo": (_stablehlo, _from_stablehlo),
    ".safetensors": (_safetensors, _from_safetensors),
    ".pt": (_pt, _from_pt),
}


def _format(option: str, path: pathlib.Path) -> tuple[Callable, Callable]:
    if path.suffix not in FORMATS:
        raise UserError(f"`{option}` must end in {', '.join(FORMATS)}, got {path}")
    return FORMATS[path.suffix]


def write(path: pathlib.Path, params: Any) -> None:
    """Write the network in the format of the suffix.

    Raises:
    UserError: an unknown suffix, PyTorch is missing, or the file cannot be written.
    """
    content = _format("FILE", path)[0](params)
    with explained(f"cannot write {path}"):
        write_atomically(path, content)


def read(path: pathlib.Path) -> Logits:
    """Return the network in the file, a function from bytes `(n, 28, 28)` to logits `(n, 10)`.

    Raises:
        UserError: an unknown suffix, or the file is missing, damaged or of another network.
    """
    parse = _format("--model", path)[1]
    with explained(f"cannot read {path}"):
        path.open("rb").close()
    try:
        return parse(path)
    except UserError:
        raise
    except Exception as error:  # the readers of the three formats share no base class
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path} is no readable LeNet: {reason[0][:200]}") from error
