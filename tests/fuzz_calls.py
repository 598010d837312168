"""The random calls of `fuzz.py`: a call of convlab, the same by NumPy, and the bound of their difference."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import fuzz_problems as maps
import jax
import jax.numpy as jnp
import numpy as np
from compilation import OPTIONS
from fuzz_problems import pick
from jax import lax

import convlab
from convlab._backend import dispatch, tables
from convlab._backend.problem import Problem

ROUGH = {"winograd", "fft"}  # formulations whose error is relative to the whole arrays
DTYPES = (np.float32,) * 6 + (jnp.bfloat16, np.float16, np.float64, np.complex64, np.int32)


@dataclasses.dataclass
class Call:
    text: str
    program: Callable  # of the operands
    operands: list
    oracle: Callable  # the same by NumPy
    bound: float  # of the error, in roundings of the sum of magnitudes
    rough: bool = False
    magnitudes: Callable | None = None  # the sums of magnitudes, if not the oracle's of those of the operands
    default: bool = True  # compiled as users have it
    accelerated: bool = False  # a program of lax's, inside `accelerate`

    def fault(self) -> str | None:
        """Return a description of the fault, or None."""
        with jax.enable_x64(any(a.dtype.itemsize == 8 and a.dtype.kind == "f" for a in self.operands)):
            with convlab.accelerate() if self.accelerated else contextlib.nullcontext():
                compiled = jax.jit(self.program, compiler_options=None if self.default else OPTIONS)
                got = jax.tree.leaves(compiled(*map(jnp.asarray, self.operands)))
            wide = [_wide(a) for a in self.operands]
            want, magnitudes = (
                self.oracle(*wide),
                (self.magnitudes(*wide) if self.magnitudes else self.oracle(*map(np.abs, wide))),
            )
            norms = sorted(map(np.linalg.norm, wide))[-2:] if self.rough else [0]
            magnitudes = [np.maximum(m, np.prod(norms)) for m in magnitudes]
            faults = [self._apart(i, *arrays) for i, arrays in enumerate(zip(got, want, magnitudes, strict=True))]
        return "; ".join(filter(None, faults)) or None

    def _apart(self, i, got, want, magnitudes) -> str | None:
        if got.shape != want.shape:
            return f"result {i} has shape {got.shape}, not {want.shape}"
        if not got.size:
            return None
        rounding = 0 if got.dtype.kind == "i" else float(jnp.finfo(got.dtype).eps)
        with np.errstate(invalid="ignore"):  # inf - inf
            error = np.where(_wide(np.asarray(got)) == want, 0, np.abs(_wide(np.asarray(got)) - want))
        wrong = ~(error <= self.bound * rounding * magnitudes + (1e-6 if got.dtype == np.float16 else 1e-30))
        if not wrong.any():
            return None
        worst = float(np.max(error / (rounding * magnitudes + 1e-30)))
        return f"result {i} {got.shape}: {wrong.mean():.1%} are wrong, by {worst:.3g} roundings"


def _wide(a):
    return a.astype({"c": np.complex128, "i": np.int64}.get(a.dtype.kind, np.float64))


def _text(p: Problem, *more) -> str:
    facts = dataclasses.asdict(p) | {"dtype": p.dtype.name}
    shown = ((name, value) for name, value in facts.items() if name not in ("out_dtype", "precision"))
    return " ".join([*map(str, more), *(f"{name}={value}".replace(" ", "") for name, value in shown)])


def _bound(p: Problem) -> float:
    """Return the bound, which grows with the square root of the longest of the three sums."""
    positions = p.batch * int(np.prod(p.out))
    return 16 + 2 * max(positions, p.macs // max(1, positions)) ** 0.5


# --- formulations: one map of one problem, by one that supports it ------------------------------------------------


def formulation(seed: int) -> Call:
    rng = np.random.default_rng(seed)
    while True:
        p, kind = maps.problem(rng), pick(rng, ("forward", "kernel_gradient"))
        long = np.prod(p.window) > 64 or min(np.prod(p.out), 600) > 500
        names = [
            "auto",
            *(name for name in tables.FORMULATIONS if tables.FORMULATIONS[name].unsupported_reason(kind, p) is None),
        ]
        names = [
            name
            for name in names
            if not (
                long and name in ("taps", "gemm", "output_blocking", "batch_vectorized", "subpixel", "block_diagonal")
            )
        ]
        name = pick(rng, [*names, *(n for n in names if n != "auto" and tables.FORMULATIONS[n].needs_engine)])
        if name != "lax":
            break
    x, kernel, dy = maps.operands(rng, p)
    target, oracle = tables.Target(), getattr(maps, kind)
    choice = tables.choose(kind, p, name, target)
    return Call(
        text=_text(p, name, kind),
        program=lambda a, b: [dispatch.compute(kind, a, b, p, choice, target)],
        operands=[x, kernel if kind == "forward" else dy],
        oracle=lambda a, b: [oracle(a, b, p)],
        bound=_bound(p),
        rough=name in ROUGH,
    )


# --- transforms: convlab's functions and their derivatives --------------------------------------------------------


def _public(p: Problem, method: str, precision, accelerated: bool) -> Callable:
    options = dict(feature_group_count=p.groups, precision=precision)
    if accelerated:
        last = p.rank + 1
        image, taps = (0, last, *range(1, last)), (last, last - 1, *range(last - 1))
        numbers = lax.ConvDimensionNumbers(image, taps, image)
        return lambda x, k: lax.conv_general_dilated(
            x, k, p.strides, p.pads, p.input_dilation, p.kernel_dilation, numbers, **options
        )
    options |= dict(
        strides=p.strides, padding=p.pads, input_dilation=p.input_dilation, kernel_dilation=p.kernel_dilation
    )
    return lambda x, k: convlab.conv(x, k, method=method, **options)


def _maps(p: Problem):
    return (
        lambda x, k: maps.forward(x, k, p),
        lambda k, dy: maps.input_gradient(k, dy, p),
        lambda x, dy: maps.kernel_gradient(x, dy, p),
    )


def _gradients(conv):
    def program(x, k, dy):
        y, back = jax.vjp(conv, x, k)
        return [y, *back(dy)]

    return program


def _gradients_oracle(p):
    forward, dx, dk = _maps(p)
    return lambda x, k, dy: [forward(x, k), dx(k, dy), dk(x, dy)]


def _second(conv):
    """Return the derivative of the gradient of sum(conv ** 2) / 2."""

    def program(x, k, tx, tk):
        loss = lambda x, k: (conv(x, k) ** 2).sum() / 2
        return jax.jvp(jax.grad(loss, (0, 1)), (x, k), (tx, tk))[1]

    return program


def _second_oracle(p):
    forward, dx, dk = _maps(p)

    def oracle(x, k, tx, tk):
        y, ty = forward(x, k), forward(tx, k) + forward(x, tk)
        return [dx(k, ty) + dx(tk, y), dk(x, ty) + dk(tx, y)]

    return oracle


def _mapped(axes):
    """Return `_gradients` under vmap."""
    return lambda conv: jax.vmap(_gradients(conv), axes)


def _mapped_oracle(axes):
    def oracle(p):
        def mapped(*arrays):
            one = lambda i: [a if axis is None else np.take(a, i, axis) for a, axis in zip(arrays, axes)]
            count = next(a.shape[axis] for a, axis in zip(arrays, axes) if axis is not None)
            return [np.stack(parts) for parts in zip(*(_gradients_oracle(p)(*one(i)) for i in range(count)))]

        return mapped

    return oracle


def _scanned(conv):
    def program(x, k, dy):
        return lax.scan(lambda carry, each: (carry, _gradients(conv)(each[0], k, each[1])), 0, (x, dy))[1]

    return program


ON_X, ON_KERNEL, ON_BOTH = (0, None, 0), (None, 2, 0), (1, 0, 0)
TRANSFORMS: dict[str, tuple[Callable, Callable, tuple]] = {
    "gradients": (_gradients, _gradients_oracle, (None, None, None)),
    "second": (_second, _second_oracle, ()),
    "vmap x": (_mapped(ON_X), _mapped_oracle(ON_X), ON_X),
    "vmap kernel": (_mapped(ON_KERNEL), _mapped_oracle(ON_KERNEL), ON_KERNEL),
    "vmap both": (_mapped(ON_BOTH), _mapped_oracle(ON_BOTH), ON_BOTH),
    "scan": (_scanned, _mapped_oracle(ON_X), ON_X),
}


def transform(seed: int) -> Call:
    rng = np.random.default_rng(seed)
    name = pick(rng, ("gradients", "gradients", *TRANSFORMS))
    dtype = pick(rng, DTYPES)
    if name == "second" and dtype == np.complex64:  # `jax.grad` does not support it
        name = "gradients"
    p = maps.problem(rng, dtype, maps.MOST_SUMS // 4)
    precision = pick(rng, (None, None, None, "highest"))
    accelerated = bool(rng.random() < 0.2)
    highest = (lax.Precision.HIGHEST,) * 2 if precision else None
    q = dataclasses.replace(p, precision=highest)
    small = np.prod(p.window) <= 32
    methods = [
        m for m in tables.FORMULATIONS if small and tables.FORMULATIONS[m].unsupported_reason("forward", q) is None
    ]
    method = pick(rng, ["auto", "auto", pick(rng, methods or ["auto"])])
    conv = _public(p, "auto" if accelerated else method, precision, accelerated)
    shapes = maps.shapes(p)
    if np.issubdtype(dtype, np.integer):
        name, program, oracle, shapes = (
            "forward",
            lambda x, k: [conv(x, k)],
            lambda x, k: [maps.forward(x, k, p)],
            shapes[:2],
        )
    else:
        make, make_oracle, axes = TRANSFORMS[name]
        program, oracle = make(conv), make_oracle(p)
        shapes = (*shapes[:2],) * 2 if name == "second" else shapes
        for i, axis in enumerate(axes):
            if axis is not None:
                shapes = [(*s[:axis], 2, *s[axis:]) if j == i else s for j, s in enumerate(shapes)]
    operands = [maps.numbers(rng, shape, p.dtype) for shape in shapes]
    if name == "second":  # stays within float16
        operands = [a / a.dtype.type(max(1, maps.shapes(p)[1][-1]) ** 0.5) / a.dtype.type(4) for a in operands]

    return Call(
        text=_text(p, name, "accelerate" if accelerated else method, precision),
        program=program,
        operands=operands,
        oracle=oracle,
        bound=_bound(p) * (4 if name == "second" else 1),
        rough=method in ROUGH,
        default=seed % 4 == 0,
        accelerated=accelerated,
    )
