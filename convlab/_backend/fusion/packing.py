"""Constant kernels in the layout of the engine's matrix product, which then does not lay them out at each call.

The engine chooses the layout by the sizes of the product and does not tell it, so `is_known` tries the one of `pack`
for each product. oneDNN's name for it is BA16a64b: blocks of 64 columns, each with its rows one after the other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import engine
from ..buffers import materialize, pad_spatial
from ..formulations.base import Array, kernel_indices, slice_for_tap
from ..problem import Problem
from . import activations
from .program import Op, Program, Value, from_jaxpr

Trial = tuple[tuple[int, int, int], tuple[str, ...]]  # the sizes of a product, and the engine's epilogues
COLUMNS, ROWS = 64, 16  # of a block; a matrix is padded with zeros to whole blocks
FEW = 128  # positions whose patches cost less than the kernel's new layout
FEW_UNBLOCKED = 64  # the same without AVX-512
KERNEL_PER_PATCHES = 4  # the same for more positions: how many times larger than the patches the kernel is
GROUP = 2**23  # numbers in the arrays of the products that are tried together
LARGE_KERNEL = 2**16  # numbers of a kernel whose new layout costs more than the patches of few positions
DISTINCT = 4  # rows of a tried product that differ
_known: dict[Trial, bool] = {}


def has_blocks() -> bool:
    """Return whether the engine's product reads kernels in blocks; without AVX-512 it reads matrices as they are."""
    return "avx512bw" in engine.instructions()


def product_of(p: Problem) -> tuple[int, int, int]:
    """Return the sizes (rows, terms, columns) of the product of the image's patches and the kernel as a matrix."""
    return p.batch * math.prod(p.out), math.prod(p.window) * p.channels, p.features


def packed_shape(p: Problem) -> tuple[int, int, int]:
    return _packed_shape(*product_of(p)[1:])


def _packed_shape(terms: int, columns: int) -> tuple[int, int, int]:
    if not has_blocks():
        return 1, terms, columns
    return -(-columns // COLUMNS), -(-terms // ROWS) * ROWS, COLUMNS


def pack(kernel: Any, p: Problem) -> np.ndarray:
    """Return a kernel (*window, c, features) in the engine's layout."""
    _, terms, columns = product_of(p)
    return _pack_matrix(np.reshape(kernel, (terms, columns)))


def _pack_matrix(matrix: np.ndarray) -> np.ndarray:
    packed = np.zeros(_packed_shape(*matrix.shape), np.float32)
    width = packed.shape[-1]
    for block, first in zip(packed, range(0, matrix.shape[1], width)):
        part = matrix[:, first : first + width]
        block[: part.shape[0], : part.shape[1]] = part
    return packed


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

    A window needs the image's patches in memory, so only the kernels of small images gain. Without AVX-512 the product
    lays its kernel out at each call too, but faster on very few positions.
    """
    if p.groups != 1 or p.dilates_input or p.empty:
        return False
    rows, terms, columns = product_of(p)
    if not has_blocks() and rows > FEW_UNBLOCKED:
        return False
    large = terms * columns >= LARGE_KERNEL and (rows <= FEW or columns >= KERNEL_PER_PATCHES * rows)
    return large or is_pointwise(p)


def is_pointwise(p: Problem) -> bool:
    """Return whether each output reads one position of the image, none of them in padding."""
    return math.prod(p.window) == 1 and not p.dilates_input and all(max(pair) <= 0 for pair in p.exact_pads)


def multiply(x: Array, packed: Array, p: Problem, ops: list[str], extras: list[Array]) -> Array:
    """Compute the convolution of an image (n, *spatial, c) as the engine's product with a packed kernel."""
    columns = product_of(p)[2]
    extras = [extra if extra.ndim == 1 else extra.reshape(-1, columns) for extra in extras]
    if has_blocks():
        y = engine.matmul(_patches(x, p), packed.reshape(-1), columns=columns, ops=ops, extras=extras)
    else:
        y = engine.matmul(_patches(x, p), packed[0], ops=ops, extras=extras)
    return y.reshape(p.batch, *p.out, columns)


def _patches(x: Array, p: Problem) -> Array:
    """Return what each output reads, as the rows of a matrix (im2col)."""
    image = pad_spatial(x, p.exact_pads)
    if math.prod(p.window) > 1:  # XLA would compute what produces the image for each tap
        image = materialize(image)
    taps = [slice_for_tap(image, tap, p) for tap in kernel_indices(p)]
    return jnp.concatenate(taps, -1).reshape(-1, product_of(p)[1])


def is_known(p: Problem, ops: tuple[str, ...]) -> bool:
    """Return whether the engine's product reads the kernel that `pack` makes; the first call for a product tries it."""
    if not has_blocks():
        return True
    try_products([(p, ops)])
    return _known[product_of(p), ops]


def try_products(products: Sequence[tuple[Problem, tuple[str, ...]]]) -> None:
    """Try the products that were not tried in this process, several in one program, which compiles faster than many."""
    if not has_blocks():
        return
    new = dict.fromkeys((product_of(p), ops) for p, ops in products if (product_of(p), ops) not in _known)
    for group in _groups(list(new)):
        results = _results(group)
        if results is None and len(group) > 1:  # the engine refused one of them
            results = [(_results([trial]) or [False])[0] for trial in group]
        _known.update(zip(group, results or [False]))


def _groups(trials: list[Trial]) -> Iterator[list[Trial]]:
    """Split the trials into groups whose arrays are not larger than `GROUP`, or of one trial."""
    group: list[Trial] = []
    total = 0
    for trial in trials:
        (rows, terms, columns), _ = trial
        size = rows * terms + terms * columns + rows * columns
        if group and total + size > GROUP:
            yield group
            group, total = [], 0
        group.append(trial)
        total += size
    if group:
        yield group


def _results(group: list[Trial]) -> list[bool] | None:
    """Return which products of a group are those of a plain kernel; None if the engine refuses the program."""
    try:
        return engine.apart(functools.partial(_try_group, group))
    except Exception:  # of a layout that the engine refuses, or of a trial that takes too long
        return None


def _try_group(group: list[Trial]) -> list[bool]:
    programs, operands, expected = zip(*(_trial(*trial) for trial in group))

    @jax.jit
    def all_of_them(operands: Sequence[Sequence[Array]]) -> list[Array]:
        return [program(*arrays) for program, arrays in zip(programs, operands)]

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        results = map(np.asarray, all_of_them(operands))
    return [np.allclose(y, np.resize(want, y.shape), rtol=1e-4, atol=1e-4) for y, want in zip(results, expected)]


def _trial(size: tuple[int, int, int], ops: tuple[str, ...]) -> tuple[Callable, list[np.ndarray], np.ndarray]:
    """Return a product with a packed kernel, operands of small integers, and what NumPy computes of the first rows."""
    rows, terms, columns = size
    numbers = np.random.default_rng(0).integers(-4, 5, 65537).astype(np.float32)
    of_extras = {"BIAS": (1, columns), "BINARY_ADD": (rows, columns)}
    shapes = [(rows, terms), *(of_extras[op] for op in ops if op in of_extras)]
    a, *extras = (np.resize(numbers, (min(n, DISTINCT), m)) for n, m in shapes)
    b = np.resize(numbers[::-1], (terms, columns))
    want = sum(extras, a @ b)
    with np.errstate(over="ignore"):
        for op in ops:
            want = activations.ACTIVATIONS.get(op.lower(), lambda y: y)(want)
    a, *extras = (np.resize(array, shape) for array, shape in zip((a, *extras), shapes))
    given = [a, _pack_matrix(b).reshape(-1), *(extra.reshape(-1) if len(extra) == 1 else extra for extra in extras)]
    program = lambda a, b, *extras: engine.matmul(a, b, columns=columns, ops=ops, extras=extras)
    return program, given, want
