"""Sets how the tests compile: without optimisation, because the programs are small and run once or twice.

A jaxlib that does not know a flag ends the process and names the flag; with an empty `XLA_FLAGS` none is set.
"""

import importlib.metadata

JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}
if JAXLIB < (0, 11):  # later versions have no other emitters
    OPTIONS["xla_cpu_use_fusion_emitters"] = False
FLAGS = " ".join(f"--{option}={str(value).lower()}" for option, value in OPTIONS.items())
