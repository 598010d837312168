"""A convolution in the one layout that tables and formulations know: channels last, static sizes.

`x` is `(n, *spatial, c)`, the kernel `(*window, c // groups, features)`, the result `(n, *out, features)`. `dispatch`
brings every convolution of a JAX program, forward or derivative, in any layout, to one of two maps:

- **forward**: `x, kernel -> y`. The input gradient is this map too, with `input_dilation` in the role of the strides.
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
_AXES = ("spatial", "window", "strides", "pads", "input_dilation", "kernel_dilation")  # one value for each axis


@dataclasses.dataclass(frozen=True)
class Problem:
    """The static sizes, dtypes and precision of a forward convolution; hashable. A table chooses by them alone."""

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
    largest_product: int | None = None  # of two elements, if it is less than the dtypes allow

    @property
    def rank(self) -> int:
        return len(self.spatial)

    @property
    def dilated(self) -> tuple[int, ...]:
        """Spatial sizes after `input_dilation`, before padding."""
        return tuple((s - 1) * d + 1 if s else 0 for s, d in zip(self.spatial, self.input_dilation))

    @property
    def effective_size(self) -> tuple[int, ...]:
        """Size of the dilated window on the input."""
        return tuple((w - 1) * d + 1 for w, d in zip(self.window, self.kernel_dilation))

    @property
    def out(self) -> tuple[int, ...]:
        return tuple(map(output_size, self.dilated, self.pads, self.effective_size, self.strides))

    @property
    def exact_pads(self) -> tuple[tuple[int, int], ...]:
        """The pads without the part at the end of each axis that no output reads."""
        ends = [
            (out - 1) * s + size - n
            for out, s, size, n in zip(self.out, self.strides, self.effective_size, self.dilated)
        ]
        return tuple((low, end - low) for (low, _), end in zip(self.pads, ends))

    @property
    def empty(self) -> bool:
        """Whether the result is empty or a sum of no terms, which is zeros."""
        return 0 in (self.batch, self.channels, self.features, *self.spatial, *self.out, *self.window)

    @property
    def depthwise(self) -> bool:
        return self.groups == self.channels and self.groups > 1

    @property
    def plain_depthwise(self) -> bool:
        """Whether it is depthwise with one feature for each channel."""
        return self.depthwise and self.features == self.channels

    @property
    def dilates_input(self) -> bool:
        return any(d > 1 for d in self.input_dilation)

    @property
    def macs(self) -> int:
        """Number of multiply-adds, padding included."""
        return self.batch * math.prod(self.out) * math.prod(self.window) * self.channels // self.groups * self.features

    @property
    def accumulator(self) -> Any:
        """The dtype of sums: `out_dtype`, or float32 for narrower floats."""
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
        """Return the problem of the other spatial axes."""
        axis %= self.rank
        rest: dict[str, Any] = {name: (*getattr(self, name)[:axis], *getattr(self, name)[axis + 1 :]) for name in _AXES}
        return dataclasses.replace(self, **rest)

    def with_unit_axis(self) -> Problem:
        """Return the problem with one more spatial axis, of length 1, before the others."""
        axes: dict[str, Any] = {name: ((0, 0) if name == "pads" else 1, *getattr(self, name)) for name in _AXES}
        return dataclasses.replace(self, **axes)
