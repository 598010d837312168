"""Every notebook runs, and the numbers that it teaches are in its outputs, committed and executed."""

import base64
import importlib.util
import pathlib
import re

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
spec = importlib.util.spec_from_file_location("refresh", FOLDER / "refresh.py")
refresh = importlib.util.module_from_spec(spec)
spec.loader.exec_module(refresh)

# Numbers that each notebook must print, those of common texts on convolution.
NUMBERS = {
    "1-one-dimension": [
        "with a bias of 10: [22, 28, 34, 40]",
        "size 1: [2, 4, 6, 8, 10, 12]",
        "size 2: [6, 10, 14, 18, 22]",
        "size 3: [12, 18, 24, 30]",
        "size 5: [30, 40]",
        "size 3, padding 1: [6, 12, 18, 24, 30, 22]",
        "size 5, padding 2: [12, 20, 30, 40, 36, 30]",
        "stride 3:   [12, 30]",
        "dilation 2: [18, 24]",
        "[2 4 6 8 10 12]\n[40 80 120 160 200 240]\n",
        "[2 4 6 8 10 12]\n[4 8 12 16 20 24]\n[60 120 180 240 300 360]\n[80 160 240 320 400 480]\n",
        "two groups: [[6, 9, 12, 15], [48, 54, 60, 66]]",
        "[6, 9, 12, 15]\n   [12, 18, 24, 30]\n   [72, 81, 90, 99]\n   [96, 108, 120, 132]",
        "equal to a matrix product: True",
        "[1, 2, 3, 4, 5, 6, 3]",
        "max: [5, 2, 4, 9]  average: [3.0, 1.0, 4.0, 6.0]",
    ],
    "2-images-and-more": [
        "[[ 0 30 30  0]",
        "image (5, 5, 3)  kernel (3, 3, 3, 1)  output (3, 3, 1)",
        "image (32, 32, 3)  kernel (5, 5, 3, 2)  bias (2,)  output (28, 28, 2)",
        "kernel (5, 5, 3, 16)  output (32, 32, 16)",
        "3x3 on 256 channels: 589,824 weights\nbottleneck:          69,632\nseparable:           67,840",
        "pooled (6, 9) to (2, 3)",
        "[[53 50 49]\n [51 52 47]]",
        "changed by a shift of one pixel: edges 4",
        "global max pool 0%",
        "max: equal True  average: equal False",
        "4704 before the pool, 1176 after it",
        "sound (14400, 2)  smoothed (14400, 2)",
        "volume (24, 48, 48, 1)  kernel (3, 3, 3, 1, 1)  result (24, 48, 48, 1)",
        "equal to the 3-D result: True",
    ],
    "3-mathematics": [
        "correlation [17, 24, 31, 38]  NumPy's [17, 24, 31, 38]",
        "convolution [11, 18, 25, 32]  NumPy's [11, 18, 25, 32]",
        "[1, 4, 11, 18, 25, 32, 32, 24] [1, 4, 11, 18, 25, 32, 32, 24]",
        "matrix times input: [17, 24, 31, 38]",
        'largest difference of the product of spectra: 0.0000\nlargest difference of method="fft":           0.0000',
        "largest difference between them: 0.0000",
        "[2,097,160]",
        "[200]",
        "[10**9]",
        "3,687,936 weights",
        "117,600",
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
        "receptive fields: [3, 13, 25, 37]",
        "ci co kh kw mh mw = 22,176,000\nwith padding:       22,176,000\nwithout:            19,562,400",
        "XLA's, halved:      19,562,400",
        "twice channels: 4.0 times more",
        "output (1, 7, 7, 7)  receptive field (33, 33)  stride 8",
        "objects 3  found",
    ],
    "5-lenet": [
        "images to learn from",
        "61,706",
        "test accuracy 9",
        "receptive fields: {'conv1': (5, 5), 'conv2': (14, 14), 'dense1': (28, 28)}",
        "are wrong",
    ],
    "6-your-layer": [
        "shares of a window: sum 1, largest difference 0.0000",
        "(6, 6)",
        "largest difference from JAX's own derivative: 0.0000",
        "4 devices, on each: (2, 8, 8, 4)  largest difference from one device: 0.0000",
        "one program for ('cpu', 'cuda', 'tpu')",
        "it gives what the function gives, largest relative difference 0.0000",
    ],
}
# The least numbers of pictures, animations and sounds.
LEAST = {
    "1-one-dimension": (16, 16, 0),
    "2-images-and-more": (15, 6, 3),
    "3-mathematics": (13, 2, 0),
    "4-geometry": (5, 2, 0),
    "5-lenet": (10, 0, 0),
    "6-your-layer": (6, 1, 0),
}
SOLUTION = re.compile(
    r"<details>\n<summary>Solution</summary>\n\n.+?\n\n```python\n(.+?)\n```\n\n```text\n(.+?)\n```\n\n</details>",
    re.DOTALL,
)


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def printed(notebook):
    texts = (
        output.get("text", "") or output.get("data", {}).get("text/plain", "") + "\n" for output in outputs(notebook)
    )
    return "".join(texts)


def pictures(notebook):
    return [base64.b64decode(o["data"]["image/png"]) for o in outputs(notebook) if "image/png" in o.get("data", {})]


def pages(notebook):
    return [o["data"]["text/html"] for o in outputs(notebook) if "text/html" in o.get("data", {})]


def solutions(notebook):
    """Return the programs of the exercises at the end, and their output."""
    last = notebook.cells[-1]
    assert last.source.startswith("## Exercises")
    return SOLUTION.findall(last.source)


def check(notebook, name):
    text = printed(notebook)
    assert [number for number in NUMBERS[name] if number not in text] == []
    drawn = pictures(notebook)
    moving = [picture for picture in drawn if b"acTL" in picture]
    sounds = sum("<audio" in page for page in pages(notebook))
    found = len(drawn), len(moving), sounds
    assert all(n >= least for n, least in zip(found, LEAST[name], strict=True)), found


def test_every_notebook_is_checked():
    assert [path.stem for path in refresh.NOTEBOOKS] == list(NUMBERS)


@pytest.mark.parametrize("path", refresh.NOTEBOOKS, ids=lambda p: p.stem)
def test_a_committed_notebook_shows_its_numbers_and_is_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    check(notebook, path.stem)
    assert path.stat().st_size < 3_000_000
    assert notebook.cells[0].source.endswith(refresh.badge(path.name)), "run notebooks/refresh.py"
    text = "\n".join(cell.source for cell in notebook.cells[2:])
    assert notebook.cells[1].source == refresh.installation(text), "run notebooks/refresh.py"
    assert "print(jax.devices())" in text
    assert not any(output.output_type == "error" for cell in notebook.cells for output in cell.get("outputs", ()))


@pytest.mark.parametrize("path", refresh.NOTEBOOKS, ids=lambda p: p.stem)
def test_animations_play_without_a_kernel_and_a_network(path):
    notebook = nbformat.read(path, as_version=4)
    slideshows = [page for page in pages(notebook) if "convlab-slideshow" in page]
    moving = {base64.b64encode(picture).decode() for picture in pictures(notebook) if b"acTL" in picture}
    assert len(slideshows) >= LEAST[path.stem][1]
    for page in slideshows:
        assert re.findall(r'src="data:image/png;base64,([^"]+)"', page)[0] in moving  # it plays where scripts do not
        assert not re.search(r"https?:|url\(|@import|\ssrc=\"(?!data:)", page)
    assert all(len(picture) <= 300_000 for picture in pictures(notebook))


@pytest.mark.parametrize("path", refresh.NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_ends_with_three_exercises(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(solutions(notebook)) == 3
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert text.count("<details>") == text.count("</details>") == 3


@pytest.mark.slow
@pytest.mark.parametrize("path", refresh.NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("CONVLAB_DATA", "digits")
    notebook = nbformat.read(path, as_version=4)
    answers = solutions(notebook)
    executed = refresh.execute(path, extra=[program for program, _ in answers])
    check(executed, path.stem)
    for cell, (_, text) in zip(executed.cells[-3:], answers, strict=True):
        assert "".join(o.get("text", "") for o in cell.outputs).rstrip() == text
