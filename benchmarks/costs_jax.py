"""The costs of a layer besides its time: compilation, memory, and the import of convlab."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
from layers_jax import images, layer, programs

IMPORT = "import time, jax; began = time.perf_counter(); import convlab; print(time.perf_counter() - began)"


def compiled(function: Callable, shapes: tuple) -> Any:
    jax.clear_caches()
    return jax.jit(function).lower(*shapes).compile()


def mebibytes(function: Callable, shapes: tuple) -> float:
    """Return XLA's estimate of the peak memory: temporaries and results."""
    memory = compiled(function, shapes).memory_analysis()
    return (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**20


def import_milliseconds() -> float:
    return 1e3 * float(
        subprocess.run([sys.executable, "-c", IMPORT], stdout=subprocess.PIPE, text=True, check=True).stdout
    )


def calls(contestant: str, case: dict[str, Any] | None) -> dict[str, tuple[list[Callable[[], Any]], int]]:
    """Return calls that time tracing, lowering and compilation of the layer with its gradients (`compile`) and return
    its mebibytes (`memory`).

    Without a case, `import` returns the milliseconds of `import convlab` after `import jax`, in a separate process.
    """
    if case is None:
        return {"import": ([import_milliseconds], 1)} if contestant == "convlab" else {}
    f, parameters = layer(contestant, case)
    function, shapes, _ = programs(f, (parameters, images(case)))["gradients"]
    return {"compile": ([lambda: compiled(function, shapes)], 1), "memory": ([lambda: mebibytes(function, shapes)], 1)}
