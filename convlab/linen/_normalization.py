"""Flax's normalizations with derivatives that keep only the input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from .. import _layers
from .._promotion import promoting

Array = jax.Array


class _Normalization(linen.Module):
    """Normalization by statistics, with the options of Flax's layers as attributes."""

    def _needs_flax(self, x: Array) -> bool:
        return not self.force_float32_reductions or _layers.needs_flax(x)

    def _statistics(self, x: Array, reduced: tuple[int, ...], mask: Array | None, **options: Any) -> Any:
        options = dict(axis_name=self.axis_name, axis_index_groups=self.axis_index_groups) | options
        return _layers.statistics(x, reduced, dtype=self.dtype, fast=self.use_fast_variance, mask=mask, **options)

    def _result(
        self, x: Array, reduced: tuple[int, ...], features: tuple[int, ...], mean: Array | None, variance: Array
    ) -> Array:
        shape = tuple(x.shape[a] for a in features)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype) if self.use_scale else None
        use_bias = getattr(self, "use_bias", False)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype) if use_bias else None
        options: dict[str, Any] = dict(epsilon=self.epsilon, dtype=self.dtype, fast=self.use_fast_variance)
        return _layers.normalize(x, reduced, features, mean, variance, scale, bias, **options)

    @linen.compact
    @promoting
    def _normalized(
        self, x: Array, mask: Array | None, reduced: tuple[int, ...], features: tuple[int, ...], **options: Any
    ) -> Array:
        """Normalize by the statistics of the input, with `options` of `_layers.statistics`."""
        return self._result(x, reduced, features, *self._statistics(x, reduced, mask, **options))


class BatchNorm(_Normalization, linen.BatchNorm):
    """`flax.linen.BatchNorm` with a training step that reads and keeps less; options, parameters and results are
    Flax's.

    With `use_running_average`, `force_float32_reductions=False`, for complex input, and directly under
    `jax.experimental.jet`, the program is Flax's.

    Args and Raises: as in `convlab.nnx.BatchNorm`, without `num_features`, `promote_dtype`, `rngs` and the metadata;
        `force_float32_reductions` as in Flax.

    Example:
        >>> layer, x = BatchNorm(use_running_average=False), jnp.arange(24.0).reshape(2, 2, 2, 3)
        >>> y, kept = layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])
        >>> y.shape, round(float(kept["batch_stats"]["mean"][0]), 3)
        ((2, 2, 2, 3), 0.105)

    Source: Ioffe and Szegedy, "Batch normalization", arXiv 1502.03167.
    """

    def __call__(self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None) -> Array:
        averaged = self.use_running_average if use_running_average is None else use_running_average
        if averaged or averaged is None or self._needs_flax(x):
            return super().__call__(x, use_running_average, mask=mask)
        features = _layers.feature_axes(x.ndim, self.axis)
        return self._normalized(_layers.normalized_once(x), mask, _layers.other_axes(x.ndim, features), features)

    @linen.compact
    @promoting
    def _normalized(
        self, x: Array, mask: Array | None, reduced: tuple[int, ...], features: tuple[int, ...], **options: Any
    ) -> Array:
        shape, initializing = tuple(x.shape[a] for a in features), self.is_initializing()
        averages = [
            self.variable("batch_stats", name, fill, shape, jnp.float32)
            for name, fill in (("mean", jnp.zeros), ("var", jnp.ones))
        ]
        options |= dict(axis_name=None) if initializing else {}
        mean, variance = self._statistics(x, reduced, mask, **options)
        for average, batch in zip(averages, (mean, variance)) if not initializing else ():
            average.value = _layers.running(average.value, batch, self.momentum)
        return self._result(x, reduced, features, mean, variance)


class LayerNorm(_Normalization, linen.LayerNorm):
    """`flax.linen.LayerNorm` with a derivative that reads and keeps less; options and results are Flax's.

    With `force_float32_reductions=False`, for complex input, and directly under `jax.experimental.jet`, the program is
    Flax's.

    Args: as in `convlab.nnx.LayerNorm`, without `num_features`, `promote_dtype`, `rngs` and the metadata;
        `force_float32_reductions` as in Flax.

    Example:
        >>> layer, x = LayerNorm(), jnp.arange(24.0).reshape(2, 2, 2, 3)
        >>> y = layer.apply(layer.init(jax.random.key(0), x), x)
        >>> y.shape, [round(float(a), 3) for a in y[0, 0, 0]]
        ((2, 2, 2, 3), [-1.225, 0.0, 1.225])

    Source: Ba, Kiros and Hinton, "Layer normalization", arXiv 1607.06450.
    """

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        if self._needs_flax(x):
            return super().__call__(x, mask=mask)
        axes = (_layers.feature_axes(x.ndim, axes) for axes in (self.reduction_axes, self.feature_axes))
        return self._normalized(x, mask, *axes)


class RMSNorm(_Normalization, linen.RMSNorm):
    """`flax.linen.RMSNorm` with a derivative that reads and keeps less; options and results are Flax's.

    Args: as in `LayerNorm`, without `use_bias` and `bias_init`.

    Example:
        >>> y, _ = RMSNorm().init_with_output(jax.random.key(0), jnp.array([[3.0, 4.0]]))
        >>> [round(float(a), 3) for a in y[0]]
        [0.849, 1.131]

    Source: Zhang and Sennrich, "Root mean square layer normalization", arXiv 1910.07467.
    """

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        if self._needs_flax(x):
            return super().__call__(x, mask=mask)
        axes = (_layers.feature_axes(x.ndim, axes) for axes in (self.reduction_axes, self.feature_axes))
        return self._normalized(x, mask, *axes, center=False)


class GroupNorm(_Normalization, linen.GroupNorm):
    """`flax.linen.GroupNorm` with sums that the CPU computes faster, and a derivative that keeps the input alone;
    options and results are Flax's.

    With `force_float32_reductions=False`, for complex input, and directly under `jax.experimental.jet`, the program is
    Flax's.

    Args and Raises: as in `convlab.nnx.GroupNorm`, without `num_features`, `promote_dtype`, `rngs` and the metadata;
        `force_float32_reductions` as in Flax.

    Example:
        >>> x = jnp.arange(16.0).reshape(1, 2, 2, 4)
        >>> y, _ = GroupNorm(num_groups=2).init_with_output(jax.random.key(0), x)
        >>> y.shape, round(float(y[0, 0, 0, 0]), 3)
        ((1, 2, 2, 4), -1.444)

    Source: Wu and He, "Group normalization", arXiv 1803.08494.
    """

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        axes = (*range(1, x.ndim - 1), -1) if self.reduction_axes is None else self.reduction_axes
        reduced, size = _layers.feature_axes(x.ndim, axes), _layers.group_size(x, self.num_groups, self.group_size)
        if self._needs_flax(x) or size is None or reduced[-1:] != (x.ndim - 1,):
            return super().__call__(x, mask=mask)
        return self._normalized(_layers.normalized_once(x), mask, reduced[:-1], (x.ndim - 1,), group_size=size)


class InstanceNorm(_Normalization, linen.InstanceNorm):
    """`flax.linen.InstanceNorm` with a derivative that keeps the input alone; options and results are Flax's.

    Args and Raises: as in `convlab.nnx.InstanceNorm`, without `num_features`, `promote_dtype`, `rngs` and the metadata;
        `force_float32_reductions` as in Flax.

    Example:
        >>> x = jnp.arange(24.0).reshape(2, 2, 2, 3)
        >>> y, _ = InstanceNorm().init_with_output(jax.random.key(0), x)
        >>> y.shape, bool(jnp.allclose(y.mean((1, 2)), 0, atol=1e-6))
        ((2, 2, 2, 3), True)

    Source: Ulyanov, Vedaldi and Lempitsky, "Instance normalization", arXiv 1607.08022.
    """

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        features = _layers.feature_axes(x.ndim, self.feature_axes)
        if self._needs_flax(x) or 0 in features:
            return super().__call__(x, mask=mask)
        return self._normalized(_layers.normalized_once(x), mask, _layers.other_axes(x.ndim, (0, *features)), features)
