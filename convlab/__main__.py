"""`python -m convlab` prints a report for bug reports: versions, devices, whether oneDNN is used, typical
formulations."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import convlab

DISTRIBUTION = "convlab-jax"
PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def versions() -> str:
    """Return the versions of Python and of the packages that convlab computes with."""
    found = [f"{name} {_version(name) or 'is not installed'}" for name in PACKAGES]
    return ", ".join([f"Python {platform.python_version()} on {sys.platform} {platform.machine()}", *found])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def other_project() -> str | None:
    """Return a line about the unrelated distribution named `convlab`, or None if it is not installed."""
    try:
        found = importlib.metadata.distribution("convlab")
    except importlib.metadata.PackageNotFoundError:
        return None
    if any(requirement.startswith("jax") for requirement in found.requires or ()):
        return None  # this project, installed from a checkout that is older than its present name
    return (
        f"Another project, `convlab` {found.version}, is installed too and shares this one's folder: "
        f"uninstall both and install {DISTRIBUTION} again."
    )


def where_to_report() -> str | None:
    """Return the address for issues, or None until the project has one."""
    try:
        urls = importlib.metadata.metadata(DISTRIBUTION).get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((url.partition(", ")[2] for url in urls if url.startswith("Issues, ")), None)


def devices() -> str:
    """Return the devices that JAX finds, or the reason why it finds none."""
    try:
        return ", ".join(f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices())
    except RuntimeError as error:
        return f"none: {str(error).splitlines()[0]}"


def engine() -> str:
    """Return whether CPU convolutions call the oneDNN in jaxlib, and if not, why."""
    x, kernel = jnp.ones((1, 28, 28, 64)), jnp.ones((3, 3, 1, 64))
    try:
        convlab.explain(
            lambda x, kernel: convlab.conv(x, kernel, feature_group_count=64, method="onednn"),
            x,
            kernel,
            platform="cpu",
        )
    except Exception as error:  # the report shows any failure
        return "off: " + str(error).rpartition("got 'onednn'. ")[2]
    return "on"


def layers() -> dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]]:
    """Return a few typical layers by name: each a function and its arguments."""

    def shaped(*shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        return tuple(np.zeros(shape, np.float32) for shape in shapes)

    def gradients(x: Any, kernel: Any) -> Any:
        return jax.grad(lambda x, kernel: convlab.conv(x, kernel).sum(), argnums=(0, 1))(x, kernel)

    return {
        "3x3, 64 to 64 channels": (convlab.conv, shaped((8, 28, 28, 64), (3, 3, 64, 64))),
        "  with its gradients": (gradients, shaped((8, 28, 28, 64), (3, 3, 64, 64))),
        "1x1, 256 to 64 channels": (convlab.conv, shaped((8, 28, 28, 256), (1, 1, 256, 64))),
        "5x5, 1 to 6 channels": (convlab.conv, shaped((256, 28, 28, 1), (5, 5, 1, 6))),
        "depthwise 3x3": (
            lambda x, kernel: convlab.conv(x, kernel, feature_group_count=64),
            shaped((8, 28, 28, 64), (3, 3, 1, 64)),
        ),
        "transposed 4x4, strides 2": (
            lambda x, kernel: convlab.conv_transpose(x, kernel, strides=2),
            shaped((8, 14, 14, 64), (4, 4, 64, 32)),
        ),
        "max pool 2x2": (lambda x: convlab.max_pool(x, 2, strides=2), shaped((8, 28, 28, 64))),
    }


def formulations() -> list[str]:
    """Return a line for each convolution or pool of the typical layers: its formulation and the reason for it."""
    lines = []
    for name, (function, arguments) in layers().items():
        for step in convlab.explain(function, *arguments):
            lines.append(f"  {name:28}{step.operation:18}{step.formulation:20}{step.reason}")
            name = ""
    return lines


def report() -> str:
    """Return the whole report."""
    lines = [
        f"{DISTRIBUTION} {convlab.__version__}",
        versions(),
        f"devices: {devices()}",
        f"oneDNN on the CPU: {engine()}",
    ]
    warning, address = other_project(), where_to_report()
    first = [warning] if warning else []
    last = ["", f"Report issues, with the above, at {address}"] if address else []
    return "\n".join([*first, *lines, "", "What computes typical layers here:", *formulations(), *last])


if __name__ == "__main__":
    print(report())
