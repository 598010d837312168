"""jaxlib's own oneDNN: the engine that its Linux x86-64 wheels carry and that XLA does not call by itself.

A custom call with the configuration that XLA's rewriter would write reaches it, without any flag. Neither is documented, so
`available` tries it once in a process, and everything here serves only where that holds. A program that contains the call
cannot be exported, nor split over devices by the partitioner: `refusal_context`.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import mlir

from .problem import Problem

# The configuration's numbers have meant other things before; a wrong one ends the process, so no guess about later ones.
TESTED = ((0, 10), (0, 12))
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
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return "only jaxlib's wheels for Linux on x86-64 carry the engine"
    version = tuple(map(int, jax.lib.__version__.split(".")[:2]))
    if wish != "on" and not TESTED[0] <= version <= TESTED[1]:
        return f"jaxlib {jax.lib.__version__} is not among the tested ones; CONVLAB_ENGINE=on tries it"
    return _trial()


def refusal_context(ctx: mlir.LoweringRuleContext) -> str | None:
    """Why the engine cannot be part of the module that is being lowered, None if it can."""
    module = ctx.module_context
    if module.lowering_parameters.for_export:
        return "an exported program may not depend on the engine"
    axes = module.axis_context
    if getattr(axes, "num_devices", 1) > 1:
        return "the partitioner cannot split the engine's call over devices"
    if isinstance(axes, mlir.SPMDAxisContext) and axes.mesh.size > 1 and axes.manual_axes != set(axes.mesh.axis_names):
        return "the partitioner cannot split the engine's call over the mesh axes that shard_map leaves to it"
    return None


def _trial_run() -> str | None:
    """Try the engine on a depthwise convolution, which XLA's own loops compute some fifty times slower."""
    p = Problem(1, (28, 28), 64, (3, 3), 64, (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 64, jnp.float32, jnp.float32)
    rng = np.random.default_rng(0)
    x, kernel = (rng.integers(-9, 9, shape).astype(np.float32) for shape in ((1, 28, 28, 64), (3, 3, 1, 64)))
    device = jax.local_devices(backend="cpu")[0]
    with jax.default_device(device):
        engine = jax.jit(functools.partial(forward, p=p)).lower(x, kernel).compile()
        got, took = _timed(engine, x, kernel)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = sum(padded[:, i : i + 28, j : j + 28] * kernel[i, j, 0] for i in range(3) for j in range(3))
    if not np.array_equal(got, want):
        return "the engine gave wrong numbers in its trial"
    return f"the engine took {took * 1e3:.0f} ms for its trial" if took > 5e-3 else None


def _timed(call, *args):
    """The result, and the least of a few times in seconds."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        y = np.asarray(call(*args))
        times.append(time.perf_counter() - began)
    return y, min(times)


@functools.cache
def _trial() -> str | None:
    answer = ["the engine did not answer in time"]

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


def direct(p: Problem) -> bool:
    return True


def _too_big(p: Problem) -> bool:
    images = max(np.prod(p.spatial) * p.channels, np.prod(p.out) * p.features)
    return max(p.batch * images, np.prod(p.window) * p.channels // p.groups * p.features) >= 2**29


def refusal_forward(p: Problem) -> str | None:
    reason = available()
    if reason:
        return reason
    if not 1 <= p.rank <= 3:
        return "oneDNN convolves 1 to 3 spatial axes"
    if p.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16) or p.out_dtype not in (jnp.float32, p.dtype):
        return "oneDNN is used for float32 and narrower floats"
    if any(d > 1 for d in p.lhs_dilation):
        return "oneDNN has no dilated input"
    if 0 in (p.batch, p.channels, p.features, *p.spatial, *p.window, *p.out):
        return "oneDNN refuses empty arrays"
    return "arrays of 2 GiB and more stay with XLA" if _too_big(p) else None


def forward(x, kernel, p: Problem):
    crops = [(min(lo, 0), min(hi, 0), 0) for lo, hi in p.pads]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crops, (0, 0, 0)]) if any(map(any, crops)) else x
    pads = [(max(lo, 0), max(hi, 0)) for lo, hi in p.pads]
    return _convolution(x, kernel, p.out, p.strides, pads, p.rhs_dilation, p.groups).astype(p.out_dtype)


def _convolution(x, kernel, out, strides, pads, dilation, groups):
    """The custom call; computes in float32, the one dtype that oneDNN has on every processor."""
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    rank = x.ndim - 2
    image = {"batch_dim": 0, "feature_dim": rank + 1, "spatial_dims": list(range(1, rank + 1))}
    taps = {"spatial_dims": list(range(rank)), "input_feature_dim": rank, "output_feature_dim": rank + 1}
    lows, highs = zip(*pads)
    config = {
        "dims": rank + 2,
        "feature_groups": groups,
        "input": {"data": image},
        "kernel": {"filter": {**taps, "shape": kernel.shape}},
        "output": {"data": image},
        "window": {"pad_left": lows, "pad_right": highs, "strides": strides, "window_dilations": dilation},
    }
    shape = jax.ShapeDtypeStruct((x.shape[0], *out, kernel.shape[-1]), jnp.float32)
    return _call("__onednn$convolution", shape, {"onednn_conv_config": config}, x, kernel)


def _call(target, shape, config, *operands):
    config = json.dumps(config)
    return jax.ffi.ffi_call(target, shape, custom_call_api_version=2, legacy_backend_config=config)(*operands)
