"""convlab: convolution and pooling for JAX."""

from ._backend.accelerate import accelerate
from ._backend.explain import explain
from ._backend.tuning.autotune import autotune
from ._backend.tuning.tuning import Tuning
from ._backend.tuning.tuning import use_environment as _use_environment
from ._conv import conv, conv_general_dilated, conv_transpose
from ._conv_local import conv_local, deform_conv
from ._freeze import freeze, optimize
from ._grid_sample import affine_grid, grid_sample
from ._matrix import conv_matrix, fold, unfold
from ._normalize import local_response_norm
from ._padding import pad
from ._pixel_shuffle import pixel_shuffle, pixel_unshuffle
from ._pool import avg_pool, max_pool, min_pool, pool, sum_pool
from ._pool_adaptive import (
    adaptive_avg_pool,
    adaptive_max_pool,
    global_avg_pool,
    global_max_pool,
    spatial_pyramid_pool,
)
from ._pool_fractional import fractional_max_pool
from ._pool_power import gem_pool, lp_pool
from ._pool_smooth import blur_pool, mixed_pool, softmax_pool, stochastic_pool, top_k_pool
from ._regions import nms, roi_align, roi_pool
from ._resize import resize
from ._unpool import max_unpool
from ._window import Window

__version__ = "0.2.0"
_use_environment()

__all__ = [
    "Tuning",
    "Window",
    "accelerate",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "affine_grid",
    "autotune",
    "avg_pool",
    "blur_pool",
    "conv",
    "conv_general_dilated",
    "conv_local",
    "conv_matrix",
    "conv_transpose",
    "deform_conv",
    "explain",
    "fold",
    "fractional_max_pool",
    "freeze",
    "gem_pool",
    "global_avg_pool",
    "global_max_pool",
    "grid_sample",
    "local_response_norm",
    "lp_pool",
    "max_pool",
    "max_unpool",
    "min_pool",
    "mixed_pool",
    "nms",
    "optimize",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "pool",
    "resize",
    "roi_align",
    "roi_pool",
    "softmax_pool",
    "spatial_pyramid_pool",
    "stochastic_pool",
    "sum_pool",
    "top_k_pool",
    "unfold",
]
