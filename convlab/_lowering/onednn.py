"""jaxlib's own oneDNN: the engine that its Linux x86-64 wheels carry and that XLA does not call by itself.

A custom call with the configuration that XLA's rewriter would write reaches it, without any flag. Neither is documented,
so `available` tries it once in a process, and everything here serves only where that holds. A program that contains the
call cannot be exported, nor split over devices by the partitioner (`refusal_context`), nor kept in JAX's persistent cache.

The custom call has forward convolutions only. A kernel gradient is one too: x is the image with the batch as its features,
dy the kernel, and the window's taps come out as the space.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import operator
import os
import platform
import re
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import mlir

from .problem import Problem

# The configuration's numbers have had other meanings; a wrong one ends the process, so no guess about later versions.
TESTED = ((0, 10), (0, 12))
LONGEST_SUM = 8192  # terms in float32 that keep the relative error below 2e-6
_switched_on = True


def switch(on: bool) -> bool:
    """Turn the engine on or off for what this process compiles from now on; returns the former state."""
    global _switched_on
    former, _switched_on = _switched_on, on
    return former


def available() -> str | None:
    """Why the engine cannot be used here, None if it can. The first call tries it, in a fraction of a second."""
    wish = os.environ.get("CONVLAB_ENGINE", "auto").lower()
    if wish == "off" or not _switched_on:
        return "the engine is switched off"
    version = tuple(int(n) for n in re.findall(r"\d+", jax.lib.__version__)[:2])
    if wish != "on" and not TESTED[0] <= version <= TESTED[1]:
        return f"jaxlib {jax.lib.__version__} is not among the tested ones; CONVLAB_ENGINE=on tries it"
    return _trial()


def refusal_context(ctx: mlir.LoweringRuleContext) -> str | None:
    """Why the engine cannot be part of the module that is being lowered, None if it can."""
    module = ctx.module_context
    if module.lowering_parameters.for_export:
        return "an exported program may not depend on the engine"
    axes = module.axis_context
    if getattr(axes, "num_devices", None) not in (None, 1):
        return "the partitioner cannot split the engine's call over devices"
    if isinstance(axes, mlir.SPMDAxisContext) and axes.mesh.size > 1 and axes.manual_axes != set(axes.mesh.axis_names):
        return "the partitioner cannot split the engine's call over the mesh axes that shard_map leaves to it"
    return None


@functools.cache
def _trial() -> str | None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "only jaxlib's wheels for Linux on x86-64 carry the engine"
    answer: list[str | None] = ["the engine did not answer in time"]

    def work():
        try:
            answer[0] = _trial_run()
        except Exception as error:
            answer[0] = f"the engine failed its trial: {type(error).__name__}: {error}".splitlines()[0]

    # A thread of its own has none of the tracing, mesh and device contexts that the caller may be in.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=10)
    return answer[0]


@functools.cache
def _instructions() -> frozenset[str]:
    """The names of the processor's instruction sets."""
    with open("/proc/cpuinfo") as file:
        return frozenset(next((line for line in file if line.startswith("flags")), "").split())


def _trial_run() -> str | None:
    """Try the engine on a depthwise convolution, where XLA's own is tens of times slower."""
    if "avx2" not in _instructions():
        return "the engine's safe convolutions need AVX2"
    p = Problem(1, (28, 28), 64, (3, 3), 64, (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 64, jnp.float32, jnp.float32)
    rng = np.random.default_rng(0)
    x, kernel = (rng.integers(-9, 9, shape).astype(np.float32) for shape in ((1, 28, 28, 64), (3, 3, 1, 64)))
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        engine = jax.jit(functools.partial(forward, p=p)).lower(x, kernel).compile()
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


def direct(p: Problem) -> bool:
    return True


def _refusal(p: Problem) -> str | None:
    if not 1 <= p.rank <= 3:
        return "oneDNN convolves 1 to 3 spatial axes"
    if p.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16) or p.out_dtype not in (jnp.float32, p.dtype):
        return "oneDNN is used for float32 and narrower floats"
    if any(d > 1 for d in p.lhs_dilation):
        return "oneDNN has no dilated input"
    if 0 in (p.batch, p.channels, p.features, *p.spatial, *p.window, *p.out):
        return "oneDNN refuses empty arrays"
    images = p.batch * max(math.prod(p.spatial) * p.channels, math.prod(p.out) * p.features)
    if max(images, math.prod(p.window) * p.channels // p.groups * p.features) >= 2**29:
        return "arrays of 2 GiB and more stay with XLA"
    return available()


def refusal_forward(p: Problem) -> str | None:
    if _plain(p) and any(d > 1 and (s > 1 or p.rank == 3) for d, s in zip(_gaps(p), p.strides)):
        # For these oneDNN falls back on products in parallel loops, which wait for each other for ever in XLA's pool.
        return "oneDNN's depthwise convolution has no dilated window, and this one does not reshape into one without"
    return _refusal(p)


def refusal_kernel_gradient(p: Problem) -> str | None:
    if _pointwise(p) and "avx512bw" not in _instructions():
        return "oneDNN's matrix product is used with AVX-512 only"
    return _refusal(p)


def _plain(p: Problem) -> bool:
    """Depthwise with one feature a channel."""
    return p.depthwise and p.features == p.channels


def _pointwise(p: Problem) -> bool:
    return p.groups == 1 and math.prod(p.window) == 1 and not any(map(any, p.pads))


def _gaps(p: Problem) -> tuple[int, ...]:
    """`rhs_dilation` without what means nothing."""
    return tuple(d if w > 1 else 1 for w, d in zip(p.window, p.rhs_dilation))


def _pad(x, pads):
    """x with its spatial axes padded, or cropped where negative."""
    config = [(0, 0, 0), *((lo, hi, 0) for lo, hi in pads), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config) if any(map(any, pads)) else x


def forward(x, kernel, p: Problem):
    gaps = _gaps(p)
    if _plain(p) and max(gaps) > 1:
        return _without_gaps(x, kernel, p)
    if _plain(p) and p.rank == 1:  # oneDNN's fast depthwise convolutions have two axes or three
        pads, strides = ((0, 0), *p.pads), (1, *p.strides)
        return convolution(x[:, None], kernel[None], (1, *p.out), strides, pads, (1, 1), p.groups, p.out_dtype)[:, 0]
    return convolution(x, kernel, p.out, p.strides, p.pads, gaps, p.groups, p.out_dtype)


def _without_gaps(x, kernel, p: Problem):
    """A depthwise convolution of one or two axes and a dilated window, by one whose window has no gaps.

    Along an axis with gaps of d the image splits into one axis of every d-th place, on which the window has none, and
    one of d places; the last axis gives its d places to the channels, all of them with the same taps.
    """
    gaps = _gaps(p)
    counts = [-(-out // d) for out, d in zip(p.out, gaps)]
    # Without gaps the axis keeps its stride; with them its stride is 1.
    rows = [(count - 1) * s + w for count, w, s in zip(counts, p.window, p.strides)]
    x = _pad(x, [(lo, row * d - n - lo) for (lo, _), row, d, n in zip(p.pads, rows, gaps, p.spatial)])
    channels, split = gaps[-1] * p.channels, p.rank == 2 and gaps[0] > 1
    problem = dataclasses.replace(
        p,
        spatial=(rows[0], gaps[0], rows[1]) if split else tuple(rows),
        window=(p.window[0], 1, p.window[1]) if split else p.window,
        strides=(1, 1, p.strides[1]) if split else p.strides,
        pads=((0, 0),) * (p.rank + split),
        lhs_dilation=(1,) * (p.rank + split),
        rhs_dilation=(1,) * (p.rank + split),
        **dict.fromkeys(("channels", "features", "groups"), channels),
    )
    image = x.reshape(p.batch, *problem.spatial, channels)
    y = forward(image, jnp.tile(kernel, gaps[-1]).reshape(*problem.window, 1, channels), problem)
    y = y.reshape(p.batch, *(count * d for count, d in zip(counts, gaps)), p.features)
    return y[(slice(None), *map(slice, p.out))]


def kernel_gradient(x, dy, p: Problem):
    if _pointwise(p):
        seen = x[(slice(None), *(slice(None, None, s) for s in p.strides))]
        dkernel = _gram(seen.reshape(-1, p.channels), dy.reshape(-1, p.features))
    else:
        rows = np.linspace(0, p.out[0], _pieces(p) + 1).astype(int).tolist()
        parts = [_from_rows(x, dy, first, last, p) for first, last in itertools.pairwise(rows)]
        dkernel = functools.reduce(operator.add, parts)
    return dkernel.reshape(*p.window, p.channels // p.groups, p.features).astype(p.out_dtype)


def _few_features(p: Problem) -> bool:
    """Depthwise, with so few features a channel that the channels may as well be repeated for each of them."""
    return p.depthwise and p.features // p.groups <= 8


def _pieces(p: Problem) -> int:
    """Into how many to split the sum over batch and space: the longer one in float32, the less accurate it is."""
    if _few_features(p):
        together = p.batch * math.prod(p.out)
    elif p.rank == 1:
        together = p.batch * p.out[0]
    else:  # oneDNN begins another sum with every row
        return 1
    return min(p.out[0], -(-together // LONGEST_SUM))


def _from_rows(x, dy, first: int, last: int, p: Problem):
    """The gradient from the outputs `first` to `last` of the first axis."""
    lo, stride = p.pads[0][0] - first * p.strides[0], p.strides[0]
    hi = (last - 1 - first) * stride + p.reach[0] - p.spatial[0] - lo
    p, dy = dataclasses.replace(p, pads=((lo, hi), *p.pads[1:])), dy[:, first:last]
    if not _few_features(p):
        return _grouped_gradient(x, dy, p)
    plain = dataclasses.replace(p, channels=p.features, groups=p.features)
    return _depthwise_gradient(jnp.repeat(x, p.features // p.groups, -1), dy, plain)


def _ends(p: Problem):
    """The pads that let the window reach exactly what the outputs see."""
    facts = zip(p.pads, p.out, p.strides, p.reach, p.spatial)
    return [(lo, (out - 1) * s + reach - n - lo) for (lo, _), out, s, reach, n in facts]


def _depthwise_gradient(x, dy, p: Problem):
    """(*window, c): the batch is one more axis of space, which dy covers as a window."""
    if any(s > 1 for s in p.strides):
        return _strided_gradient(x, dy, p)
    ends, gaps = _ends(p), _gaps(p)
    if p.rank < 3:
        image, taps, ends = x[None], dy, [(0, 0), *ends]
        out, strides = (1, *p.window), (1, *gaps)
    else:  # no axis is left: the images stand in a row along the first, with zeros in dy where a window would see two
        rest = p.reach[0] - 1
        image = _pad(x, [ends[0], (0, 0), (0, 0)]).reshape(1, -1, *p.spatial[1:], p.channels)
        taps = _pad(dy, [(0, rest), (0, 0), (0, 0)]).reshape(-1, *p.out[1:], p.channels)
        ends, out, strides = [(0, rest), *ends[1:]], p.window, gaps
    y = convolution(image, taps[..., None, :], out, strides, ends, (1,) * len(out), p.channels)
    return y.reshape(*p.window, p.channels)


def _strided_gradient(x, dy, p: Problem):
    """Places of the input in classes of their residue by the stride, within which the taps are at stride 1.

    The classes of the last axis become channels, those of the others are taken one by one.
    """
    offsets = [np.arange(w) * d - lo for w, d, (lo, _) in zip(p.window, p.rhs_dilation, p.pads)]
    residues = [o % s for o, s in zip(offsets, p.strides)]
    places = [o // s for o, s in zip(offsets, p.strides)]
    firsts, counts = [int(q.min()) for q in places], tuple(int(np.ptp(q)) + 1 for q in places)
    last, ones = p.strides[-1], (1,) * p.rank
    whole = [(0, max(0, s - n)) for s, n in zip(p.strides[:-1], p.spatial)]  # no class is empty
    x = _pad(x, [*whole, (0, -p.spatial[-1] % last)])
    x, dy = x.reshape(*x.shape[:-2], -1, last * p.channels), jnp.tile(dy, last)
    wide = last * p.channels
    merged = dataclasses.replace(p, window=counts, strides=ones, rhs_dilation=ones, channels=wide, features=wide, groups=wide)

    def of_class(residue):
        seen = x[(slice(None), *(slice(r, None, s) for r, s in zip(residue, p.strides)))]
        sizes = zip(firsts, counts, seen.shape[1:], p.out)
        pads = tuple((-first, out - 1 + count - n + first) for first, count, n, out in sizes)
        return _depthwise_gradient(seen, dy, dataclasses.replace(merged, spatial=seen.shape[1:-1], pads=pads))

    classes = [of_class(residue) for residue in itertools.product(*map(range, p.strides[:-1]))]
    taps = jnp.stack(classes).reshape(*p.strides[:-1], *counts, last, p.channels)
    index = [*residues[:-1], *(q - first for q, first in zip(places, firsts)), residues[-1]]
    axes = [*range(p.rank - 1), *range(p.rank), p.rank - 1]
    return taps[tuple(i.reshape([-1 if a == axis else 1 for a in range(p.rank)]) for i, axis in zip(index, axes))]


def _grouped_gradient(x, dy, p: Problem):
    """(*window, c / groups, features); groups too thin for the vector units are computed a few as one."""
    per_group, multiplier = p.channels // p.groups, p.features // p.groups
    merged = math.gcd(p.groups, max(1, 8 // max(per_group, multiplier)))
    dkernel = _dense_gradient(x, dy, dataclasses.replace(p, groups=p.groups // merged))
    dkernel = dkernel.reshape(*p.window, merged, per_group, p.groups // merged, merged, multiplier)
    return jnp.stack([dkernel[..., i, :, :, i, :] for i in range(merged)], -2)


def _dense_gradient(x, dy, p: Problem):
    """(*window, c / groups, features): the batch becomes the image's features, its channels a part of its last axis.

    So the taps of that axis and the channels are one long row of outputs, which is what keeps the vector units busy.
    """
    per_group = p.channels // p.groups
    if p.batch == p.rank == 1 and _gaps(p)[0] > 1:
        # An image of one channel under a long column ends the process (oneDNN cannot create the primitive); one of two does not.
        x, dy = (jnp.concatenate([a, jnp.zeros_like(a)]) for a in (x, dy))
        p = dataclasses.replace(p, batch=2)
    if p.rank == 3 and _gaps(p)[-1] > 1:  # the channels cannot share the last axis, and there is no fourth
        return jnp.stack([_dense_gradient(x, dy, _one_tap(p, t)) for t in range(p.window[-1])], 2).squeeze(3)
    pads, strides, gaps = _ends(p), p.strides, _gaps(p)
    x = x.reshape(*x.shape[:-1], p.groups, per_group)
    x = jnp.moveaxis(x, (0, -2), (-1, -2))  # (*spatial, c / groups, groups, n)
    if gaps[-1] == 1:
        pads = [*pads[:-1], tuple(per_group * end for end in pads[-1])]
        strides, out = (*strides[:-1], per_group * strides[-1]), (*p.window[:-1], per_group * p.window[-1])
        spatial = (*p.spatial[:-1], per_group * p.spatial[-1])
    else:
        pads, strides, out, gaps = [*pads, (0, 0)], (*strides, 1), (*p.window, per_group), (*gaps, 1)
        spatial, dy = (*p.spatial, per_group), dy[..., None, :]
    order = (*range(1, dy.ndim - 1), 0, dy.ndim - 1)
    y = convolution(x.reshape(1, *spatial, -1), dy, out, gaps, pads, strides, p.groups, order=order)
    return y.reshape(*p.window, per_group, p.features)


def _one_tap(p: Problem, t: int) -> Problem:
    """The same outputs from the t-th tap of the last axis alone."""
    (lo, hi), d, w = p.pads[-1], p.rhs_dilation[-1], p.window[-1]
    return dataclasses.replace(p, window=(*p.window[:-1], 1), pads=(*p.pads[:-1], (lo - t * d, hi - (w - 1 - t) * d)))


def _operands(dtype, groups: int = 1, channels: int = 1, features: int = 1, window=(), dilated=(), pads=()):
    """The dtype in which the engine multiplies: float32, or bfloat16 where the processor and a fast program of oneDNN's do.

    Elsewhere oneDNN falls back on products in parallel loops, which wait for each other for ever in XLA's pool, or does not
    come to the end of writing a program. The channels and features are those of a group.
    """
    if dtype != jnp.bfloat16 or not _multiplies_bfloat16():
        return jnp.float32
    if groups > 1 and channels == 1:
        serves = features == 1 and max(window) <= 7
    elif groups > 1 and channels <= 16 and channels % 4 == features % 4 == 0:
        serves = len(window) == 2 and max(window) <= 3 and not any(dilated) and max(map(max, pads)) <= 1
    else:
        serves = True
    return jnp.bfloat16 if serves else jnp.float32


def _multiplies_bfloat16() -> bool:
    """Tried on processors without AMX only, for which oneDNN chooses among other programs."""
    return "avx512_bf16" in _instructions() and "amx_bf16" not in _instructions()


def convolution(x, kernel, out, strides, pads, dilation, groups, dtype=jnp.float32, order=None):
    """The convolution's custom call, summed in float32. `order`: the kernel's axes in the order (*window, in, out)."""
    rank = x.ndim - 2
    order = order or tuple(range(rank + 2))
    *window, channels, features = (kernel.shape[axis] for axis in order)
    # oneDNN reads beyond the image where a single place is strided
    reach = [(w - 1) * d + 1 for w, d in zip(window, dilation)]
    pads = [(lo, r - n - lo) if m == 1 else (lo, hi) for (lo, hi), m, r, n in zip(pads, out, reach, x.shape[1:])]
    strides = [1 if m == 1 else s for m, s in zip(out, strides)]
    if min(map(min, pads)) < 0:
        x, pads = _pad(x, pads), [(0, 0)] * rank
    # Its sums over a column of 362 rows and more are wrong where the last axis is a single place; those over a row are right.
    single = [n == m == kernel.shape[axis] == 1 for n, m, axis in zip(x.shape[1:], out, order)]
    axes = sorted(range(rank), key=lambda axis: not single[axis])
    x = x.reshape(x.shape[0], *(x.shape[1 + axis] for axis in axes), x.shape[-1])
    strides, pads, dilation = ([values[axis] for axis in axes] for values in (strides, pads, dilation))
    image = {"batch_dim": 0, "feature_dim": rank + 1, "spatial_dims": list(range(1, rank + 1))}
    taps = {"spatial_dims": [order[axis] for axis in axes], "input_feature_dim": order[-2], "output_feature_dim": order[-1]}
    lows, highs = zip(*pads)
    config = {
        "dims": rank + 2,
        "feature_groups": groups,
        "input": {"data": image},
        "kernel": {"filter": {**taps, "shape": kernel.shape}},
        "output": {"data": image},
        "window": {"pad_left": lows, "pad_right": highs, "strides": strides, "window_dilations": dilation},
    }
    operands = _operands(x.dtype, groups, channels, features // groups, window, [d > 1 for d in dilation], pads)
    shape = (x.shape[0], *(out[axis] for axis in axes), features)
    return _call("convolution", shape, dtype, {"onednn_conv_config": config}, operands, x, kernel).reshape(x.shape[0], *out, -1)


def _gram(a, b):
    """The product of a's transpose with b in float32, by the matrix product's custom call."""
    config = {"onednn_matmul_config": {"transpose_a": True}}
    return _call("matmul", (a.shape[1], b.shape[1]), jnp.float32, config, _operands(a.dtype), a, b)


def _call(name, shape, dtype, config, operands, *arrays):
    """The call on arrays of the dtype `operands`; its result is float32 or theirs, before it is made `dtype`."""
    result, config = jax.ShapeDtypeStruct(shape, dtype if dtype == operands else jnp.float32), json.dumps(config)
    call = jax.ffi.ffi_call(f"__onednn${name}", result, custom_call_api_version=2, legacy_backend_config=config)
    return call(*(a.astype(operands) for a in arrays)).astype(dtype)
