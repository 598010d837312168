"""convlab answers the reports of docs/upstream.md; the page is made of the same table, checks and programs."""

import ast
import json
import pathlib
import re
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("flax")
ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import upstream  # noqa: E402
import upstream_layers  # noqa: E402, F401  fills CHECKS
import upstream_speed  # noqa: E402
from upstream_checks import CHECKS  # noqa: E402
from upstream_checks import near as assert_near  # noqa: E402
from upstream_reports import DEVICES, REPORTS, SECTIONS, WRONG  # noqa: E402

FATAL = {"window_of_one_that_crops", "mapped_dilated_groups"}  # checks that end a process of plain JAX
HERE = [report for report in REPORTS if report.check and report.check not in FATAL and report not in DEVICES]


@pytest.mark.program
@pytest.mark.parametrize("report", HERE, ids=lambda report: report.check)
def test_convlab_answers(report):
    assert_right = CHECKS[report.check]
    if report.better:
        assert_right("convlab")
    else:
        with pytest.raises(AssertionError):
            assert_right("convlab")


@pytest.mark.parametrize("library", ["accelerate", "convlab"])
def test_calls_that_end_the_process_of_plain_jax_compute(library):
    """With "accelerate", plain JAX's own programs of that section compute, except where convlab has no part."""
    others = {
        "averages_in_bfloat16",
        "infinity_in_patches",
    }  # no convolution or pool is wrong there, but the call
    names = FATAL if library == "convlab" else {report.check for report in WRONG} - others
    assert upstream.checked(library, sorted(names)) == dict.fromkeys(names, "right")


@pytest.mark.parametrize("name", upstream_speed.SIZES)
def test_timed_programs_compute_the_same(name):
    with jax.enable_x64(upstream_speed.DTYPES.get(name) is np.float64):
        results = []
        for own in (True, False):
            _, f, arrays = upstream_speed.prepared(name, own, small=True)
            results.append(jax.tree.leaves(jax.jit(f)(*arrays)))
        for ours, theirs in zip(*results, strict=True):
            assert_near(ours, theirs)


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
        actual = jax.jit(upstream_speed.program(name, own=True))(*arrays)
    assert_near(actual, expected if name in ("loop", "mapped filter") else np.moveaxis(expected, 1, -1))


def test_every_report_is_held():
    """Each report has a check here or a test that exists; every check and program belongs to a report."""
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
        if title != "Slow":
            given = [
                row.rsplit("| ", 1)[1] for row in re.findall(r"^\| (?!report|---).*(?= \|$)", section, re.MULTILINE)
            ]
            assert given.count("right") + given.count("held by a test") == len([r for r in reports if r.better]), title


def test_the_command_makes_a_page(tmp_path, monkeypatch):
    """The page contains earlier results and one new check."""
    asked = []
    monkeypatch.setattr(
        upstream, "checked", lambda library, names: asked.append(library) or dict.fromkeys(names, "right")
    )
    monkeypatch.setattr(sys, "argv", ["upstream.py", "--only", "any_reducer", "--json", str(tmp_path / "out.json")])
    assert upstream.main() == 0 and asked == ["jax", "accelerate", "convlab"]
    result = json.loads((tmp_path / "out.json").read_text())
    times = {"mode": "gradients", "values": {"flax": 12.0, "convlab": 3.0, "torch": 250.4}, "notes": {}}
    result |= {"times": {"float64": times}, "versions": {"convlab": {"python": "3.11", "jax": "0.10"}}}
    (tmp_path / "out.json").write_text(json.dumps(result))
    sys.argv += ["--markdown", str(tmp_path / "out.md")]
    assert upstream.main() == 0 and len(asked) == 3
    page = (tmp_path / "out.md").read_text()
    assert "| with gradients | 12 |  | 3 | 250 | 4 |" in page and page.count("| right | right | right |") == 1
    assert "[jax 23713]" not in page and "jax 0.10, Python 3.11" not in page and "Python 3.11, jax 0.10" in page


@pytest.mark.parametrize("contestant", ["flax", "convlab"])
def test_a_contestant_is_timed(contestant):
    for name in ("float64", "gradients per example"):
        ((mode, (runs, work)),) = upstream_speed.calls(contestant, {"name": name, "small": True}).items()
        assert mode == upstream_speed.SIZES[name][0] and work == 1
        for run in runs:
            run()
