"""Fixtures for the tests of the LeNet trainer: the program, loaded from its file, and one trained run."""

import importlib.util
import os
import pathlib
import shutil
import sys
import time

import jax
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "mnist"
sys.path.insert(0, str(FOLDER))

spec = importlib.util.spec_from_file_location("mnist_train", FOLDER / "train.py")
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)

EPOCHS = 3


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Use a temporary cache, so that the tests leave nothing in the user's."""
    former = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp() / "cache")
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    del os.environ["XDG_CACHE_HOME"]
    if former is not None:
        os.environ["XDG_CACHE_HOME"] = former


@pytest.fixture(scope="session")
def trained(cache, tmp_path_factory):
    """Return the folder of an uninterrupted run on the digits; tests that change it work on a copy."""
    folder = tmp_path_factory.getbasetemp() / "trained"
    if not folder.exists():  # each module that imports this fixture has its own
        assert program.main(["train", "--workdir", str(folder), "--epochs", str(EPOCHS)]) == 0
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    return pathlib.Path(shutil.copytree(trained, tmp_path / "run"))


def resume(folder, capsys, *arguments):
    """Resume in this process, and return the exit code and stderr."""
    capsys.readouterr()
    code = program.main(["train", "--workdir", str(folder), "--resume", *map(str, arguments)])
    return code, capsys.readouterr().err


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
