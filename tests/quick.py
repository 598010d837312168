"""`jax.jit` for tests: the same program, compiled in a fraction of the time. Small arrays leave nothing to optimise."""

import jax


def known(option, value):
    """Whether this jaxlib has the option."""
    try:
        return jax.jit(lambda: 0, compiler_options={option: value})() == 0
    except jax.errors.JaxRuntimeError:
        return False


OPTIONS = {
    option: value
    for option, value in (
        ("xla_backend_optimization_level", 0),
        ("xla_llvm_disable_expensive_passes", True),
        ("xla_cpu_use_fusion_emitters", False),
    )
    if known(option, value)
}


def quick(function):
    return jax.jit(function, compiler_options=OPTIONS)
