"""Spatial axes split over devices: runs `sharded.py` in a process with eight devices, and the examples with one."""

import doctest
import inspect
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from convlab import sharding


@pytest.mark.program
def test_on_eight_devices():
    here = pathlib.Path(__file__).parent
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", str(here / "sharded.py")]
    done = subprocess.run(
        command, cwd=here.parent, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("name", sharding.__all__)
def test_docstrings(name):
    function = getattr(sharding, name)
    text = inspect.getdoc(function)
    assert "`max_pool`" in text or all(f"\n{title}\n" in text for title in ("Args:", "Returns:", "Example:"))
    output = []
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder(recurse=False).find(function, name, globs=vars(sharding) | {"jax": jax}):
        runner.run(test, out=output.append)
    assert not output, "".join(output)
