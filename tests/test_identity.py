"""The name `convlab` on PyPI and its address on GitHub are another project's: nothing here installs from either or
links to them."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from check import STRANGE  # noqa: E402  (the built site is held to it too)


def files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


@pytest.mark.parametrize(
    "text", ["pip install 'convlab[flax]'", "%pip install convlab", "https://github.com/convlab/convlab"]
)
def test_the_pattern_finds_the_other_project(text):
    assert STRANGE.search(text)


@pytest.mark.parametrize(
    "text", ["pip install convlab_jax-0.2.0-py3-none-any.whl", 'name = "convlab-jax"', "import convlab"]
)
def test_the_pattern_leaves_this_one(text):
    assert not STRANGE.search(text)


def test_nothing_names_an_address_or_a_package_that_is_not_ours():
    found = []
    for path in files():
        if (
            path.suffix in (".png", ".gif", ".ico")
            or path in (pathlib.Path(__file__), ROOT / "docs/check.py")
            or not path.exists()
        ):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if STRANGE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert found == []
