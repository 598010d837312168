"""Flax's batch and layer normalization with derivatives that keep only the input."""

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
        x = _layers.normalized_once(x)
        mean, variance = _layers.batch_statistics(
            x,
            features,
            dtype=self.dtype,
            fast=self.use_fast_variance,
            mask=mask,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
        )
        for average, batch in ((self.mean, mean), (self.var, variance)):
            _replace(average, lax.stop_gradient(_layers.running(average[...], batch, self.momentum)))
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
        return super().__call__(x, mask=mask) if _layers.needs_flax(x) else self._normalized(x, mask)

    @promoting
    def _normalized(self, x: Array, mask: Array | None) -> Array:
        reduced, features = (_layers.feature_axes(x.ndim, axes) for axes in (self.reduction_axes, self.feature_axes))
        scale, bias = (None if p is None else p[...] for p in (self.scale, self.bias))
        promoted: Any = self.promote_dtype((x, scale, bias), dtype=self.dtype)
        x, scale, bias = promoted
        fast = self.use_fast_variance
        mean, variance = _layers.statistics(
            x,
            reduced,
            dtype=self.dtype,
            fast=fast,
            mask=mask,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
        )
        options: dict[str, Any] = dict(epsilon=self.epsilon, dtype=self.dtype, fast=fast)
        return _layers.normalize(x, features, mean, variance, scale, bias, reduced=reduced, **options)
