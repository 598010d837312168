"""The networks of the subject `inference`: images by name of `convlab.models`, and an example that both sides draw
alike."""

from __future__ import annotations

import numpy as np

NETWORKS = {
    "resnet18": (224, 224, 3),
    "resnet50": (224, 224, 3),
    "mobilenet_v2": (224, 224, 3),
    "convnext_tiny": (224, 224, 3),
    "densenet121": (224, 224, 3),
    "unet": (252, 252, 1),  # unpadded, as in its paper
    "tcn": (784, 1),
    "lenet5": (28, 28, 1),
}
BATCHES = (1, 8)
SAMPLES = 256  # numbers of a result that are compared


def image(name: str, batch: int, tiny: bool) -> np.ndarray:
    shape = NETWORKS[name]
    if tiny and shape[0] == 224:
        shape = (64, 64, 3)
    return np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)


def sampled(result: np.ndarray) -> list[float]:
    """Numbers of a result of channels last, evenly from all of it."""
    flat = np.asarray(result, np.float64).ravel()
    return flat[np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(int)].tolist()
