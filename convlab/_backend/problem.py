"""The one form in which a formulation sees a convolution: channels last, plain integers.

`x` is `(n, *spatial, c)`, the kernel `(*window, c // groups, features)`, the result `(n, *out, features)`. Every
convolution of a JAX program, forward or derivative, in any layout, is brought to one of two maps:

- **forward**: `x, kernel -> y`. The input gradient is this map too, with `input_dilation` in the place of strides.
- **kernel gradient**: `x, dy -> dkernel`, described by the `Problem` of the forward map that it is the derivative of.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax

from .._window import output_size

Kind = Literal["forward", "kernel_gradient"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """The static facts of a forward convolution; hashable, and all that a table may look at."""

    batch: int
    spatial: tuple[int, ...]
    channels: int
    window: tuple[int, ...]
    features: int
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]  # may be negative; applied after input_dilation
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int
    dtype: Any  # of the operands
    out_dtype: Any  # of the result, never narrower
    precision: Any = None  # jax.lax's canonical form: None or a pair of jax.lax.Precision
    largest_product: int | None = None  # of two operands, where it is less than their dtypes hold

    @property
    def rank(self) -> int:
        return len(self.spatial)

    @property
    def dilated(self) -> tuple[int, ...]:
        """Spatial sizes after `input_dilation`, before padding."""
        return tuple((s - 1) * d + 1 if s else 0 for s, d in zip(self.spatial, self.input_dilation))

    @property
    def effective_size(self) -> tuple[int, ...]:
        """The extent of the dilated window on the input."""
        return tuple((w - 1) * d + 1 for w, d in zip(self.window, self.kernel_dilation))

    @property
    def out(self) -> tuple[int, ...]:
        return tuple(map(output_size, self.dilated, self.pads, self.effective_size, self.strides))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to sum over or nothing to fill: the result is zeros."""
        return 0 in (self.batch, self.channels, self.features, *self.spatial, *self.out, *self.window)

    @property
    def depthwise(self) -> bool:
        return self.groups == self.channels and self.groups > 1

    @property
    def dilates_input(self) -> bool:
        return any(d > 1 for d in self.input_dilation)

    @property
    def macs(self) -> int:
        """Multiply-adds, padding included."""
        return self.batch * math.prod(self.out) * math.prod(self.window) * self.channels // self.groups * self.features

    @property
    def accumulator(self) -> Any:
        """The dtype of sums: `out_dtype`, but never narrower than float32 among the floats."""
        narrow = jnp.issubdtype(self.out_dtype, jnp.floating) and jnp.finfo(self.out_dtype).bits < 32
        return jnp.dtype(jnp.float32) if narrow else jnp.dtype(self.out_dtype)

    @property
    def is_highest(self) -> bool:
        """Whether the precision asks for direct summation."""
        return self.precision is not None and lax.Precision.HIGHEST in tuple(self.precision)

    def result_shape(self, kind: Kind) -> tuple[int, ...]:
        if kind == "forward":
            return (self.batch, *self.out, self.features)
        return (*self.window, self.channels // self.groups, self.features)

    def without_axis(self, axis: int) -> Problem:
        """The problem of the other spatial axes."""
        names = ("spatial", "window", "strides", "pads", "input_dilation", "kernel_dilation")
        axis %= self.rank
        rest: dict[str, Any] = {name: (*getattr(self, name)[:axis], *getattr(self, name)[axis + 1 :]) for name in names}
        return dataclasses.replace(self, **rest)
