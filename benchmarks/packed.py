"""Measures the cost of packing: a causal depthwise convolution with and without `segment_ids`, also with gradients.

    python benchmarks/packed.py

Each time is the minimum of calls that take turns, in ms.
"""

from __future__ import annotations

import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

import convlab

SHAPES = [(8, 1024, 512), (8, 2048, 512), (4, 1024, 256), (1, 512, 768)]
ROUNDS = 60


def least(calls) -> list[float]:
    """Return the minimum time of each call; the calls take turns."""
    times = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, taken in zip(calls, times):
            began = time.perf_counter()
            jax.block_until_ready(call())
            taken.append(time.perf_counter() - began)
    return [1e3 * min(taken) for taken in times]


def row(shape: tuple[int, int, int], taps: int) -> list[float]:
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=of), jnp.float32) for of in (shape, (taps, 1, shape[-1])))
    ids = jnp.asarray(np.sort(rng.integers(0, 8, shape[:2]), 1), jnp.int32)

    def conv(x, kernel, ids):
        return convlab.conv(x, kernel, padding="CAUSAL", feature_group_count=shape[-1], segment_ids=ids)

    def gradients(x, kernel, ids):
        return jax.vjp(lambda x, kernel: conv(x, kernel, ids), x, kernel)[1](x)

    programs = [(jax.jit(f), given) for f in (conv, gradients) for given in (None, ids)]
    calls = [lambda f=f, given=given: f(x, kernel, given) for f, given in programs]
    for call in calls:
        jax.block_until_ready(call())
    return least(calls)


def main() -> None:
    print(f"jax {jax.__version__}, {platform.machine()}, {jax.default_backend()}, {time.strftime('%Y-%m-%d')}")
    print(
        "| shape | taps | forward | packed | ratio | gradients | packed | ratio |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for shape in SHAPES:
        for taps in (2, 3, 4):
            a, b, c, d = row(shape, taps)
            print(
                f"| {shape} | {taps} | {a:.2f} | {b:.2f} | {b / a:.2f} | {c:.2f} | {d:.2f} | {d / c:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
