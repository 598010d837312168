"""Flax's batch and layer normalization with derivatives that keep only the input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from .. import _layers
from .._promotion import promoting

Array = jax.Array


class BatchNorm(linen.BatchNorm):
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
        if averaged or averaged is None or not self.force_float32_reductions or _layers.needs_flax(x):
            return super().__call__(x, use_running_average, mask=mask)
        return self._trained(x, mask)

    @linen.compact
    @promoting
    def _trained(self, x: Array, mask: Array | None) -> Array:
        features = _layers.feature_axes(x.ndim, self.axis)
        shape = tuple(x.shape[a] for a in features)
        averages = [
            self.variable("batch_stats", name, fill, shape, jnp.float32)
            for name, fill in (("mean", jnp.zeros), ("var", jnp.ones))
        ]
        x = _layers.normalized_once(x)
        mean, variance = _layers.batch_statistics(
            x,
            features,
            dtype=self.dtype,
            fast=self.use_fast_variance,
            mask=mask,
            axis_name=None if self.is_initializing() else self.axis_name,
            axis_index_groups=self.axis_index_groups,
        )
        for average, batch in zip(averages, (mean, variance)) if not self.is_initializing() else ():
            average.value = _layers.running(average.value, batch, self.momentum)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype) if self.use_scale else None
        bias = self.param("bias", self.bias_init, shape, self.param_dtype) if self.use_bias else None
        return _layers.normalize(
            x,
            features,
            mean,
            variance,
            scale,
            bias,
            epsilon=self.epsilon,
            dtype=self.dtype,
            fast=self.use_fast_variance,
        )


class LayerNorm(linen.LayerNorm):
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
        if not self.force_float32_reductions or _layers.needs_flax(x):
            return super().__call__(x, mask=mask)
        return self._normalized(x, mask)

    @linen.compact
    @promoting
    def _normalized(self, x: Array, mask: Array | None) -> Array:
        reduced, features = (_layers.feature_axes(x.ndim, axes) for axes in (self.reduction_axes, self.feature_axes))
        shape, fast = tuple(x.shape[a] for a in features), self.use_fast_variance
        mean, variance = _layers.statistics(
            x,
            reduced,
            dtype=self.dtype,
            fast=fast,
            mask=mask,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
        )
        scale = self.param("scale", self.scale_init, shape, self.param_dtype) if self.use_scale else None
        bias = self.param("bias", self.bias_init, shape, self.param_dtype) if self.use_bias else None
        options: dict[str, Any] = dict(epsilon=self.epsilon, dtype=self.dtype, fast=fast)
        return _layers.normalize(x, features, mean, variance, scale, bias, reduced=reduced, **options)
