"""The one form in which a formulation sees a convolution: channels last, plain integers.

`x` is `(n, *spatial, c)`, the kernel `(*window, c // groups, features)`, the result `(n, *out, features)`. Every convolution of
a JAX program, forward or derivative, in any layout, is brought to one of two maps:

- **forward**: `x, kernel -> y`. The input gradient is this map too, with `lhs_dilation` in the place of strides.
- **kernel gradient**: `x, dy -> dkernel`, described by the `Problem` of the forward map that it is the derivative of.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Problem:
    """The static facts of a forward convolution; hashable, and all that the table may look at."""

    batch: int
    spatial: tuple[int, ...]
    channels: int
    window: tuple[int, ...]
    features: int
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]  # may be negative; applied after lhs_dilation
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int
    dtype: Any  # of the operands
    out_dtype: Any  # of the result, never narrower
    precision: Any = None  # jax.lax's canonical form: None or a pair of jax.lax.Precision

    @property
    def rank(self) -> int:
        return len(self.spatial)

    @property
    def dilated(self) -> tuple[int, ...]:
        """Spatial sizes after `lhs_dilation`, before padding."""
        return tuple(max(0, (s - 1) * d + 1) if s else 0 for s, d in zip(self.spatial, self.lhs_dilation))

    @property
    def effective_size(self) -> tuple[int, ...]:
        """The extent of the dilated window on the input."""
        return tuple((w - 1) * d + 1 for w, d in zip(self.window, self.rhs_dilation))

    @property
    def out(self) -> tuple[int, ...]:
        spans = (s + lo + hi - r for s, (lo, hi), r in zip(self.dilated, self.pads, self.effective_size))
        return tuple(span // stride + 1 if span >= 0 else 0 for span, stride in zip(spans, self.strides))

    @property
    def depthwise(self) -> bool:
        return self.groups == self.channels and self.groups > 1

    @property
    def macs(self) -> int:
        """Multiply-adds, padding taps included."""
        return self.batch * math.prod(self.out) * math.prod(self.window) * self.channels // self.groups * self.features
