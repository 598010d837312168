"""Flax's normalizations with derivatives that keep only the input."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax import lax

from .. import _layers
from .._promotion import promoting

Array = jax.Array


def _replace(variable: nnx.Variable, value: Array) -> None:
    """Compute `variable[...] = value`.

    While tracing, Flax's assignment asks for the value's sharding, and JAX looks through all of the program so far for
    its error message: the time to trace a network would grow with the square of its depth."""
    former = variable[...]
    if isinstance(value, jax.core.Tracer) and (value.shape, value.dtype) == (former.shape, former.dtype):
        variable.set_value(value)
    else:
        variable[...] = value


class BatchNorm(nnx.BatchNorm):
    """`flax.nnx.BatchNorm` with a training step that reads and keeps less; options, parameters and results are Flax's.

    In training the derivative keeps one array of the input's size, the input itself in its own dtype; otherwise it
    needs only sums over batch and positions, which XLA computes while it reads. Derivatives equal Flax's up to
    rounding, of every order and in forward mode. With `use_running_average`, for complex input, and directly under
    `jax.experimental.jet`, the program is Flax's.

    Args:
        num_features: channels of the input.
        use_running_average, axis, momentum, epsilon, dtype, param_dtype, use_bias, use_scale, bias_init, scale_init,
            axis_name, axis_index_groups, use_fast_variance, promote_dtype, bias_metadata, scale_metadata: as in Flax.
            With `use_fast_variance=False` the derivative, too, subtracts the mean before it sums.
        rngs: keys for the parameters.

    Attributes:
        scale, bias, mean, var: as in Flax.

    Raises:
        ValueError: `use_running_average` is set neither here nor in the call.

    Example:
        >>> layer = BatchNorm(3, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.arange(24.0).reshape(2, 2, 2, 3))
        >>> y.shape, bool(jnp.allclose(y.mean((0, 1, 2)), 0, atol=1e-6)), round(float(layer.mean[0]), 3)
        ((2, 2, 2, 3), True, 0.105)

    Source: Ioffe and Szegedy, "Batch normalization", arXiv 1502.03167.
    """

    def __call__(self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None) -> Array:
        averaged = self.use_running_average if use_running_average is None else use_running_average
        if averaged or averaged is None or _layers.needs_flax(x):
            return super().__call__(x, use_running_average, mask=mask)
        return self._trained(x, mask)

    @promoting
    def _trained(self, x: Array, mask: Array | None) -> Array:
        features = _layers.feature_axes(x.ndim, self.axis)
        scale, bias = (None if p is None else p[...] for p in (self.scale, self.bias))
        promoted: Any = self.promote_dtype((x, self.mean[...], self.var[...], scale, bias), dtype=self.dtype)
        x, _, _, scale, bias = promoted
        x, reduced = _layers.normalized_once(x), _layers.other_axes(x.ndim, features)
        mean, variance = _statistics(self, x, reduced, mask)
        for average, batch in ((self.mean, mean), (self.var, variance)):
            _replace(average, lax.stop_gradient(_layers.running(average[...], batch, self.momentum)))
        return _result(self, x, reduced, features, mean, variance, scale, bias)


def _statistics(layer: Any, x: Array, reduced: tuple[int, ...], mask: Array | None, **options: Any) -> Any:
    return _layers.statistics(
        x,
        reduced,
        dtype=layer.dtype,
        fast=layer.use_fast_variance,
        mask=mask,
        axis_name=layer.axis_name,
        axis_index_groups=layer.axis_index_groups,
        **options,
    )


def _result(layer: Any, *operands: Any) -> Array:
    return _layers.normalize(*operands, epsilon=layer.epsilon, dtype=layer.dtype, fast=layer.use_fast_variance)


@promoting
def _normalized(
    layer: Any, x: Array, mask: Array | None, reduced: tuple[int, ...], features: tuple[int, ...], **options: Any
) -> Array:
    """Normalize by the statistics of the input, with `options` of `_layers.statistics`."""
    names = ("scale", "bias") if hasattr(layer, "bias") else ("scale",)
    values = (None if (p := getattr(layer, name)) is None else p[...] for name in names)
    x, scale, *bias = layer.promote_dtype((x, *values), dtype=layer.dtype)
    mean, variance = _statistics(layer, x, reduced, mask, **options)
    return _result(layer, x, reduced, features, mean, variance, scale, bias[0] if bias else None)


class LayerNorm(nnx.LayerNorm):
    """`flax.nnx.LayerNorm` with a derivative that reads and keeps less; options and results are Flax's.

    The derivative keeps one array of the input's size, the input itself in its own dtype. Derivatives equal Flax's up
    to rounding, of every order and in forward mode. For complex input, and directly under `jax.experimental.jet`, the
    program is Flax's.

    Args:
        num_features: channels of the input.
        epsilon, dtype, param_dtype, use_bias, use_scale, bias_init, scale_init, reduction_axes, feature_axes,
            axis_name, axis_index_groups, use_fast_variance, promote_dtype, bias_metadata, scale_metadata: as in Flax.
            With `use_fast_variance=False` the derivative, too, subtracts the mean before it sums.
        rngs: keys for the parameters.

    Attributes:
        scale, bias: as in Flax.

    Example:
        >>> layer = LayerNorm(3, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.arange(24.0).reshape(2, 2, 2, 3))
        >>> y.shape, bool(jnp.allclose(y.mean(-1), 0, atol=1e-6)), [round(float(a), 3) for a in y[0, 0, 0]]
        ((2, 2, 2, 3), True, [-1.225, 0.0, 1.225])

    Source: Ba, Kiros and Hinton, "Layer normalization", arXiv 1607.06450.
    """

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        if _layers.needs_flax(x):
            return super().__call__(x, mask=mask)
        axes = (_layers.feature_axes(x.ndim, axes) for axes in (self.reduction_axes, self.feature_axes))
        return _normalized(self, x, mask, *axes)


class RMSNorm(nnx.RMSNorm):
    """`flax.nnx.RMSNorm` with a derivative that reads and keeps less, as that of `LayerNorm`; options and results are
    Flax's.

    Args: as in `LayerNorm`, without `use_bias`, `bias_init` and `bias_metadata`.

    Attributes:
        scale: as in Flax.

    Example:
        >>> layer = RMSNorm(2, rngs=nnx.Rngs(0))
        >>> [round(float(a), 3) for a in layer(jnp.array([[3.0, 4.0]]))[0]]
        [0.849, 1.131]

    Source: Zhang and Sennrich, "Root mean square layer normalization", arXiv 1910.07467.
    """

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        if _layers.needs_flax(x):
            return super().__call__(x, mask=mask)
        axes = (_layers.feature_axes(x.ndim, axes) for axes in (self.reduction_axes, self.feature_axes))
        return _normalized(self, x, mask, *axes, center=False)


class GroupNorm(nnx.GroupNorm):
    """`flax.nnx.GroupNorm` with sums that the CPU computes faster, and a derivative that keeps the input alone; options
    and results are Flax's.

    For complex input, `reduction_axes` other than all but the first, and directly under `jax.experimental.jet`, the
    program is Flax's.

    Args:
        num_features: channels of the input.
        num_groups, group_size: the number of groups of neighbouring channels, or the channels of each; the other one is
            None.
        epsilon, dtype, param_dtype, use_bias, use_scale, bias_init, scale_init, reduction_axes, axis_name,
            axis_index_groups, use_fast_variance, promote_dtype, bias_metadata, scale_metadata: as in Flax. With
            `use_fast_variance=False` the derivative, too, subtracts the mean before it sums.
        rngs: keys for the parameters.

    Attributes:
        scale, bias: as in Flax.

    Raises:
        ValueError: groups that do not divide the channels; both or neither of `num_groups` and `group_size`.

    Example:
        >>> layer = GroupNorm(4, num_groups=2, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.arange(16.0).reshape(1, 2, 2, 4))
        >>> y.shape, bool(jnp.allclose(y[..., :2].mean(), 0, atol=1e-6)), round(float(y[0, 0, 0, 0]), 3)
        ((1, 2, 2, 4), True, -1.444)

    Source: Wu and He, "Group normalization", arXiv 1803.08494.
    """

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        axes = range(1, x.ndim) if self.reduction_axes is None else self.reduction_axes
        reduced = _layers.feature_axes(x.ndim, axes)
        if _layers.needs_flax(x) or x.ndim < 2 or reduced != tuple(range(1, x.ndim)):
            return super().__call__(x, mask=mask)
        x = _layers.normalized_once(x)
        return _normalized(self, x, mask, reduced[:-1], (x.ndim - 1,), group_size=self.group_size)


class InstanceNorm(nnx.InstanceNorm):
    """`flax.nnx.InstanceNorm` with a derivative that keeps the input alone; options and results are Flax's.

    Args: as in `LayerNorm`, without `reduction_axes`: all axes but the first and `feature_axes` are reduced.

    Attributes:
        scale, bias: as in Flax.

    Raises:
        ValueError: the first axis is one of `feature_axes`.

    Example:
        >>> layer = InstanceNorm(3, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.arange(24.0).reshape(2, 2, 2, 3))
        >>> y.shape, bool(jnp.allclose(y.mean((1, 2)), 0, atol=1e-6))
        ((2, 2, 2, 3), True)

    Source: Ulyanov, Vedaldi and Lempitsky, "Instance normalization", arXiv 1607.08022.
    """

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        features = _layers.feature_axes(x.ndim, self.feature_axes)
        if _layers.needs_flax(x) or 0 in features:
            return super().__call__(x, mask=mask)
        x = _layers.normalized_once(x)
        return _normalized(self, x, mask, _layers.other_axes(x.ndim, (0, *features)), features)
