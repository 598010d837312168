"""Compute a function on each device's part of a batch that an explicit mesh splits.

Public functions whose operations have no sharding rule in lax call these before they bind anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

Array = jax.Array


def is_split(x: Any, rank: int) -> bool:
    """Return whether an explicit mesh splits only the first batch axis of `x`, `(*batch, *spatial, c)` with `rank`
    spatial axes."""
    if getattr(x, "ndim", 0) < rank + 2:
        return False
    spec: Any = getattr(getattr(jax.typeof(x), "sharding", None), "spec", ()) if isinstance(x, jax.Array) else ()
    return len(spec) > 0 and spec[0] is not None and not any(spec[1:])


def map_over_batch(function: Callable[..., Array], batched: Sequence[Any], shared: Sequence[Any] = ()) -> Array:
    """Compute `function(*batched, *shared)` on each device's part of the `batched` arrays; the first one `is_split`."""
    sharding = jax.typeof(batched[0]).sharding
    split = PartitionSpec(sharding.spec[0])
    specs = (*[split] * len(batched), *[PartitionSpec()] * len(shared))
    mapped = jax.shard_map(function, mesh=sharding.mesh, in_specs=specs, out_specs=split, check_vma=False)
    return mapped(*batched, *shared)
