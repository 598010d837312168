"""The conditions that all contestants share, set through the environment.

The defaults are the CPU's; `gpu/run.py` sets the GPU's."""

from __future__ import annotations

import os

DEVICE = os.environ.get("BENCHMARK_DEVICE", "cpu")  # PyTorch's name of the device; JAX reads JAX_PLATFORMS
DTYPE = os.environ.get("BENCHMARK_DTYPE", "float32")  # of a layer's operands and results, and of a network's products
TF32 = os.environ.get("BENCHMARK_TF32", "1") == "1"  # float32 products in TF32 where the device has it
QUEUE = int(os.environ.get("BENCHMARK_QUEUE", "1"))  # calls of a layer that are queued on the device before a wait
