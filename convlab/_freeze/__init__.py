"""Networks for inference: constant folding, normalisation folded into kernels, and fused convolutions."""

from .freeze import Frozen, Report, freeze
from .optimize import optimize

__all__ = ["Frozen", "Report", "freeze", "optimize"]
