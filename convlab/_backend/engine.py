"""The engine: the oneDNN library in jaxlib's Linux x86-64 wheels, which XLA does not call by itself.

The formulations `onednn` and `swapped_operands` and the fused calls of `fusion` reach it by a custom call with the
configuration that XLA's rewriter would write; no flag is needed. Neither the call nor the configuration is documented,
so `unavailable_reason` tries the call once in a process. A program that contains the call cannot be exported, nor split
over devices by XLA's partitioner (`lowering`), nor kept in JAX's persistent cache.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .buffers import pad_spatial

# The first and last tested jaxlib. The configuration's fields change their meaning between versions, and a wrong one
# ends the process, so other versions are not tried.
TESTED = ((0, 10), (0, 12))
T = TypeVar("T")
_switched_on = True
_exclusions = 0  # how many active `accelerate(engine=False)` there are
_trying = threading.local()  # `on` is True in the thread of the trial


def switch(on: bool) -> bool:
    """Turn the engine on or off for programs that are lowered from now on; return the previous state."""
    global _switched_on
    previous, _switched_on = _switched_on, on
    return previous


def exclude(by: int) -> bool:
    """Add to the number of contexts that exclude the engine (1 to enter one, -1 to leave); return whether any does."""
    global _exclusions
    _exclusions += by
    return _exclusions > 0


def unavailable_reason() -> str | None:
    """Return why the engine cannot be used here, None if it can. The first call tries it, in a fraction of a second."""
    wish = os.environ.get("CONVLAB_ENGINE", "auto").lower()
    if wish == "off" or not _switched_on or _exclusions:
        return "the engine is switched off"
    version = tuple(int(n) for n in re.findall(r"\d+", jax.lib.__version__)[:2])
    if wish != "on" and not TESTED[0] <= version <= TESTED[1]:
        return f"jaxlib {jax.lib.__version__} is not among the tested ones; CONVLAB_ENGINE=on tries it"
    return _trial()


def supports(platform: str) -> bool:
    """Return whether the engine can be used in programs for the platform."""
    return platform == "cpu" and unavailable_reason() is None


@functools.cache
def _trial() -> str | None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "only jaxlib's wheels for Linux on x86-64 carry the engine"
    try:
        return apart(_trial_run)
    except TimeoutError:
        return "the engine did not answer in time"
    except Exception as error:
        return f"the engine failed its trial: {type(error).__name__}: {error}".splitlines()[0]


def apart(function: Callable[[], T]) -> T:
    """Call a function outside of the tracing, mesh and device contexts that the caller may be in: in a new thread."""
    answers: list[T] = []
    errors: list[Exception] = []

    def work() -> None:
        _trying.on = True
        try:
            answers.append(function())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=10)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError
    return answers[0]


# Beginnings of the names of instruction sets that oneDNN's environment variable excludes.
EXCLUDED = {
    "SSE41": ("avx", "amx"),
    "AVX": ("avx2", "avx512", "avx_", "amx"),
    "AVX2": ("avx512", "avx_", "amx"),
    "AVX2_VNNI": ("avx512", "amx"),
    "AVX2_VNNI_2": ("avx512", "amx"),
    "AVX512_CORE": ("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx"),
    "AVX512_CORE_VNNI": ("avx512_bf16", "avx512_fp16", "amx"),
    "AVX512_CORE_BF16": ("avx512_fp16", "amx"),
    "AVX512_CORE_FP16": ("amx",),
}


@functools.cache
def instructions() -> frozenset[str]:
    """Return the names of the processor's instruction sets, without those that oneDNN is told not to use."""
    try:
        with open("/proc/cpuinfo") as file:
            names = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:  # not Linux
        return frozenset()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    excluded = EXCLUDED.get(limit.upper(), ())
    return frozenset(name for name in names if not name.startswith(excluded))


def _trial_run() -> str | None:
    """Run the engine on a depthwise convolution, where XLA is tens of times slower; return why it fails, or None."""
    if "avx2" not in instructions():
        return "the engine's safe convolutions need AVX2"
    rng = np.random.default_rng(0)
    x, kernel = (rng.integers(-9, 9, shape).astype(np.float32) for shape in ((1, 28, 28, 64), (3, 3, 1, 64)))
    numbers = dict(out=(28, 28), strides=(1, 1), pads=((1, 1), (1, 1)), dilation=(1, 1), groups=64)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        engine = jax.jit(functools.partial(convolution, **numbers)).lower(x, kernel).compile()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        got = np.asarray(engine(x, kernel))
        times.append(time.perf_counter() - began)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = sum(padded[:, i : i + 28, j : j + 28] * kernel[i, j, 0] for i in range(3) for j in range(3))
    if not np.array_equal(got, want):
        return "the engine gave wrong numbers in its trial"
    return f"the engine took {min(times) * 1e3:.0f} ms for its trial" if min(times) > 5e-3 else None


# --- the persistent compilation cache ------------------------------------------------------------------------------


def calls_engine(program: str) -> bool:
    """Return whether the text of an XLA program contains a call of the engine."""
    return '"__onednn$' in program


@functools.cache
def _warn_uncached_once() -> None:
    warnings.warn(
        "Programs with jaxlib's own engine are not kept in JAX's persistent compilation cache, "
        "which cannot store its calls. "
        "convlab.accelerate(engine=False), or CONVLAB_ENGINE=off in the environment, makes programs that are kept.",
        stacklevel=2,
    )


def warn_uncached() -> None:
    """Warn that a program with the engine's calls is not cached, once in a process and not for the trial."""
    if not getattr(_trying, "on", False):
        _warn_uncached_once()


# --- calls --------------------------------------------------------------------------------------------------------


def _multiply_dtype(dtype, *, groups: int = 1, channels: int = 1, features: int = 1, window=(), dilated=(), pads=()):
    """Return the dtype that the engine multiplies in: bfloat16 if the processor and a fast oneDNN kernel have it, else
    float32.

    For other bfloat16 problems oneDNN falls back on products in nested parallel loops, which deadlock in XLA's thread
    pool, or does not finish generating code. `channels` and `features` are those of one group.
    """
    if dtype != jnp.bfloat16 or not _multiplies_bfloat16():
        return jnp.float32
    if groups > 1 and channels == 1:
        safe = features == 1 and max(window) <= 7 and not any(dilated)
    elif groups > 1 and channels <= 16 and channels % 4 == features % 4 == 0:
        safe = len(window) == 2 and max(window) <= 3 and not any(dilated) and max(map(max, pads)) <= 1
    else:
        safe = True
    return jnp.bfloat16 if safe else jnp.float32


def _multiplies_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16. With AMX oneDNN has other kernels, which were not tested."""
    return "avx512_bf16" in instructions() and "amx_bf16" not in instructions()


def convolution(x, kernel, *, out, strides, pads, dilation, groups, dtype=jnp.float32, order=None, ops=(), extras=()):
    """Compute a convolution by the engine's custom call, which sums in float32.

    Args:
        order: the kernel's axes in the order (*window, in, out).
        ops: operations that the engine applies to the result, in the order BIAS, BINARY_ADD, an activation.
        extras: the operands of BIAS and BINARY_ADD.
    """
    rank = x.ndim - 2
    order = order or tuple(range(rank + 2))
    *window, channels, features = (kernel.shape[axis] for axis in order)
    # Along an axis with a single output oneDNN reads beyond the image if the stride is not 1.
    sizes = [(w - 1) * d + 1 for w, d in zip(window, dilation)]
    pads = [(lo, e - n - lo) if m == 1 else (lo, hi) for (lo, hi), m, e, n in zip(pads, out, sizes, x.shape[1:])]
    strides = [1 if m == 1 else s for m, s in zip(out, strides)]
    # Some of oneDNN's fast kernels refuse pads that are negative or as large as the window.
    if min(map(min, pads)) < 0 or any(max(pair) >= size for pair, size in zip(pads, sizes)):
        x, pads = pad_spatial(x, pads), [(0, 0)] * rank
    # oneDNN's sums over a column of 362 rows and more are wrong if the last axis has length 1; sums over a row are
    # right.
    single = [n == m == kernel.shape[axis] == 1 for n, m, axis in zip(x.shape[1:], out, order)]
    axes = sorted(range(rank), key=lambda axis: not single[axis])
    x = x.reshape(x.shape[0], *(x.shape[1 + axis] for axis in axes), x.shape[-1])
    strides, pads, dilation = ([values[axis] for axis in axes] for values in (strides, pads, dilation))
    image = {"batch_dim": 0, "feature_dim": rank + 1, "spatial_dims": list(range(1, rank + 1))}
    taps = {
        "spatial_dims": [order[axis] for axis in axes],
        "input_feature_dim": order[-2],
        "output_feature_dim": order[-1],
    }
    lows, highs = zip(*pads)
    config = {
        "dims": rank + 2,
        "feature_groups": groups,
        "input": {"data": image},
        "kernel": {"filter": {**taps, "shape": kernel.shape}},
        "output": {"data": image},
        "window": {"pad_left": lows, "pad_right": highs, "strides": strides, "window_dilations": dilation},
    }
    if ops:
        config["fusions"] = {"ops": list(ops)}
    facts = dict(groups=groups, channels=channels, features=features // groups, window=window, pads=pads)
    operands = _multiply_dtype(x.dtype, dilated=[d > 1 for d in dilation], **facts)
    shape = (x.shape[0], *(out[axis] for axis in axes), features)
    extras = [extra if extra.ndim == 1 else extra.reshape(shape) for extra in extras]
    y = _call("convolution", shape, dtype, {"onednn_conv_config": config}, operands, x, kernel, *extras)
    return y.reshape(x.shape[0], *out, -1)


def matmul(a, b, *, transpose_b=False, columns=None, ops=(), extras=()):
    """Compute the product of two float32 matrices, or of a with b's transpose, by the engine's matrix product.

    It reads b as it lies in memory, while a convolution lays its kernel out anew at each call.

    Args:
        columns: number of b's columns if b is packed (`fusion.packing`), of shape (size,); None if it is a matrix.
        ops: what the engine applies to the result, in the order BIAS, BINARY_ADD, an activation.
        extras: the operands of BIAS, of shape (n,), and of BINARY_ADD, of the result's shape.
    """
    config = {"transpose_b": transpose_b, "fusions": {"ops": list(ops)}}
    if columns is not None:
        config["optimization_config"] = {"weights_prepacked": True}
    extras = [extra.reshape(1, -1) if extra.ndim == 1 else extra for extra in extras]
    shape = (a.shape[0], columns or b.shape[0 if transpose_b else 1])
    return _call("matmul", shape, jnp.float32, {"onednn_matmul_config": config}, jnp.float32, a, b, *extras)


def transposed_matmul(a, b):
    """Compute the product of a's transpose with b in float32 by the engine's matrix product."""
    config = {"onednn_matmul_config": {"transpose_a": True}}
    return _call("matmul", (a.shape[1], b.shape[1]), jnp.float32, config, _multiply_dtype(a.dtype), a, b)


def _call(name, shape, dtype, config, operands, *arrays):
    """Call the engine on the arrays, converted to the dtype `operands`, and convert the result to `dtype`."""
    result, config = jax.ShapeDtypeStruct(shape, dtype if dtype == operands else jnp.float32), json.dumps(config)
    call = jax.ffi.ffi_call(f"__onednn${name}", result, custom_call_api_version=2, legacy_backend_config=config)
    return call(*(a.astype(operands) for a in arrays)).astype(dtype)
