"""`freeze`: compile a network for inference."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._backend.fusion.call import pack_kernels
from .._backend.fusion.chains import find_chains, is_convolution, is_product, replace_chains
from .._backend.fusion.program import Program, mark_operations, without_dead_ops
from . import affine, concatenations, constants
from .trace import Arguments, array_types, function_of, is_module, keep

TOLERANCE = 1e-3  # how much folding may change results in float32, relative to the largest
ROUNDINGS = 4  # the same in units of the last place of the coarsest dtype of a program


@dataclasses.dataclass(frozen=True)
class Report:
    """The changes that `freeze` made to a program.

    Attributes:
        convolutions: number of convolutions.
        folded: number of operations folded into kernels and biases.
        fused: number of fused calls, by the kinds of operations that follow the convolution.
        operations: number of operations before and after.
        difference: largest difference from the function's results for the example, relative to their largest value;
            None if the example had shapes only.
        tolerance: a larger difference than this, if anything was folded, makes `freeze` fold nothing.
        notes: remarks on what was not changed, and why.
    """

    convolutions: int
    folded: int
    fused: dict[tuple[str, ...], int]
    operations: tuple[int, int]
    difference: float | None = None
    tolerance: float = TOLERANCE
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.convolutions} convolutions; {self.operations[0]} operations before, {self.operations[1]} after",
            f"{self.folded} operations folded into kernels and biases",
            *(f"{count} x convolution + {' + '.join(kinds)}" for kinds, count in self.fused.items()),
            *([] if self.difference is None else [f"largest difference {self.difference:.1e} of the largest result"]),
            *self.notes,
        ]
        return "\n".join(lines)


class Frozen:
    """The result of `freeze`: a function of the arguments without the parameters. `report` lists the changes."""

    report: Report

    def __init__(self, function: Callable) -> None:
        self._function, self._folds = function, True
        self._programs: dict[Hashable, tuple[Callable, Report]] = {}
        self._of_types: dict[tuple, Callable] = {}
        functools.update_wrapper(self, function, ("__name__", "__qualname__", "__doc__"), ())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        types = None if kwargs else array_types(args)
        run = self._of_types.get(types) if types else None
        if run is not None:  # most calls: reading a tree of arguments takes longer than a small network
            return run(*args)
        arguments = Arguments.of(args, kwargs)
        run, _ = self._program(arguments)
        if types:
            self._of_types[types] = run
        return run(*arguments.arrays)

    def _program(self, arguments: Arguments) -> tuple[Callable, Report]:
        """Return the compiled program of the flat arguments of these shapes, which the first call compiles."""
        key = arguments.key
        if key not in self._programs:
            program, structure, report = _freeze_program(arguments, self._function, self._folds)
            program, stored = constants.as_arguments(program)

            def frozen(stored: list[Any], *arrays: Any) -> Any:
                return jax.tree.unflatten(structure, program(*stored, *arrays))

            self._programs[key] = functools.partial(jax.jit(frozen), stored), report
        return self._programs[key]

    def _check(self, arguments: Arguments) -> None:
        """Compare the results for an example with the function's, and compile without folding if they differ."""
        _, report = self._program(arguments)
        self.report = report
        if any(isinstance(a, jax.ShapeDtypeStruct) for a in arguments.arrays):
            return
        expected = jax.jit(lambda *arrays: arguments.call(self._function, arrays))(*arguments.arrays)
        difference = _difference(arguments.call(self, arguments.arrays), expected)
        if difference > report.tolerance and report.folded:
            self._folds, self._programs, self._of_types = False, {}, {}
            self._check(arguments)
            note = f"nothing is folded: the results differed by {difference:.1e}"
            self.report = dataclasses.replace(self.report, notes=(*self.report.notes, note))
            return
        self.report = dataclasses.replace(report, difference=difference)


def _freeze_program(arguments: Arguments, function: Callable, folds: bool) -> tuple[Program, Any, Report]:
    """Return the frozen program of a function, the structure of its results, and the changes.

    No earlier form of the program is kept, since each has arrays of its own.
    """
    program, structure = arguments.trace(function)
    before, folded, tolerance = len(program.ops), 0, _tolerance(program)
    program = constants.fold_constants(without_dead_ops(program))
    if folds:
        program, folded = affine.fold_affine(program)
    program = without_dead_ops(program)
    chains = find_chains(program)
    packed = pack_kernels(chains)
    affine.make_output_first(program)  # the other kernels
    found = [chain for chain in chains if chain.kinds or chain in packed or not is_product(chain.conv)]
    count = sum(map(is_convolution, program.ops))
    program = mark_operations(concatenations.write_in_place(replace_chains(program, found, packed)))
    fused = Counter(chain.kinds for chain in found if chain.kinds)
    return program, structure, Report(count, folded, dict(fused), (before, len(program.ops)), tolerance=tolerance)


def _tolerance(program: Program) -> float:
    dtypes = {getattr(v.aval, "dtype", None) for op in program.ops for v in op.outputs}
    return max(
        [TOLERANCE, *(ROUNDINGS * float(jnp.finfo(d).eps) for d in dtypes if d and jnp.issubdtype(d, np.floating))]
    )


def _difference(got: Any, expected: Any) -> float:
    """Return the largest difference of two trees of arrays, relative to the largest value of each array."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        if not isinstance(getattr(b, "dtype", None), np.dtype) or b.dtype.kind == "b" or b.size == 0:
            continue
        a, b = np.asarray(a).astype(np.complex128), np.asarray(b).astype(np.complex128)
        finite = np.isfinite(a) & np.isfinite(b)
        error, largest = (
            float(abs(v[finite]).max(initial=0)) for v in (np.where(finite, a, 0) - np.where(finite, b, 0), b)
        )
        worst = max(worst, error / largest if largest else error)
    return worst


def freeze(fn: Any, *args: Any, **kwargs: Any) -> Frozen:
    """Compile a function with its parameters, or a module, for inference: fold constants and fuse operations.

    The parameters become constants, and values that depend only on them are computed once. Batch normalisation in
    evaluation mode, and other sums and products with one number per channel, become part of the kernel and bias of the
    convolution before them. On the CPU, if jaxlib has oneDNN, a convolution and the bias, the sum with an array of its
    shape and the activation (ReLU, ReLU6, SiLU, sigmoid, tanh, ELU, GELU) that follow it are one call. The rest is
    unchanged: dropout, statistics of the batch, results that other operations read too, a normalisation before a
    convolution.

    Results equal those of the function up to rounding, except that a NaN before a ReLU or ReLU6 that is part of a call
    becomes 0.

    Args:
        fn: a function `fn(params, *args)`, such as a Linen module's `apply`; or a module of NNX or Equinox, in
            evaluation mode.
        *args: for a function first its parameters, any tree of arrays; then an example of the other arguments, arrays
            or `jax.ShapeDtypeStruct`s. Values that are not arrays are static.
        **kwargs: keyword arguments of the example.

    Returns:
        A function `frozen(*args)`, equal to `fn(params, *args)` or `model(*args)`. `frozen.report` lists what was
        folded and fused, and the difference of the results for the example from the function's. It accepts other
        shapes, which are compiled at their first call, and can be called in `jax.jit`, and exported. Later changes of
        the parameters have no effect on it.

    Raises:
        TypeError: `fn` is neither a function nor a module, or a function without parameters.

    Example:
        >>> from convlab import conv
        >>> def block(kernel, x):
        ...     return jax.nn.relu(conv(x, kernel) * 2 + 1)
        >>> x, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 16))
        >>> frozen = freeze(block, kernel, x)
        >>> frozen.report.folded, frozen(x).shape
        (2, (1, 8, 8, 16))

    Source: batch normalisation is folded as in Jacob et al. 2018, section 3.2.
    """
    if is_module(fn):
        function = function_of(fn)
    elif not callable(fn):
        raise TypeError(f"`fn` must be a function or a module of NNX or Equinox, got {fn!r}.")
    elif not args:
        raise TypeError("`params` must be given for a function, got none. A module of NNX or Equinox has its own.")
    else:
        function, args = functools.partial(fn, keep(args[0])), args[1:]
    frozen = Frozen(function)
    frozen._check(Arguments.of(args, kwargs))
    return frozen
