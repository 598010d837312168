"""The benchmarks' command on tiny cases: that it measures, tabulates and draws, never how fast anything is."""

import json
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("flax")
pytest.importorskip("optax")
pytest.importorskip("matplotlib")

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
MARKS = "<!-- measured: begin -->\nold\n<!-- measured: end -->"


def run(*arguments):
    command = [sys.executable, str(BENCHMARKS / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One pool, forward, by convlab and Flax: what was printed and the folder with what was written."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "out.md").write_text(f"before\n{MARKS}\nafter\n")
    outputs = ["--json", folder / "out.json", "--markdown", folder / "out.md", "--picture", folder / "out.png"]
    options = ["--only", "max pool w2 s2 64 @56", "--modes", "forward", "--budget", 0.01, "--contestants", "convlab,flax"]
    return run("layers", *options, *outputs).stdout, folder


def test_table(measured):
    printed, _ = measured
    heading, row = printed.splitlines()[:2]
    assert heading.split()[:4] == ["case", "mode", "convlab", "flax"]
    assert row.startswith("max pool w2 s2 64 @56 b1")
    assert "layers forward: convlab / flax geometric mean" in printed


def test_json(measured):
    _, folder = measured
    result = json.loads((folder / "out.json").read_text())
    assert set(result["contestants"]) == {"convlab", "flax"}
    (row,) = result["rows"]
    assert (row["family"], row["mode"], row["unit"], row["notes"]) == ("max pool", "forward", "ms", {})
    assert all(row["values"][name] > 0 for name in ("convlab", "flax"))


def test_markdown_goes_between_the_marks(measured):
    _, folder = measured
    text = (folder / "out.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "old" not in text
    assert "| max pool w2 s2 64 @56 b1 | forward | ms |" in text


def test_picture(measured):
    _, folder = measured
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")


def test_report_joins_runs_and_flags(measured, tmp_path):
    """Against PyTorch if it took part, the later of two measurements, and a mark where the limit is passed."""
    _, folder = measured
    later = json.loads((folder / "out.json").read_text())
    later["contestants"]["torch"] = {"torch": "2"}
    later["rows"][0]["values"] = {"convlab": 8.0, "flax": 4.0, "torch": 2.0}
    (tmp_path / "later.json").write_text(json.dumps(later))
    printed = run("report", folder / "out.json", tmp_path / "later.json").stdout
    assert "layers forward: convlab / torch geometric mean 4.00 over 1" in printed
    assert "flagged: max pool w2 s2 64 @56 b1 forward convlab 4.00" in printed
    assert "times plain JAX: max pool w2 s2 64 @56 b1 forward convlab 2.00" in printed


def test_training():
    options = ["--tiny", "--budget", 0.01, "--contestants", "convlab"]
    printed = run("lenet", "--modes", "step", *options).stdout
    assert "training lenet" in printed and "steps a second" in printed


def test_what_cannot_run_is_left_out_with_the_reason():
    options = ["--only", "max pool w2 s2 64 @56", "--modes", "forward", "--budget", 0.01, "--contestants", "convlab,torch"]
    done = run("layers", *options, "--python", "torch=/nowhere/python")
    assert "torch is left out: " in done.stderr
    assert "max pool" in done.stdout
