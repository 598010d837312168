"""Tracing of NNX modules, Linen modules and functions to a jaxpr in which the calls of layers are marked.

While the model is traced, the calls of its submodules are wrapped so that their first argument and their result pass
through `jax.ad_checkpoint.checkpoint_name`, an identity that leaves an equation with a name in the program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

MARK = "convlab.analysis:"


@dataclasses.dataclass
class Call:
    """A call of a submodule."""

    path: str
    kind: str
    leaf: bool = True  # no other submodule was called within


@dataclasses.dataclass
class Trace:
    """The program, the calls in it in order, and the number of parameters at each path (a tuple of keys)."""

    program: Any
    arguments: list[Any]
    calls: list[Call]
    parameters: dict[tuple[str, ...], int]


class Recorder:
    """A recorder that marks the calls of submodules while a model is traced."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._open: list[Call] = []

    def marked(self, path: str, kind: str, function: Callable, args: tuple, kwargs: dict) -> Any:
        if self._open:
            self._open[-1].leaf = False
        call, number = Call(path, kind), len(self.calls)
        self.calls.append(call)
        self._open.append(call)
        try:
            args, kwargs = _named((args, kwargs), f"{MARK}{number}:enter")
            return _named(function(*args, **kwargs), f"{MARK}{number}:exit")
        finally:
            self._open.pop()


def _named(tree: Any, name: str) -> Any:
    """Pass the first array of `tree` through an identity called `name`."""
    leaves, structure = jax.tree.flatten(tree)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, jax.Array):
            leaves[i] = checkpoint_name(leaf, name)
            break
    return jax.tree.unflatten(structure, leaves)


def read_mark(eqn: Any) -> tuple[int, str] | None:
    """Return (number of the call, "enter" or "exit") of a marking equation, or None."""
    name = eqn.params.get("name", "") if eqn.primitive.name == "name" else ""
    if not isinstance(name, str) or not name.startswith(MARK):
        return None
    number, _, side = name.removeprefix(MARK).partition(":")
    return int(number), side


def trace(model: Any, x: Any, args: tuple, kwargs: dict, variables: Any = None) -> Trace:
    """Return the program of `model(x, *args, **kwargs)` as a function of `x`, its first argument, and its
    parameters."""
    recorder = Recorder()
    run, state, parameters = _runner(model, recorder, x, args, kwargs, variables)
    program = jax.make_jaxpr(run)(x, state)
    return Trace(program, [x, *jax.tree.leaves(state)], recorder.calls, parameters)


def _runner(model, recorder, x, args, kwargs, variables):
    """Return a function of `x` and a state, that state, and a dictionary of parameters that tracing the function
    fills."""
    if "flax" in sys.modules:
        from flax import linen, nnx

        if isinstance(model, nnx.Module):
            return _nnx_runner(model, recorder, args, kwargs)
        if isinstance(model, linen.Module):
            return _linen_runner(model, recorder, x, args, kwargs, variables)
    if not callable(model):
        raise TypeError(f"`model` must be an NNX module, a Linen module or a function of `x`, got {model!r}.")
    return (lambda x, _: model(x, *args, **kwargs)), (), {}


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def _nnx_runner(model, recorder, args, kwargs):
    from flax import nnx

    graph, state = nnx.split(model)
    parameters: dict[tuple[str, ...], int] = {}

    def run(x, state):
        traced = nnx.merge(graph, state)
        paths = {
            id(node): ".".join(map(str, path)) for path, node in nnx.iter_graph(traced) if isinstance(node, nnx.Module)
        }
        with _nnx_calls(traced, paths, recorder):
            y = traced(x, *args, **kwargs)
        for path, leaf in jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(traced, nnx.Param))):
            parameters[_keys(path)] = math.prod(leaf.shape)
        return y

    return run, state, parameters


@contextlib.contextmanager
def _nnx_calls(model: Any, paths: dict[int, str], recorder: Recorder) -> Iterator[None]:
    """Mark the calls of the submodules of `model` in this context, by replacing `__call__` of their classes, as
    `nnx.tabulate` does."""
    from flax import nnx

    types = {type(node) for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)}
    originals = {t: t.__call__ for t in types if callable(getattr(t, "__call__", None))}  # noqa: B004  the class's own
    inherited = {t for t in originals if "__call__" not in vars(t)}

    def marking(original: Callable) -> Callable:
        def __call__(self, *args, **kwargs):
            path = paths.get(id(self), "")
            if not path:
                return original(self, *args, **kwargs)
            function = lambda *a, **k: original(self, *a, **k)
            return recorder.marked(path, type(self).__name__, function, args, kwargs)

        return __call__

    try:
        for t, original in originals.items():
            setattr(t, "__call__", marking(original))  # noqa: B010  a class's method
        yield
    finally:
        for t, original in originals.items():
            if t in inherited:
                del t.__call__
            else:
                setattr(t, "__call__", original)  # noqa: B010


def _linen_runner(model, recorder, x, args, kwargs, variables):
    from flax import linen

    rngs = dict(zip(("params", "dropout"), jax.random.split(jax.random.key(0))))
    if variables is None:
        variables = jax.eval_shape(lambda x: model.init(rngs, x, *args, **kwargs), x)
    leaves = jax.tree.leaves_with_path(variables.get("params", {}))
    parameters = {_keys(path): math.prod(leaf.shape) for path, leaf in leaves}

    def interceptor(function, args, kwargs, context):
        if context.method_name != "__call__" or not context.module.path:
            return function(*args, **kwargs)
        path, kind = ".".join(context.module.path), type(context.module).__name__
        return recorder.marked(path, kind, function, args, kwargs)

    def run(x, variables):
        with linen.intercept_methods(interceptor):
            return model.apply(variables, x, *args, rngs={"dropout": rngs["dropout"]}, mutable=True, **kwargs)[0]

    return run, variables, parameters
