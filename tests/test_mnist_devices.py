"""The LeNet trainer on eight devices (`mnist_devices.py`, in a process that has them) and in two processes."""

# ruff: noqa: F811  (an argument that is named like an imported fixture is that fixture)

import contextlib
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from mnist_program import FOLDER, cache, program, wait_for  # noqa: F401  fixtures among them

from lenet import training, workdir  # isort: skip  mnist_program extends the path
from lenet.checkpoint import Checkpoints  # isort: skip

HERE = pathlib.Path(__file__).parent
OPTIONS = "train", "--data", "digits", "--batch-size", "64", "--epochs", "2"


@pytest.mark.program
def test_on_eight_devices():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n0",
        "-p",
        "no:cacheprovider",
        str(HERE / "mnist_devices.py"),
    ]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def two_processes(*arguments):
    """Start two processes that train together, and end them with the block."""
    where = f"127.0.0.1:{free_port()}"
    common = [
        sys.executable,
        str(FOLDER / "train.py"),
        *map(str, arguments),
        "--coordinator",
        where,
        "--num-processes",
        "2",
    ]
    processes = [
        subprocess.Popen([*common, "--process-id", str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in (0, 1)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def in_two_processes(*arguments):
    """Return the exit codes and stderrs of two processes that train together."""
    with two_processes(*arguments) as processes:
        texts = [process.communicate(timeout=240) for process in processes]
        return [process.returncode for process in processes], [error for _, error in texts]


def parameters(folder, epoch):
    return Checkpoints(folder / "checkpoints").restore(epoch, training.like(workdir.read_config(folder)))[0]


@pytest.fixture(scope="module")
def two(cache, tmp_path_factory):
    """Return the folder of an uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("devices") / "two"
    codes, errors = in_two_processes(*OPTIONS, "--workdir", folder)
    assert codes == [0, 0], errors
    return folder


@pytest.mark.program
def test_two_processes_train_what_one_trains(two, tmp_path):
    assert program.main([*OPTIONS, "--workdir", str(tmp_path / "one")]) == 0
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, parameters(two, 2), parameters(tmp_path / "one", 2))
    rows = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]


@pytest.mark.program
def test_two_processes_that_are_killed_and_started_again_end_identical(two, tmp_path):
    with two_processes(*OPTIONS, "--workdir", tmp_path / "killed") as processes:
        wait_for(tmp_path / "killed" / "checkpoints" / "1", processes[0])
    codes, errors = in_two_processes(*OPTIONS, "--workdir", tmp_path / "killed", "--resume")
    assert codes == [0, 0], errors
    jax.tree.map(np.testing.assert_array_equal, parameters(two, 2), parameters(tmp_path / "killed", 2))


@pytest.mark.program
def test_what_the_first_process_refuses_ends_both(cache, tmp_path):
    (tmp_path / "something").write_text("else")
    codes, errors = in_two_processes("train", "--workdir", tmp_path)
    assert codes == [2, 2], errors
    assert all("`--workdir` must be new, empty or a run's folder" in error for error in errors)


INCOMPLETE = {
    ("--coordinator", "127.0.0.1:1"): "`--coordinator` must come with --num-processes and --process-id",
    ("--coordinator", "127.0.0.1:1", "--num-processes", "2", "--process-id", "2"): "`--process-id` must be below 2",
    ("--devices", "none"): "--devices: must be all or a positive integer, got 'none'",
}


@pytest.mark.parametrize("options", INCOMPLETE, ids=" ".join)
def test_nonsense_options(capsys, options):
    assert program.main(["train", *options]) == 2
    assert INCOMPLETE[options] in capsys.readouterr().err
