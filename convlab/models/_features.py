"""`features`: call a network and return intermediate results by the paths of its layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from flax import nnx


def features(model: nnx.Module, x: Any, names: Sequence[str], *args: Any, **options: Any) -> dict[str, Any]:
    """Call a network and return the results of the layers `names`.

    Args:
        model: the network, any NNX module.
        x: its input.
        names: paths of layers, such as "layer2" or "features.3"; an activation in a chain has one too.
        args, options: further arguments of the call, after `x`.

    Returns:
        The results by name, in the order of `names`; the last one if a layer is called more than once.

    Raises:
        ValueError: a path that the network does not have, or a layer that the call does not reach.

    Example:
        >>> model = get_model("resnet18", rngs=nnx.Rngs(0))
        >>> maps = features(model, jnp.ones((1, 64, 64, 3)), ["layer2", "layer4"])
        >>> {name: y.shape for name, y in maps.items()}
        {'layer2': (1, 8, 8, 128), 'layer4': (1, 2, 2, 512)}

    It works within `jax.jit`, `jax.grad` and `nnx.jit`. The model does not change, except for running statistics in
    training.
    """
    found: dict[str, Any] = {}
    recording = copy.copy(model)
    copies = {"": recording}
    for name in sorted(names, key=lambda name: -name.count(".")):  # layers inside a layer before that layer
        *parents, last = name.split(".")
        for n in range(len(parents)):
            path, above = ".".join(parents[: n + 1]), copies[".".join(parents[:n])]
            if path not in copies:
                copies[path] = copy.copy(_child(above, parents[n], name))
                vars(above)[parents[n]] = copies[path]
        parent = copies[".".join(parents)]
        layer = copies.get(name, _child(parent, last, name))
        vars(parent)[last] = _Recording(layer, name, found)
    recording(x, *args, **options)
    for name in names:
        if name not in found:
            raise ValueError(f"`names` must be layers that the call reaches, got {name!r}.")
    return {name: found[name] for name in names}


def _child(parent: Any, name: str, path: str) -> Any:
    child = vars(parent).get(name)
    if not callable(child):
        known = sorted(name for name, child in vars(parent).items() if callable(child) and not name.startswith("_"))
        raise ValueError(f"`names` must be paths of layers, got {path!r}. There are {', '.join(known)}.")
    return child


class _Recording:
    """A layer that stores the results of its calls in `found`."""

    def __init__(self, layer: Any, name: str, found: dict[str, Any]):
        self._layer, self._name, self._found = layer, name, found

    def __call__(self, *args: Any, **options: Any) -> Any:
        self._found[self._name] = self._layer(*args, **options)
        return self._found[self._name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __getitem__(self, position: Any) -> Any:
        return self._layer[position]

    def __iter__(self) -> Any:
        return iter(self._layer)

    def __len__(self) -> int:
        return len(self._layer)
