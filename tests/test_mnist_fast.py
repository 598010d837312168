"""The fast training of MNIST, on scikit-learn's digits."""

import re
import subprocess
import sys

import pytest
from mnist_program import FOLDER

pytestmark = pytest.mark.program


def run(*arguments):
    command = [sys.executable, str(FOLDER / "fast.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_framework_learns_the_digits():
    """Each runs in a separate process, by the same schedule."""
    done = run("--data", "digits", "--epochs", 12, "--seeds", 2)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("convlab") and [line.split()[0] for line in lines] in (["convlab"], ["convlab", "torch"])
    for line in lines:
        mean, *each = (float(n) for n in re.match(r"\w+ +([\d.]+) % \(([\d.]+), ([\d.]+)\) in ", line).groups())
        assert mean > 97 and min(each) > 96, line


WRONG = {
    "--seeds 0": "must be a positive integer, got '0'",
    "--framework keras": "invalid choice: 'keras'",
    "--data idx": "`--data-dir` must name the folder of the four files for --data idx, got nothing",
    "--data-dir /nowhere": "cannot read /nowhere/train-images-idx3-ubyte.gz: No such file or directory",
}


@pytest.mark.parametrize("options", WRONG)
def test_errors_are_one_line(options):
    done = run(*options.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("fast.py: ") and WRONG[options] in done.stderr
