"""Networks for inference: parameters as constants, normalisation in kernels, what follows a convolution in the same
call."""

from .freeze import Frozen, Report, freeze
from .optimize import optimize

__all__ = ["Frozen", "Report", "freeze", "optimize"]
