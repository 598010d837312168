"""Constant kernels in the layout of the engine's matrix product, which then does not lay them out at each call.

The engine chooses the layout by the sizes of the product and does not tell it, so `is_known` tries the one of `pack`
for each product. oneDNN's name for it is BA16a64b: blocks of 64 columns, each with its rows one after the other.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import engine
from ..buffers import pad_spatial
from ..formulations.base import Array, kernel_indices, slice_for_tap
from ..problem import Problem
from .program import Op, Program, Value, from_jaxpr

COLUMNS, ROWS = 64, 16  # of a block; a matrix is padded with zeros to whole blocks
FEW = 128  # positions whose patches cost less than the kernel's new layout
KERNEL_PER_PATCHES = 4  # the same for more positions: how many times larger than the patches the kernel is


def product_of(p: Problem) -> tuple[int, int, int]:
    """Return the sizes (rows, terms, columns) of the product of the image's patches and the kernel as a matrix."""
    return p.batch * math.prod(p.out), math.prod(p.window) * p.channels, p.features


def packed_shape(p: Problem) -> tuple[int, int, int]:
    _, terms, columns = product_of(p)
    return -(-columns // COLUMNS), -(-terms // ROWS) * ROWS, COLUMNS


def pack(kernel: Any, p: Problem) -> np.ndarray:
    """Return a kernel (*window, c, features) in the engine's layout."""
    blocks, rows, _ = packed_shape(p)
    _, terms, columns = product_of(p)
    matrix = np.zeros((rows, blocks * COLUMNS), np.float32)
    matrix[:terms, :columns] = np.reshape(kernel, (terms, columns))
    return np.ascontiguousarray(matrix.reshape(rows, blocks, COLUMNS).transpose(1, 0, 2))


def unpack(packed: Array, p: Problem, axes: tuple[int, ...]) -> Array:
    """Undo `pack`: return the kernel (*window, c, features), or (c, features), its axes in the order `axes`."""
    _, terms, columns = product_of(p)
    rows = lax.transpose(packed, (1, 0, 2))
    matrix = lax.slice(lax.reshape(rows, (rows.shape[0], rows.shape[1] * rows.shape[2])), (0, 0), (terms, columns))
    return lax.transpose(lax.reshape(matrix, (*p.window, p.channels, columns)[-len(axes) :]), axes)


def find_packed(kernel: Value, program: Program, p: Problem, axes: tuple[int, ...]) -> tuple[Value, list[Op]] | None:
    """Return the packed kernel that `unpack` makes a kernel of, and its operations; None if it is made otherwise."""
    makers = {op.outputs[0]: op for op in program.ops if len(op.inputs) == len(op.outputs) == 1}
    value, ops = kernel, []
    while value in makers:
        ops.append(makers[value])
        (value,) = makers[value].inputs
    if value not in program.inputs or value.aval.shape != packed_shape(p):
        return None
    expected = from_jaxpr(jax.make_jaxpr(lambda packed: unpack(packed, p, axes))(value.aval)).ops
    steps = [[(op.name, op.params) for op in found] for found in (ops[::-1], expected)]
    return (value, ops) if steps[0] == steps[1] else None


def pays(p: Problem) -> bool:
    """Return whether the product is faster than the engine's convolution, which lays its kernel out at each call.

    A window needs the image's patches in memory, so only the kernels of small images gain. Measured with AVX-512.
    """
    if p.groups != 1 or p.dilates_input or p.empty or "avx512bw" not in engine.instructions():
        return False
    rows, _, columns = product_of(p)
    return is_pointwise(p) or rows <= FEW or columns >= KERNEL_PER_PATCHES * rows


def is_pointwise(p: Problem) -> bool:
    """Return whether each output reads one position of the image, none of them in padding."""
    return math.prod(p.window) == 1 and not p.dilates_input and all(max(pair) <= 0 for pair in p.exact_pads)


def multiply(x: Array, packed: Array, p: Problem, ops: list[str], extras: list[Array]) -> Array:
    """Compute the convolution of an image (n, *spatial, c) as the engine's product with a packed kernel."""
    columns = product_of(p)[2]
    extras = [extra if extra.ndim == 1 else extra.reshape(-1, columns) for extra in extras]
    y = engine.matmul(_patches(x, p), packed.reshape(-1), columns=columns, ops=ops, extras=extras)
    return y.reshape(p.batch, *p.out, columns)


def _patches(x: Array, p: Problem) -> Array:
    """Return what each output reads, as the rows of a matrix (im2col)."""
    image = pad_spatial(x, p.exact_pads)
    taps = [slice_for_tap(image, tap, p) for tap in kernel_indices(p)]
    return jnp.concatenate(taps, -1).reshape(-1, product_of(p)[1])


@functools.cache
def is_known(p: Problem, ops: tuple[str, ...]) -> bool:
    """Try the product with a packed kernel once in a process; return whether it is the product with a plain one."""
    try:
        return engine.apart(functools.partial(_try_product, p, ops))
    except Exception:  # of a layout that the engine refuses, or of a trial that takes too long
        return False


def _try_product(p: Problem, ops: tuple[str, ...]) -> bool:
    rows, terms, columns = product_of(p)
    rng = np.random.default_rng(0)
    shapes = {"BIAS": (columns,), "BINARY_ADD": (rows, columns)}
    a, b, *extras = (
        rng.integers(-4, 5, shape, np.int8).astype(np.float32)
        for shape in ((rows, terms), (terms, columns), *(shapes[op] for op in ops if op in shapes))
    )

    @jax.jit
    def both(a: Array, b: Array, packed: Array, *extras: Array) -> list[Array]:
        kernels = ((b, None), (packed, columns))
        return [engine.matmul(a, kernel, columns=n, ops=ops, extras=extras) for kernel, n in kernels]

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        plain, packed = map(np.asarray, both(a, b, pack(b, p).reshape(-1), *extras))
    return bool(np.allclose(plain, packed, rtol=1e-4, atol=1e-4))
