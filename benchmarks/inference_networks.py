"""The networks of the subjects `inference` and `training`: the shape of an image for each name of `convlab.models`, and
examples that all contestants draw alike."""

from __future__ import annotations

import numpy as np

PHOTO = (224, 224, 3)
NETWORKS = {
    "resnet18": PHOTO,
    "resnet50": PHOTO,
    "mobilenet_v2": PHOTO,
    "convnext_tiny": PHOTO,
    "densenet121": PHOTO,
    "unet": (252, 252, 1),  # unpadded, as in its paper
    "tcn": (784, 1),
    "lenet5": (28, 28, 1),
}
# The smallest network of every other family of torchvision, only at batch 1.
FAMILIES = {
    "alexnet": PHOTO,
    "vgg11": PHOTO,
    "googlenet": PHOTO,
    "inception_v3": (299, 299, 3),
    "resnext50_32x4d": PHOTO,
    "squeezenet1_1": PHOTO,
    "mobilenet_v3_small": PHOTO,
    "mnasnet0_5": PHOTO,
    "shufflenet_v2_x0_5": PHOTO,
    "efficientnet_b0": PHOTO,
    "efficientnet_v2_s": (300, 300, 3),
    "regnet_x_400mf": PHOTO,
    "regnet_y_400mf": PHOTO,
    "fcn_resnet50": PHOTO,
    "deeplabv3_mobilenet_v3_large": PHOTO,
    "lraspp_mobilenet_v3_large": PHOTO,
}
BATCHES = (1, 8)
SAMPLES = 256  # numbers of a result that are compared
RATE, STEPS = 1e-3, 2  # the learning rate, and the number of steps whose losses are compared


def image(name: str, batch: int, tiny: bool) -> np.ndarray:
    shape = (NETWORKS | FAMILIES)[name]
    if tiny and shape == PHOTO:
        shape = (64, 64, 3)
    return np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)


def batches(name: str) -> tuple[int, ...]:
    return BATCHES if name in NETWORKS else BATCHES[:1]


def labels(batch: int, shape: tuple[int, ...], classes: int) -> np.ndarray:
    """Draw a class for each image, or for each of the positions `shape` of its result."""
    return np.random.default_rng(1).integers(classes, size=(batch, *shape))


def sampled(result: np.ndarray) -> list[float]:
    """Return evenly spaced numbers of a channels-last result."""
    flat = np.asarray(result, np.float64).ravel()
    return flat[np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(int)].tolist()
