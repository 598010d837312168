"""What to install where a package that an extra brings is missing."""

from __future__ import annotations


def missing(package: str, extra: str, by: str) -> ModuleNotFoundError:
    """The error for a module `by` of convlab that needs `package`: it names the extra."""
    return ModuleNotFoundError(
        f"`{by}` needs the package {package}: install convlab-jax with its extra `{extra}`, or `pip install {package}`.",
        name=package,
    )
