"""convlab answers the reports of docs/upstream.md; the page is made of the same table, checks and programs."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from quick import quick

pytest.importorskip("flax")
ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import upstream  # noqa: E402
import upstream_layers  # noqa: E402, F401  fills CHECKS
import upstream_speed  # noqa: E402
from upstream_checks import CHECKS, near  # noqa: E402
from upstream_reports import DEVICES, GPU, REPORTS, SECTIONS, WRONG  # noqa: E402

FATAL = {"window_of_one_that_crops", "mapped_dilated_groups"}  # end a process of plain JAX
HERE = [report for report in REPORTS if report.check and report.check not in FATAL and report not in DEVICES]


@pytest.mark.parametrize("report", HERE, ids=lambda report: report.check)
def test_convlab_answers(report):
    if not report.better:
        with pytest.raises(AssertionError):
            CHECKS[report.check]("convlab")
    else:
        CHECKS[report.check]("convlab")


@pytest.mark.parametrize("library", ["accelerate", "convlab"])
def test_what_ends_the_process_of_plain_jax_computes(library):
    """Under `accelerate()` every program of the section that convlab has a part in, plain JAX's own."""
    others = {
        "averages_in_bfloat16",
        "infinity_in_patches",
    }  # no convolution or pool is wrong there, but what is asked of it
    names = FATAL if library == "convlab" else {report.check for report in WRONG} - others
    assert upstream.checked(library, sorted(names)) == dict.fromkeys(names, "right")


@pytest.mark.parametrize("name", upstream_speed.SIZES)
def test_timed_programs_compute_the_same(name):
    with jax.enable_x64(upstream_speed.DTYPES.get(name) is np.float64):
        results = []
        for own in (True, False):
            _, f, arrays = upstream_speed.prepared(name, own, small=True)
            results.append(jax.tree.leaves(quick(f)(*arrays)))
        for ours, theirs in zip(*results, strict=True):
            near(ours, theirs)


@pytest.mark.parametrize("name", upstream_speed.SIZES)
def test_timed_programs_compute_what_pytorchs_do(name):
    torch = pytest.importorskip("torch")
    import upstream_torch

    if name in upstream_torch.ABSENT:
        pytest.skip(upstream_torch.ABSENT[name])
    shapes = upstream_speed.SIZES[name][2]
    arrays = upstream_speed.arrays(name, shapes)
    program, turned = upstream_torch.program(name, shapes)
    expected = program(*map(torch.from_numpy, turned(arrays))).numpy()
    with jax.enable_x64(upstream_speed.DTYPES.get(name) is np.float64):
        actual = quick(upstream_speed.program(name, own=True))(*arrays)
    near(actual, expected if name in ("loop", "mapped filter") else np.moveaxis(expected, 1, -1))


def test_every_report_is_held():
    """By a check here or by a test that exists; every check and program is some report's."""
    for report in REPORTS:
        assert report.check in CHECKS or report.speed or report.test, report
        if report.test:
            path, _, name = report.test.partition("::")
            defined = {node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if hasattr(node, "name")}
            assert name in defined, report.test
    assert {report.check for report in REPORTS} - {""} == set(CHECKS)
    assert {report.speed for report in REPORTS} - {"", "lenet"} == set(upstream_speed.SIZES)


def test_the_page_has_every_report():
    page = (ROOT / "docs/upstream.md").read_text()
    for title, reports in SECTIONS.items():
        section = page.split(f"## {title}\n")[1].split("\n## ")[0]
        assert section.count("\n| ") == len(reports) + 2, title
        for report in reports:
            assert report.links() in section and report.fault in section and report.answer in section
    wrong = [row for row in re.findall(r"^\|.*\|$", page, re.MULTILINE) if row.endswith(("numbers |", "process |"))]
    assert not wrong and "method=" in page.split("## On a GPU")[1] and len(GPU) == 5


def test_the_command_makes_a_page(tmp_path):
    """One check and one program."""
    files = ["--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md"]
    options = ["--only", "any_reducer,float64", "--contestants", "flax,convlab", "--budget", 0.01]
    command = [sys.executable, ROOT / "benchmarks/upstream.py", *options, *files]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "out.md").read_text()
    assert page.count("| right |") == 1 and "[jax 940]" in page and "[jax 23713]" not in page
    again = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert again.returncode == 0 and not again.stdout
