"""`assertions.py` fails a test that asserts nothing, and one of which every case is skipped because of its
parameters."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest
from assertions import asserts

TESTS = """
import numpy as np, pytest

def compare(a, b):
    np.testing.assert_array_equal(a, b)

@pytest.mark.parametrize("values", [[], [1]], ids=len)
def test_loop(values):
    for value in values:
        assert value

def test_helper():
    compare(1, 1)

def test_mapped():
    list(map(np.testing.assert_array_equal, [1], [1]))

def test_raises():
    with pytest.raises(ZeroDivisionError):
        1 / 0

def test_early():
    if np.__name__ == "numpy":
        return
    assert False

@pytest.mark.parametrize("case", [1, 2])
def test_never(case):
    pytest.skip(f"{case} is not served")

@pytest.mark.parametrize("case", [1, 2])
def test_sometimes(case):
    if case == 1:
        pytest.skip("1 is not served")
    assert case

@pytest.mark.parametrize("case", [1, 2])
def test_elsewhere(case):
    pytest.importorskip("a_package_of_nobody")
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project") / "tests"
    folder.mkdir()
    (folder / "test_all.py").write_text(TESTS)
    (folder.parent / "pytest.ini").touch()
    here = pathlib.Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "assertions", "-p", "no:cacheprovider", "tests"]
    env = os.environ | {"PYTHONPATH": str(here), "CONVLAB_WATCH": "1"}
    done = subprocess.run(command, cwd=folder.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_a_test_whose_every_case_is_skipped_fails(report):
    lines = [line for line in report.splitlines() if "every case was skipped" in line]
    assert lines == ["FAILED tests/test_all.py::test_never: every case was skipped"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="this version of Python has no sys.monitoring")
def test_a_test_that_asserts_nothing_fails(report):
    failed = [line.partition(" - ")[0].rpartition("::")[2] for line in report.splitlines() if line.startswith("FAILED")]
    assert sorted(failed) == ["test_early", "test_loop[0]", "test_never: every case was skipped"]


def names(function):
    return {getattr(node, "attr", None) or getattr(node, "id", None) for node in ast.walk(function)}


def test_every_test_leads_to_an_assertion():
    """Each test contains an assertion or names a helper that has one; this check works on any version of Python."""
    files = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    trees = {path.name: ast.walk(ast.parse(path.read_text())) for path in files}
    functions = [(name, n) for name, tree in trees.items() for n in tree if isinstance(n, ast.FunctionDef)]
    asserting = {n.name for _, n in functions if any(map(asserts, ast.walk(n)))}
    before = 0
    while before < len(asserting):
        before = len(asserting)
        asserting |= {n.name for _, n in functions if names(n) & asserting}
    tests = [(name, n.name) for name, n in functions if n.name.startswith("test_")]
    assert len(tests) > 600 and [test for test in tests if test[1] not in asserting] == []
