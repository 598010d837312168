"""LSTM and GRU cells of Flax from the stacked gates of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._files import as_numpy

# The layers of a cell that read the input, those that read the state, in PyTorch's order of gates, and which of the
# latter have a bias.
LSTM = [("ii", "hi"), ("if_", "hf"), ("ig", "hg"), ("io", "ho")], {"hi", "hf", "hg", "ho"}
LINEN_LSTM = [("ii", "hi"), ("if", "hf"), ("ig", "hg"), ("io", "ho")], {"hi", "hf", "hg", "ho"}
LINEN_GRU = [("ir", "hr"), ("iz", "hz"), ("in", "hn")], {"ir", "iz", "in", "hn"}
STACKED = [("dense_i", "dense_h")]


def cells(order: list[str]) -> dict[str, tuple[list, Any]]:
    """Return the recurrent cells of a model: the path of each, and the layers of its gates."""
    children: dict[str, set[str]] = {}
    for path in order:
        parent, _, name = path.rpartition(".")
        children.setdefault(parent, set()).add(name)
    found: dict[str, tuple[list, Any]] = {}
    for parent, names in children.items():
        for gates, biased in (LSTM, LINEN_LSTM, LINEN_GRU):
            if names == {name for gate in gates for name in gate}:
                found[parent] = gates, biased
        if names == {"dense_i", "dense_h"}:
            found[parent] = STACKED, None
    return found


def unstacked(
    state: Mapping[str, Any], cell: str, theirs: str, form: tuple[list, Any], entry: Any, leaves: Any
) -> dict[str, Any]:
    """Split the stacked entries of a cell into those of the layers of its gates.

    Args:
        cell, theirs: the path of the cell in the model and in PyTorch, there with `.l0`, `.l1_reverse` and so on for
            the layers of `torch.nn.LSTM` and `torch.nn.GRU` above the first.
        form: the layers of the gates, as `cells` returns them.
        entry: a function from the path of a leaf to the name of its entry.
        leaves: the leaves of the model, by path.
    """
    gates, biased = form
    stem, _, layer = theirs.rpartition(".")
    numbered = layer[:1] == "l" and layer[1:2].isdigit()
    stem = stem if numbered else theirs
    begin = f"{stem}." if stem else ""
    for suffix in (f"_{layer}",) if numbered else ("", "_l0"):
        keys = {part: f"{begin}{part}{suffix}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        if keys["weight_ih"] in state:
            break
    else:
        return dict(state)
    given = {part: as_numpy(state[key]) for part, key in keys.items() if key in state}
    rest = {key: value for key, value in state.items() if key not in keys.values()}
    count = len(gates)
    zeros = np.zeros(len(given["weight_ih"]), given["weight_ih"].dtype)
    bias_ih, bias_hh = given.get("bias_ih", zeros), given.get("bias_hh", zeros)
    parts = {part: np.split(array, count) for part, array in (given | {"bias_ih": bias_ih, "bias_hh": bias_hh}).items()}
    path = tuple(cell.split(".")) if cell else ()
    gru_stacked = gates is STACKED and (*path, "dense_i", "bias") in leaves
    for nth, (read, kept) in enumerate(gates):
        both = parts["bias_ih"][nth] + parts["bias_hh"][nth]
        rest[entry((*path, read, "kernel"))] = parts["weight_ih"][nth]
        rest[entry((*path, kept, "kernel"))] = parts["weight_hh"][nth]
        if gru_stacked:
            rest[entry((*path, read, "bias"))] = _without_inner_bias(bias_ih, bias_hh, cell)
        elif gates is STACKED or biased == {"hi", "hf", "hg", "ho"}:
            rest[entry((*path, kept, "bias"))] = both
        elif read == "in":  # Linen's GRU has PyTorch's two biases here
            rest[entry((*path, read, "bias"))] = parts["bias_ih"][nth]
            rest[entry((*path, kept, "bias"))] = parts["bias_hh"][nth]
        else:
            rest[entry((*path, read, "bias"))] = both
    return rest


def _without_inner_bias(bias_ih: np.ndarray, bias_hh: np.ndarray, cell: str) -> np.ndarray:
    reset, update, new = np.split(bias_hh, 3)
    if np.any(new):
        said = f"largest {np.abs(new).max():.3g}"
        hint = "`flax.nnx.GRUCell` has no bias inside the reset gate; `flax.linen.GRUCell` has."
        raise ValueError(
            f"`state_dict` must have no bias inside the reset gate for {cell or 'the cell'!r}, got {said}. {hint}"
        )
    return bias_ih + np.concatenate([reset, update, new])
