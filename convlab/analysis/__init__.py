"""Shapes, parameters, multiply-adds and receptive fields of the layers of a network.

The functions work for any `flax.nnx` or `flax.linen` module, convlab's layers or not, and for any function of an image:
they analyze the program that `jax.make_jaxpr` traces. A receptive field is an interval per spatial axis. It is
propagated through every equation, so that branches, residual connections, crops, transposed convolutions and reflected
borders are exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._layers import rows_of
from ._spans import EMPTY, Span, identity
from ._tracing import trace
from ._values import values_of

__all__ = ["Analysis", "Field", "Layer", "activations", "analyze", "influence", "summary"]


@dataclasses.dataclass(frozen=True)
class Field:
    """The receptive field of a layer, per spatial axis of the input.

    Attributes:
        size: number of input positions that a position in the middle of the layer depends on.
        stride: distance in the input between the fields of neighbouring positions; a fraction after upsampling; 0 if
            all positions have the same field, or if the fields of neighbours are not equally spaced, as after a
            flatten.
        offset: first input position of the field of position 0; negative in the padding.
        intervals: (first, last) input position for each position along the axis, not clipped to the input; one pair for
            all where the stride is 0.
    """

    size: tuple[int, ...]
    stride: tuple[Fraction, ...]
    offset: tuple[Fraction, ...]
    intervals: tuple[tuple[tuple[int, int], ...], ...] = dataclasses.field(repr=False)

    def at(self, place: Sequence[int], spatial: Sequence[int]) -> tuple[slice, ...]:
        """Return the part of an input of size `spatial` that position `place` depends on, as slices."""
        pairs = [pairs[p if len(pairs) > 1 else 0] for pairs, p in zip(self.intervals, place)]
        return tuple(slice(max(first, 0), min(last, n - 1) + 1) for (first, last), n in zip(pairs, spatial))


@dataclasses.dataclass(frozen=True)
class Layer:
    """A row of the table: a module without submodules, or a convolution, pool, product or merge outside such modules.

    Attributes:
        path: path in the model, "block1.conv2".
        kind: the class of the module, or "conv", "max_pool", "dot", "add", "concatenate", ...
        output_shape: shape of its (first) result.
        parameters: number of its parameters; those of a module that is called again count once.
        macs: multiply-adds of its convolutions and matrix products; XLA counts each as two floating-point operations.
        macs_with_padding: multiply-adds including taps that read padding, the textbook formula c_in * c_out * kernel *
            output; for a transposed convolution c_in * c_out * kernel * input, including taps outside the result.
        field: its receptive field, None if it does not depend on the input.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    macs_with_padding: int
    field: Field | None


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The layers of a model in the order of their calls. `str` and `print` show a table."""

    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def macs_with_padding(self) -> int:
        return sum(layer.macs_with_padding for layer in self.layers)

    def __getitem__(self, path: str) -> Layer:
        """Return the first layer at `path`."""
        found = [layer for layer in self.layers if layer.path == path]
        if not found:
            paths = ", ".join(dict.fromkeys(layer.path for layer in self.layers))
            raise ValueError(f"`path` must be one of {paths}, got {path!r}.")
        return found[0]

    def __str__(self) -> str:
        from ._table import text

        return text(self)


def analyze(model: Any, x: Any, *args: Any, variables: Any = None, batch_axes: int = 1, **kwargs: Any) -> Analysis:
    """Return shapes, parameters, multiply-adds and receptive fields of the layers of a model, without running it.

    Args:
        model: an `nnx.Module`, a `linen.Module`, or a function.
        x: the input `(*batch, *spatial, c)`, or a `jax.ShapeDtypeStruct` in its place.
        *args, **kwargs: further arguments of the model, such as `train=False`.
        variables: variables of a Linen model; by default the abstract result of its `init`.
        batch_axes: number of axes of `x` before the spatial axes.

    Returns:
        An `Analysis`. Statistics over spatial axes (batch normalization in training, attention, global pools) depend on
        the whole input, and so does everything after them: analyze a model in evaluation mode.

    Raises:
        TypeError: a model that is neither a module nor callable.
        ValueError: an `x` with fewer axes than `batch_axes` and the channels.

    Example:
        >>> from convlab import conv, max_pool
        >>> network = lambda x: max_pool(conv(x, jnp.ones((5, 5, 1, 6))), 2, strides=2)
        >>> found = analyze(network, jnp.ones((1, 28, 28, 1)))
        >>> found["max_pool"].field
        Field(size=(6, 6), stride=(Fraction(2, 1), Fraction(2, 1)), offset=(Fraction(-2, 1), Fraction(-2, 1)))
        >>> found.macs, found.macs_with_padding
        (107736, 117600)

    Source: Araujo, Norris, Sim, "Computing receptive fields of convolutional neural networks", Distill 2019. Here every
        position has its own interval, which extends the theory to borders and to the phases of a transposed
        convolution.
    """
    spatial = _spatial(x, batch_axes)
    traced = trace(model, x, args, kwargs, variables)
    spans = tuple(identity(x.shape, batch_axes + axis) for axis in range(len(spatial)))
    rows, left = rows_of(traced, spans)
    layers = [
        Layer(row.path, row.kind, row.shape, row.parameters, *row.macs, _field(row.spans, spatial)) for row in rows
    ]
    layers += [Layer(path, "parameters", (), count, 0, 0, None) for path, count in left.items()]
    return Analysis(tuple(x.shape), tuple(layers))


def _spatial(x: Any, batch_axes: int) -> tuple[int, ...]:
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(f"`x` must be an array or a jax.ShapeDtypeStruct, got {x!r}.")
    if len(x.shape) < batch_axes + 1:
        raise ValueError(
            f"`x` must have the axes (*batch, *spatial, c) for batch_axes {batch_axes}, got {tuple(x.shape)}."
        )
    return tuple(x.shape[batch_axes:-1])


def _field(spans: tuple[Span, ...] | None, spatial: tuple[int, ...]) -> Field | None:
    if spans is None:
        return None
    parts = [_along(span, n) for span, n in zip(spans, spatial)]
    return Field(
        tuple(p[0] for p in parts), tuple(p[1] for p in parts), tuple(p[2] for p in parts), tuple(p[3] for p in parts)
    )


def _along(span: Span, n: int) -> tuple[int, Fraction, Fraction, tuple[tuple[int, int], ...]]:
    """Return (size, stride, offset, intervals) along one axis; a field without stride is clipped to the input."""
    if span.axis is None:
        start, end = max(int(span.first.min()), 0), min(int(span.last.max()), n - 1)
        return end - start + 1, Fraction(0), Fraction(start), ((start, end),)
    others = tuple(a for a in range(span.first.ndim) if a != span.axis)
    first, last = np.broadcast_arrays(span.first.min(others), span.last.max(others))
    sizes = np.where(first == EMPTY, 0, last - first + 1)
    period = min(span.stride.denominator, len(sizes))  # number of phases of a transposed convolution
    start = (len(sizes) - period) // 2
    among = range(start, start + period)
    middle = max(among, key=lambda place: (sizes[place], -(span.stride * place).denominator))
    offset = int(first[middle]) - span.stride * middle
    return int(sizes[middle]), span.stride, Fraction(offset), tuple(zip(first.tolist(), last.tolist()))


def summary(model: Any, x: Any, *args: Any, variables: Any = None, batch_axes: int = 1, **kwargs: Any) -> Analysis:
    """Print the table of `analyze` and return the `Analysis`.

    Args:
        model, x, args, variables, batch_axes, kwargs: as in `analyze`.

    Returns:
        The printed `Analysis`: rich formats the table if it is installed.

    Raises:
        TypeError, ValueError: as `analyze`.

    Example:
        >>> from convlab import conv
        >>> table = summary(lambda x: conv(x, jnp.ones((3, 1, 8))), jnp.ones((1, 6, 1)))  # doctest: +SKIP

    Equals `flax.nnx.tabulate`, with multiply-adds and receptive fields.
    """
    from ._table import show

    analysis = analyze(model, x, *args, variables=variables, batch_axes=batch_axes, **kwargs)
    show(analysis)
    return analysis


def activations(
    model: Any, x: Any, *args: Any, variables: Any = None, batch_axes: int = 1, **kwargs: Any
) -> dict[str, jax.Array]:
    """Compute the result of every layer of `analyze` for an input.

    Args:
        model, x, args, batch_axes, kwargs: as in `analyze`, with arrays in place of shapes.
        variables: variables of a Linen model.

    Returns:
        The (first) result of each layer by its path, in order; a module called again adds "#2" to its path, and so on.

    Raises:
        TypeError, ValueError: as `analyze`; ValueError for a Linen model without `variables`.

    Example:
        >>> from convlab import max_pool
        >>> x = jnp.arange(4.0).reshape(1, 4, 1)
        >>> activations(lambda x: max_pool(x, 2, strides=2), x)["max_pool"].ravel().tolist()
        [1.0, 3.0]

    Equals `linen.Module.apply(capture_intermediates=True)` and `nnx.Module.sow`, with no change to the model.
    """
    spatial = _spatial(x, batch_axes)
    traced = trace(model, x, args, kwargs, variables)
    if any(isinstance(a, jax.ShapeDtypeStruct) for a in traced.arguments):
        raise ValueError("`variables` must be given for activations of a Linen model, got None.")
    spans = tuple(identity(x.shape, batch_axes + axis) for axis in range(len(spatial)))
    rows, _ = rows_of(traced, spans)
    return values_of(traced, rows)


def influence(function: Any, x: jax.Array, place: Sequence[int], *, batch_axes: int = 1) -> jax.Array:
    """Measure the receptive field of one position by the gradient: the influence of each position of an image.

    Args:
        function: a function of `x` that returns `(*batch, *out, c)` or `(*batch, c)`: a model, or
            `lambda x: model.apply(variables, x)`.
        x: `(*batch, *spatial, c)`.
        place: the position of the result, one int per spatial axis; `()` for a result without spatial axes.
        batch_axes: number of axes of `x` before the spatial axes.

    Returns:
        `spatial`: the sum of the absolute derivatives of all channels at the position, over batch and channels of `x`.

    Raises:
        ValueError: a position that the result does not have.

    Example:
        >>> from convlab import conv
        >>> influence(lambda x: conv(x, jnp.ones((3, 1, 1))), jnp.ones((1, 6, 1)), (3,)).tolist()
        [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]

    Source: Luo et al., "Understanding the effective receptive field in deep convolutional neural networks", arXiv
        1701.04128.
    """
    y, pull = jax.vjp(function, x)
    out = y.shape[batch_axes:-1]
    if len(place) != len(out) or any(not 0 <= p < n for p, n in zip(place, out)):
        raise ValueError(f"`place` must be one int per axis of {out}, got {tuple(place)}.")
    at = (slice(None),) * batch_axes + tuple(place)
    (gradient,) = pull(jnp.zeros_like(y).at[at].set(1))
    others = (*range(batch_axes), x.ndim - 1)
    return abs(gradient).sum(others)
