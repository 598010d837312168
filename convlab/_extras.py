"""The error for a missing optional package: it names the extra that installs it."""

from __future__ import annotations


def missing(package: str, extra: str, by: str) -> ModuleNotFoundError:
    """Build the error of the module `by` of convlab, which needs `package` and so the extra."""
    return ModuleNotFoundError(
        f"`{by}` needs the package {package}: install convlab-jax with its extra `{extra}`, "
        f"or `pip install {package}`.",
        name=package,
    )
