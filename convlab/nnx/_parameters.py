"""Creation and storage of the parameters of NNX convolutions, at construction or at the first call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, InitVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import FrozenDict
from flax.nnx.nn.dtypes import promote_dtype
from jax import lax

from .. import _layers
from .._arguments import argument_error, is_int, read_int

Array = jax.Array
MISSING = "Call the layer, or its `initialize(inputs)`, first."
lecun_normal, zeros = nnx.initializers.lecun_normal(), nnx.initializers.zeros_init()


class UninitializedParam(nnx.Param):
    """A placeholder for the parameters of a layer before its first input: the random keys that will initialize them.

    It stores the bytes of the keys as floats, so that a gradient with respect to all parameters reaches it and raises
    an error with the remedy.
    """


class InitSpec(NamedTuple):
    """The initializers and metadata for the parameters of a layer."""

    kernel_init: Callable
    bias_init: Callable
    kernel_metadata: tuple[tuple[str, Any], ...]
    bias_metadata: tuple[tuple[str, Any], ...]
    key_impl: Any  # the implementation of typed keys


def as_floats(keys: Array) -> tuple[Array, Any]:
    """Return the bytes of random keys as floats, and the implementation of typed keys."""
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    data = jax.random.key_data(keys) if typed else keys
    return lax.bitcast_convert_type(data, jnp.uint8).astype(jnp.float32), jax.random.key_impl(keys) if typed else None


def as_keys(floats: Array, impl: Any) -> Array:
    """Return the keys from their `as_floats`."""
    data = lax.bitcast_convert_type(_undifferentiated(floats).astype(jnp.uint8), jnp.uint32)
    return data if impl is None else jax.random.wrap_key_data(data, impl=impl)


@jax.custom_jvp
def _undifferentiated(floats: Array) -> Array:
    return floats


@_undifferentiated.defjvp
def _refuse_gradient(primals: tuple, tangents: tuple) -> Any:
    raise argument_error("in_features", "be known", None, "a gradient", MISSING)


@dataclasses.dataclass(eq=False, repr=False)
class Layer(nnx.Module):
    """A module with `kernel` and `bias`.

    Without `in_features` the first call creates the parameters, eagerly or under `nnx.jit` in graph mode, or
    `initialize(inputs)` does. Until then the layer has one `UninitializedParam`; gradients, optimizers and JAX's own
    transformations need the parameters.
    """

    in_features: int | None
    out_features: int
    kernel_size: int | Sequence[int]
    _: KW_ONLY
    use_bias: bool = True
    mask: Any = None
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    promote_dtype: Callable = promote_dtype
    kernel_init: InitVar[Callable] = lecun_normal
    bias_init: InitVar[Callable] = zeros
    rngs: InitVar[nnx.Rngs]
    kernel_metadata: InitVar[Mapping[str, Any]] = FrozenDict()
    bias_metadata: InitVar[Mapping[str, Any]] = FrozenDict()

    def __post_init__(self, kernel_init, bias_init, rngs, kernel_metadata, bias_metadata):
        if self.in_features is not None:
            read_int("in_features", self.in_features)
        self._check_options(self.in_features)
        for field in dataclasses.fields(self):
            if field.init and field.name != "mask":
                setattr(self, field.name, _layers.frozen(getattr(self, field.name)))
        if self.mask is not None and not isinstance(self.mask, jax.core.Tracer):
            self.mask = nnx.static(_layers.Constant(self.mask))
        self._int, self.kernel_size = is_int(self.kernel_size), self._size
        keys, image = jnp.stack([rngs.params() for _ in range(1 + bool(self.use_bias))]), self._known_shape()
        floats, impl = as_floats(keys)
        spec = InitSpec(kernel_init, bias_init, tuple(kernel_metadata.items()), tuple(bias_metadata.items()), impl)
        if image is None:
            self._init_spec, self.pending = spec, UninitializedParam(floats)
        else:
            self._make(spec, keys, image)

    def _known_shape(self) -> tuple[int, ...] | None:
        """Return the axes of the image that the shapes of the parameters depend on, or None if they are unknown."""
        return None if self.in_features is None else (self.in_features,)

    def _make(self, spec: InitSpec, keys: Any, image: tuple[int, ...]) -> None:
        self.kernel_shape, bias_shape = self._checked_shapes(image)
        kernel = spec.kernel_init(keys[0], self.kernel_shape, self.param_dtype)
        self.kernel = nnx.Param(kernel, **dict(spec.kernel_metadata))
        self.bias: Any = nnx.data(None)
        if self.use_bias:
            self.bias = nnx.Param(spec.bias_init(keys[1], bias_shape, self.param_dtype), **dict(spec.bias_metadata))

    def initialize(self, inputs: Any) -> Any:
        """Create the parameters for images like `inputs`, an array or its abstract shape, if they do not exist yet.

        Returns:
            The layer itself.
        """
        self._initialize(inputs)
        return self

    def _initialize(self, inputs: Any) -> None:
        if hasattr(self, "pending"):
            image = self._image(inputs.shape)
            self._check_options(image[-1])
            keys = as_keys(self.pending[...], self._init_spec.key_impl)
            self.in_features = image[-1]
            self._make(self._init_spec, keys, image)
            del self._init_spec, self.pending

    def __getattr__(self, name: str) -> Any:
        if name in ("kernel", "bias", "kernel_shape"):
            raise argument_error("in_features", "be known", None, f"`{name}`", MISSING, AttributeError)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _out_channels(self, channels: int) -> int:
        return read_int("out_features", self.out_features)

    def _has_scalar_size(self) -> bool:
        return self._int

    def _promoted(self, inputs: Any) -> tuple[Array, Array, Array | None]:
        self._check_inputs(inputs)
        self._initialize(inputs)
        bias = None if self.bias is None else self.bias[...]
        return self.promote_dtype((inputs, self._effective_kernel(self.kernel[...]), bias), dtype=self.dtype)
