"""The benchmarks' command on tiny cases: it measures, tabulates and draws. No test asserts a time."""

import importlib
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("flax")
pytest.importorskip("optax")
pytest.importorskip("matplotlib")

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
specification = importlib.util.spec_from_file_location("gpu_run", BENCHMARKS / "gpu" / "run.py")
gpu = importlib.util.module_from_spec(specification)
sys.modules["gpu_run"] = gpu  # dataclasses look their module up here
specification.loader.exec_module(gpu)
MARKS = "<!-- measured: begin -->\nold\n<!-- measured: end -->"


def run(*arguments):
    command = [sys.executable, str(BENCHMARKS / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measure one pool, forward, by convlab and Flax, and return the output and the folder with the files."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "out.md").write_text(f"before\n{MARKS}\nafter\n")
    outputs = ["--json", folder / "out.json", "--markdown", folder / "out.md", "--picture", folder / "out.png"]
    options = [
        "--only",
        "max pool w2 s2 64 @56",
        "--modes",
        "forward",
        "--budget",
        0.01,
        "--contestants",
        "convlab,flax",
    ]
    return run("layers", *options, *outputs).stdout, folder


def test_table(measured):
    printed, _ = measured
    heading, row = printed.splitlines()[:2]
    assert heading.split()[:4] == ["case", "mode", "convlab", "flax"]
    assert row.startswith("max pool w2 s2 64 @56 b1")
    assert "layers forward: convlab / flax geometric mean" in printed


def test_the_columns_of_the_terminal_stand_apart():
    report, tables = importlib.import_module("report"), importlib.import_module("tables")
    names = ["convlab", "torch", "accelerate newest", "onnxruntime"]
    row = {"family": "inference", "case": "x", "subject": "inference", "unit": "s", "notes": {}}
    row["mode"] = "batch 8, first result"
    result = report.Result({name: {} for name in names}, [row | {"values": dict.fromkeys(names, 1.0)}])
    heading, line = tables.heading(result), tables.line(result, result.rows[0])
    assert all(f"  {name}" in heading for name in names) and len(heading) == len(line)
    assert [line[: heading.index(name) + len(name)].rstrip()[-4:] for name in names] == ["1.00"] * len(names)


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
    """The report compares with PyTorch if measured, takes the later of two measurements, and flags values over the limit."""
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
    printed = run("lenet", "--modes", "step", "--dtype", "bfloat16", *options).stdout
    assert "training lenet" in printed and "steps a second" in printed and ", bfloat16, load" in printed


def test_a_contestant_that_cannot_run_is_left_out_with_the_reason():
    options = [
        "--only",
        "max pool w2 s2 64 @56",
        "--modes",
        "forward",
        "--budget",
        0.01,
        "--contestants",
        "convlab,torch",
    ]
    done = run("layers", *options, "--python", "torch=/nowhere/python")
    assert "torch is left out: " in done.stderr
    assert "max pool" in done.stdout


WRONG = {
    "photos": "invalid choice: 'photos'",
    "layers --modes froward": "must be some of forward, gradients, scan, vmap, ensemble, step, batch 1, batch 8, comma separated, got 'froward'",
    "layers --contestants pytorch": "must be some of convlab, flax, accelerate, torch, frozen, inductor, onnxruntime, comma separated, got 'pytorch'",
    "layers --python newest": "must be NAME=PATH, got 'newest'",
    "layers --budget 0": "must be a positive number, got '0'",
    "layers --json /nowhere/out.json": "must be a file in a folder that exists, got '/nowhere/out.json'",
    "layers --only nothing --contestants convlab": "nothing of layers is called 'nothing'",
    "layers out.json": "only `report` takes files",
    "report": "`report` needs the JSON files of earlier runs",
    "report /nowhere/out.json": "cannot read /nowhere/out.json: No such file or directory",
    f"report {BENCHMARKS / 'README.md'}": "is no result of run.py --json",
}


@pytest.mark.parametrize("command", WRONG)
def test_errors_are_one_line(command):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "run.py"), *command.split()], capture_output=True, text=True
    )
    lines = [line for line in done.stderr.splitlines() if "The machine is busy" not in line]
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert lines[0].startswith("run.py: ") and WRONG[command] in lines[0]


# --- accelerators -------------------------------------------------------------------------------------------------


@pytest.mark.program
def test_the_command_tries_every_part_without_a_gpu(tmp_path, capfd):
    """The table of calls, a report, layers and a network in both dtypes, LeNet's training, a tuning; and what is in the
    folder is not measured again."""
    only = "conv-one-pixel,windows of 16,depthwise w3 dw 128 @56,max pool w2 s2 64 @56,mobilenet"
    out, written = tmp_path / "out", tmp_path / "page.md"
    written.write_text(MARKS)
    command = ["--dry-run", "--out", str(out), "--only", only, "--contestants", "convlab", "--markdown", str(written)]
    assert gpu.main(command) == 0
    assert set(json.loads((out / "run.json").read_text())["parts"].values()) == {""}, capfd.readouterr()
    said = (out / "summary.txt").read_text()
    assert "check: 4 results, 4 right" in said
    for dtype in ("float32", "bfloat16"):
        assert f"mobilenet v1, {dtype}, batch 2: convlab " in said
        result = json.loads((out / f"layers-{dtype}-first.json").read_text())
        assert [row["case"] for row in result["rows"][::2]] == ["w3 dw 128 @56 b1", "w2 s2 64 @56 b1"]
        assert all(set(row["values"]) == {"convlab"} and not row["notes"] for row in result["rows"])
        assert result["machine"].startswith(f"the CPU, tiny sizes, {dtype}, TF32 on")
        rows = json.loads((out / f"reports-{dtype}.json").read_text())["rows"]
        assert [row["case"].partition(" by ")[2] for row in rows[::2]] == ["", "lax"]
    assert "LeNet: " in said and " after 1 epochs, " in said
    text = written.read_text()
    for title in (
        "Does everything work?",
        "Forms that users report",
        "Layers",
        "A training step",
        "LeNet",
        "The gain by autotune",
    ):
        assert f"\n## {title}" in text
    kept = [path for path in out.glob("*.json*") if path.name != "run.json"]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert gpu.main(command) == 0
    assert before == {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.program
def test_calls_that_are_wrong_on_a_device_are_reported(tmp_path, monkeypatch, capsys):
    path = BENCHMARKS / "gpu" / "check.py"  # docs has a module of this name too
    specification = importlib.util.spec_from_file_location("gpu_check", path)
    check = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(check)
    convlab = importlib.import_module("convlab")
    monkeypatch.setattr(convlab, "global_avg_pool", lambda x, **_: 1.05 * x.mean((1, 2)))
    out = tmp_path / "check.jsonl"
    assert check.main(["--out", str(out), "--only", "global_avg_pool-two-axes,pixel_shuffle-an-int"]) == 0
    found = {(line["function"], line["dtype"], line["what"]): line for line in map(json.loads, out.open())}
    assert all(
        line["right"] == (line["function"] == "pixel_shuffle") for (*_, what), line in found.items() if what == "values"
    )
    assert found["global_avg_pool", "float32", "values"]["error"] == pytest.approx(0.05, rel=1e-3)
    assert not found["global_avg_pool", "float32", "gradients"]["right"]
    assert found["pixel_shuffle", "float32", "gradients"]["right"]
    assert "global_avg_pool-two-axes float32 values: 0.0499" in capsys.readouterr().out
    before = out.read_text()
    check.main(["--out", str(out), "--only", "global_avg_pool-two-axes,pixel_shuffle-an-int"])
    assert out.read_text() == before


def test_reported_layers_are_the_same_for_every_contestant():
    """convlab by each of its methods, plain JAX through Flax, and PyTorch give the same results."""
    torch = pytest.importorskip("torch")
    jax, suite, subjects, layers_jax, layers_torch = (
        importlib.import_module(name) for name in ("jax", "suite", "subjects", "layers_jax", "layers_torch")
    )
    for case in map(suite.tiny, suite.cases(subjects.REPORTS)):
        f, shapes = layers_torch.layer(case)
        n, channels, *spatial = f(*map(torch.zeros, shapes)).shape
        others = [("convlab", case | {"method": method}) for method in case["methods"]]
        for contestant, layer in [("convlab", case), ("flax", case), *others]:
            made, kernel = layers_jax.layer(contestant, layer)
            found = jax.eval_shape(made, kernel, layers_jax.images(case)).shape
            assert found == (n, *spatial, channels), (case["name"], contestant)


def test_a_page_without_results_says_so(tmp_path):
    (tmp_path / "page.md").write_text(MARKS)
    assert gpu.main(["report", "--out", str(tmp_path), "--markdown", str(tmp_path / "page.md")]) == 0
    assert gpu.page.NOTHING in (tmp_path / "page.md").read_text()
    assert gpu.page.NOTHING in (BENCHMARKS.parent / "docs" / "gpu.md").read_text()  # until it is measured


def test_time_is_shared_among_the_parts_in_order_of_value():
    names = [part.name for part in gpu.parts("")]
    order = ["check", "reports-bfloat16", "layers-bfloat16-first", "networks-bfloat16", "lenet", "autotune"]
    assert [name for name in names if name in order] == order
    assert all(part.cases for part in gpu.parts("") if part.subject != "tuned")
    assert {part.name for part in gpu.parts("mobilenet")} >= {"networks-float32", "lenet"}


def test_lenets_epochs_to_its_goal():
    epochs = [dict(epoch=n + 1, seconds=2.0, test_accuracy=a) for n, a in enumerate((0.98, 0.991, 0.992))]
    assert gpu.page.reached(epochs) == "LeNet: 99% of the test images after 2 epochs, 4.0 s of training"


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "run.py: there is no GPU here: nvidia-smi names none\n"


def test_resnet_50_is_the_papers():
    """It has 25.6 million parameters, 25.5 of them weights, without the convolutions' biases, which the paper's lacks."""
    jax, layers_jax, networks_jax = (importlib.import_module(name) for name in ("jax", "layers_jax", "networks_jax"))
    model = networks_jax.Model(networks_jax.network("resnet50", False), layers_jax.linen_of("convlab"))
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    sizes = jax.tree_util.tree_leaves_with_path(jax.eval_shape(model.init, jax.random.key(0), x)["params"])
    without = sum(leaf.size for path, leaf in sizes if not ("Conv" in str(path) and "bias" in str(path)))
    assert without == 25_557_032


@pytest.mark.slow
def test_a_step_of_training_has_the_losses_of_pytorch(tmp_path):
    for package in ("torch", "torchvision", "PIL"):
        pytest.importorskip(package)
    options = ["--only", "resnet18", "--modes", "batch 8", "--contestants", "convlab,torch", "--budget", 0.01]
    assert "training resnet18" in run("training", "--tiny", *options, "--json", tmp_path / "out.json").stdout
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["unit"] for row in rows] == ["ms", "s", "MiB"]
    assert all(row["notes"] == {} and set(row["values"]) == {"convlab", "torch"} for row in rows)


@pytest.mark.slow
def test_inference_has_the_results_of_pytorch(tmp_path):
    pytest.importorskip("torch")
    options = ["--only", "lenet5", "--modes", "batch 1", "--contestants", "frozen,torch", "--budget", 0.01]
    assert "inference lenet5" in run("inference", *options, "--json", tmp_path / "out.json").stdout
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["unit"] for row in rows] == ["ms", "s", "MiB"]
    assert all(row["notes"] == {} and set(row["values"]) == {"frozen", "torch"} for row in rows)


@pytest.mark.program
def test_formulations_are_timed_with_and_without(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(MARKS)
    command = [sys.executable, str(BENCHMARKS / "formulations.py"), "--only", "w5 1-6 @28"]
    done = subprocess.run([*command, "--rounds", "1", "--markdown", str(page)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = [
        line for line in page.read_text().splitlines() if line.startswith("| batch_vectorized | w5 1-6 @28 b256, ")
    ]
    assert len(table) == 2 and "toeplitz: 0 programs, none changes" in page.read_text()
    wrong = subprocess.run([*command, "--formulations", "lanes"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stdout == "" and wrong.stderr.count("\n") == 1


TUNED_HERE = {
    "machine": "a CPU, with the engine",
    "jax": "1",
    "date": "2026-01-01",
    "settings": "--budget 8",
    "load": 1.0,
}


def test_tunings_of_several_runs_are_tabulated_by_their_conditions():
    tuned = importlib.import_module("tuned")
    facts = {"stopped": None, "problems": []}
    faster = TUNED_HERE | facts | {"times": {"static": 4.0, "tuned": 2.0, "plain": 1.0}, "changed": ["forward: a to b"]}
    same = TUNED_HERE | facts | {"times": {"static": 3.0}, "changed": []}
    other = same | {"machine": "a CPU, without the engine"}
    text = tuned.markdown({"x|1": faster, "y|1": same, "x|2": other})
    first, second = text.split("\n\n`")
    assert (
        "2 programs, 1 of them faster by more than 5 %, the gain in the geometric mean 1.41, the least 1.00." in first
    )
    assert "more than 5 % are 1 of 1." in first and "| x | 4 | 2 | 2.00 | 1 | forward: a to b |" in first
    assert second.startswith("CONVLAB_ENGINE=off python") and "| x | 3 | 3 | 1.00 | – | nothing |" in second


def test_problems_that_gain_are_listed_and_all_that_were_tried_are_counted():
    tuned = importlib.import_module("tuned")
    facts = {"operation": "forward", "count": 1, "static": "a"}
    faster = facts | {"problem": "1x4x4x2", "choice": "b", "ms": {"b": 1.0, "a": 2.0, "lax": 3.0}}
    same = facts | {"problem": "1x5x5x2", "choice": "a", "ms": {"a": 1.0, "b": 4.0}}
    rows = {
        "x": TUNED_HERE | {"dtype": "float32", "stopped": None, "entries": [faster, same]},
        "y": TUNED_HERE | {"dtype": "float32", "stopped": "the budget is spent", "entries": [faster]},
        "z": TUNED_HERE | {"dtype": "float16", "stopped": None, "entries": [same]},
    }
    text = tuned.problems_markdown(rows)
    assert "- float32: 2 problems of 2 layers, 1 of them faster by more than 5 %; the budget ended" in text
    assert "- float16: 1 problems of 1 layers, 0 of them faster" in text
    assert text.count("\n| forward") == 1 and "| forward 1x4x4x2 | 1 | a | 2 | b | 1 | 2.00 | 3 |" in text


def test_layers_slower_than_plain_jax_are_counted_and_named():
    against_plain = importlib.import_module("against_plain")
    here = {
        "machine": "a CPU",
        "jax": "1",
        "load": 1.0,
        "date": "2026-01-01",
        "stopped": None,
        "settings": "--budget 8",
    }
    times = {
        "slower": ({"tables": 2.0, "tuned": 1.2, "plain": 1.0}, ["forward: a to b"]),
        "mended": ({"tables": 2.0, "tuned": 1.0, "plain": 1.0}, ["forward: a to b"]),
        "clear": ({"tables": 1.0, "plain": 4.0}, None),
        "alone": ({"tables": 1.0}, None),
    }
    rows = [
        here | {"layer": name, "mode": "forward", "times": ms, "changed": what} for name, (ms, what) in times.items()
    ]
    text = against_plain.markdown(rows)
    assert "3 programs of 4 layers, 2 of them autotuned; the ratio to plain JAX is 1.20 at most" in text
    assert "by more than 5 % are 2 by the tables and 1 with autotune: slower forward 1.20." in text
    assert "| mended | forward | 2 | 1 | 1 | 1.00 | forward: a to b |" in text
    assert "| alone | forward | 1 | – | – |" in text and "2 programs that were not autotuned" in text


@pytest.mark.program
def test_a_layer_is_compared_with_plain_jax_and_not_twice(tmp_path):
    page, kept = tmp_path / "page.md", tmp_path / "kept.json"
    page.write_text(MARKS)
    command = [sys.executable, str(BENCHMARKS / "against_plain.py"), "--only", "max pool w2 s2 64 @56 b1"]
    command += ["--rounds", "1", "--repeats", "1", "--json", str(kept), "--markdown", str(page)]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert len(json.loads(kept.read_text())) == 2 and first.stdout.count("max pool w2 s2 64 @56 b1  ") == 2
    assert second.stdout.count("max pool w2 s2 64 @56 b1  ") == 0 and "2 programs of 1 layers" in page.read_text()
    wrong = subprocess.run([*command, "--only", "nothing"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr == "against_plain.py: no layer is called 'nothing'\n"


@pytest.mark.program
def test_rates_are_tabulated_beside_the_peak(tmp_path, monkeypatch, capsys):
    rates, suite = importlib.import_module("rates"), importlib.import_module("suite")
    page = tmp_path / "page.md"
    page.write_text(MARKS)
    (case,) = (suite.tiny(case) for case in rates.chosen("w3 s2 32-64 @112 b1"))
    monkeypatch.setattr(rates, "chosen", lambda only: [case])
    monkeypatch.setattr(sys, "argv", ["rates.py", "--markdown", str(page)])
    assert rates.main() == 0
    rows = [line.split(" | ") for line in page.read_text().splitlines() if "dense 3x3 stride 2" in line]
    assert [row[1] for row in rows] == list(rates.MAPS) and all(row[5].endswith("%") for row in rows)


def test_rates_are_of_the_three_maps():
    """Convlab's maps are those of Flax's layer, and a map has the operations that its name says."""
    jax, np, rates, suite = (importlib.import_module(name) for name in ("jax", "numpy", "rates", "suite"))
    layers_jax = importlib.import_module("layers_jax")
    (case,) = (suite.tiny(case) for case in rates.chosen("w3 s2 32-64 @112 b1"))
    out = jax.eval_shape(layers_jax.layer("convlab", case)[0], *rates._operands(case))
    assert rates.operations(case, out) == 2 * 9 * 32 * 64 * out.shape[1] * out.shape[2]
    for (name, ours, shapes), (_, theirs, _) in zip(rates.maps("convlab", case), rates.maps("flax", case)):
        args = layers_jax.draw(shapes, 1.0)
        for got, expected in zip(*(jax.tree.leaves(f(*args)) for f in (ours, theirs))):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.program
def test_the_costliest_operations_of_a_network_are_listed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(MARKS)
    command = [sys.executable, str(BENCHMARKS / "dearest.py"), "--markdown", str(page), "--only"]
    done = subprocess.run([*command, "lenet5", "--top", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in page.read_text().splitlines() if line.startswith("| lenet5 |")]
    assert len(rows) == 3 and all(float(row.split("|")[4]) > 0 for row in rows)
    (sentence,) = (line for line in page.read_text().splitlines() if line.startswith("Bound by "))
    parts = [float(part) for part in re.findall(r"([\d.]+) of the time", sentence)]
    assert len(parts) == 2 and abs(sum(parts) - 1) < 0.02
    wrong = subprocess.run([*command, "lenet"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stdout == "" and wrong.stderr.count("\n") == 1


@pytest.mark.program
def test_networks_that_are_not_measured_anew_keep_their_dearest_operations():
    page = "<!-- begin -->\\n### lenet5\\n\\nold\\n\\n### tcn\\n\\nkept\\n<!-- end -->\\n"
    code = f"import dearest; print(dearest.merge('{page}', {{'lenet5': 'new'}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.stdout.split() == ["###", "tcn", "kept", "###", "lenet5", "new"], done.stderr


@pytest.mark.program
@pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")
def test_settings_of_memory_are_timed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(MARKS)
    command = [sys.executable, str(BENCHMARKS / "memory.py"), "--markdown", str(page), "--only"]
    done = subprocess.run([*command, "lenet5", "--steps", "1", "--batch", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| lenet5 |")]
    assert len(rows) == 4 and all(float(row[2]) > 0 for row in rows) and rows[0][3] == "1.00"
    some = [*command, "lenet5", "--subject", "inference", "--steps", "1", "--batch", "2"]
    subprocess.run(some, capture_output=True, text=True, check=True)
    assert sum(line.startswith("| lenet5 | ") for line in page.read_text().splitlines()) == 5
    wrong = subprocess.run([*command, "lenet"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stdout == "" and wrong.stderr.count("\n") == 1
