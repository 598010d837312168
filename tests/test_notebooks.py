"""Every notebook runs, and the numbers that it teaches are among its outputs, as committed and as executed."""

import importlib.util
import pathlib

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
spec = importlib.util.spec_from_file_location("refresh", FOLDER / "refresh.py")
refresh = importlib.util.module_from_spec(spec)
spec.loader.exec_module(refresh)

# What a reader of the texts on convolution looks for, in each notebook's outputs.
NUMBERS = {
    "1-one-dimension": [
        "size 1: [2, 4, 6, 8, 10, 12]",
        "size 2: [6, 10, 14, 18, 22]",
        "size 3: [12, 18, 24, 30]",
        "size 5: [30, 40]",
        "size 3, padding 1: [6, 12, 18, 24, 30, 22]",
        "size 5, padding 2: [12, 20, 30, 40, 36, 30]",
        "stride 3:   [12, 30]",
        "dilation 2: [18, 24]",
        "two groups: [[6, 9, 12, 15], [48, 54, 60, 66]]",
        "[6, 9, 12, 15]\n   [12, 18, 24, 30]\n   [72, 81, 90, 99]\n   [96, 108, 120, 132]",
        "equal to a matrix product: True",
        "[1, 2, 3, 4, 5, 6, 3]",
    ],
    "2-images-and-more": [
        "[[ 0 30 30  0]",
        "kernel (5, 5, 3, 16)  result (64, 64, 16)",
        "pooled (6, 9) to (2, 3)",
        "max: equal True  average: equal False",
        "4704 before the pool, 1176 after it",
        "sound (800, 2)  smoothed (800, 2)",
        "volume (24, 48, 48, 1)  kernel (3, 3, 3, 1, 1)  result (24, 48, 48, 1)",
        "equal to the 3-D result: True",
    ],
    "3-mathematics": [
        "correlation [17, 24, 31, 38]  NumPy's [17, 24, 31, 38]",
        "convolution [11, 18, 25, 32]  NumPy's [11, 18, 25, 32]",
        "flip both axes = rot180: True  same result: True",
        "[1, 4, 11, 18, 25, 32, 32, 24] [1, 4, 11, 18, 25, 32, 32, 24]",
        "matrix times input: [17, 24, 31, 38]",
        "equal: True\nconvlab's own Fourier formulation: True",
        "full convolution of g with k: True\ndk is the correlation of x with g: True\ndx is M.T @ g: True",
        "3,687,936 weights",
        "117,600",
        "local connection is convolution: True",
        "circular border:            0.000",
        "stride 2, shift by 2:       0.000",
        "[0. 1. 0. 1.]  shifted by one: [1. 1. 1. 1.]",
    ],
    "4-geometry": [
        "24x49   formula 24x49",
        "28x100   formula 28x100",
        "26x100   formula 26x100",
        "(20, 24, 49, 33)",
        "(20, 28, 100, 33)",
        "(20, 26, 100, 33)",
        "50x32 -> 25x16",
        "floor: [3, 5]",
        "ceil:  [3, 5, 6]",
        "4 SAME (1, 2) SAME_LOWER (2, 1)",
        "plain    3 -> 5 -> 7",
        "dilated  3 -> 7 -> 15",
        "ci co kh kw mh mw = 22,176,000\nwith padding:       22,176,000\nwithout:            19,562,400",
        "XLA's, halved:      19,562,400",
        "twice channels: 4.0 times more",
    ],
    "5-lenet": ["images to learn from", "61,706", "test accuracy 9", "are wrong"],
    "6-your-layer": [
        "each window's sums to 1: True",
        "(6, 6)",
        "equal to JAX's own derivative: True",
        "4 devices, on each: (2, 8, 8, 4)  equal: True",
        "one program for ('cpu', 'cuda', 'tpu')",
        "it gives what the function gives: True",
    ],
}
LEAST = {"1-one-dimension": 8, "2-images-and-more": 6, "3-mathematics": 2, "4-geometry": 1, "5-lenet": 8, "6-your-layer": 0}


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") + "\n" for output in outputs)


def pictures(notebook):
    return sum("image/png" in o.get("data", {}) for cell in notebook.cells for o in cell.get("outputs", ()))


def check(notebook, name):
    text = printed(notebook)
    assert [number for number in NUMBERS[name] if number not in text] == []
    assert pictures(notebook) >= LEAST[name]


def test_every_notebook_is_checked():
    assert [path.stem for path in refresh.NOTEBOOKS] == list(NUMBERS)


@pytest.mark.parametrize("path", refresh.NOTEBOOKS, ids=lambda p: p.stem)
def test_a_committed_notebook_shows_its_numbers_and_is_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    check(notebook, path.stem)
    assert path.stat().st_size < 500_000
    assert notebook.cells[0].source.endswith(refresh.badge(path.name)), "run notebooks/refresh.py"
    text = "\n".join(cell.source for cell in notebook.cells[2:])
    assert notebook.cells[1].source == refresh.installation(text), "run notebooks/refresh.py"
    assert "print(jax.devices())" in text
    assert not any(output.output_type == "error" for cell in notebook.cells for output in cell.get("outputs", ()))


@pytest.mark.slow
@pytest.mark.parametrize("path", refresh.NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("CONVLAB_DATA", "digits")
    check(refresh.execute(path), path.stem)
