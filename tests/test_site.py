"""The pages of the site: entries have the objects' signatures and whole docstrings, formulas hold, faults are found."""

import json
import math
import pathlib
import random
import sys

import jax
import jax.numpy as jnp
import pytest

import convlab
import convlab.analysis
import convlab.linen
import convlab.nnx
import convlab.sharding
import convlab.viz

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import apidoc  # noqa: E402
import check  # noqa: E402
import figures  # noqa: E402
import lessons  # noqa: E402
import pages  # noqa: E402

PUBLIC = [
    f"{module.__name__}.{name}"
    for module in (convlab, convlab.analysis, convlab.sharding, convlab.viz)
    for name in module.__all__
]
LAYERS = [f"convlab.{system}.{name}" for system in ("nnx", "linen") for name in pages.layer_names()]


@pytest.mark.parametrize("path", PUBLIC + LAYERS)
def test_an_entry_has_the_signature_and_every_word_of_the_docstring(path):
    text = pages.entry(path)
    assert text.startswith("`````{py:") and f"}} {path}(" in text
    assert check.missing(path, text) == []


def test_a_lost_word_is_found():
    text = pages.entry("convlab.accelerate")
    assert "Equinox" in text
    assert check.missing("convlab.accelerate", text.replace("Equinox", "")) != []


def test_both_systems_have_every_layer():
    for system in (convlab.nnx, convlab.linen):
        own = {
            name
            for name, value in vars(system).items()
            if isinstance(value, type) and value.__module__.startswith(system.__name__) and name[0].isupper()
        }
        assert own <= set(pages.layer_names())
    assert len(pages.layer_names()) >= 28


@pytest.mark.parametrize("path", LAYERS)
def test_the_entry_of_a_layer_says_its_arguments_and_how_it_is_called(path):
    text = pages.entry(path)
    assert "**Call**" in text and "layer(" in text
    given = apidoc.inspect.signature(apidoc.found(path).__init__).parameters
    others = "as in `Conv`" in text
    assert others or [name for name in given if name not in ("self", "parent", "name") and name not in text] == []


def test_every_pool_has_a_picture_of_its_own_numbers():
    pools = {name for name in convlab.__all__ if "pool" in name} - {"roi_pool"}  # whose windows are boxes
    assert pools <= set(figures.FIGURES)
    assert ">6</text>" in figures.figure("max_pool") and ">3.75</text>" in figures.figure("avg_pool")
    assert figures.figure("conv") == ""


# --- formulas -------------------------------------------------------------------------------------------------------


def cases(seed=0, count=40):
    draw = random.Random(seed)
    for _ in range(count):
        k, s, d, lo, hi = (
            draw.randint(1, 4),
            draw.randint(1, 4),
            draw.randint(1, 3),
            draw.randint(0, 2),
            draw.randint(0, 2),
        )
        yield draw.randint(12, 20), k, s, d, lo, hi


def size(function, *shapes, **options):
    return jax.eval_shape(
        lambda *arrays: function(*arrays, **options), *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)
    ).shape[1]


def test_the_formulas_of_windows():
    for i, k, s, d, lo, hi in cases():
        e = (k - 1) * d + 1
        options = dict(strides=s, kernel_dilation=d)
        shapes = (1, i, 2), (k, 2, 3)
        assert size(convlab.conv, *shapes, padding=[(lo, hi)], **options) == (i + lo + hi - e) // s + 1
        assert size(convlab.conv, *shapes, padding="SAME", **options) == math.ceil(i / s)
        wide = (i - 1) * 3 + 1
        assert size(convlab.conv, *shapes, padding="VALID", input_dilation=3, **options) == (wide - e) // s + 1
        pooled = size(convlab.max_pool, (1, i, 2), window_shape=k, strides=s, padding=[(lo, hi)], window_dilation=d)
        assert pooled == (i + lo + hi - e) // s + 1


def test_the_formulas_of_the_transposed_convolution():
    for i, k, s, d, lo, hi in cases(1):
        e = (k - 1) * d + 1
        options = dict(strides=s, kernel_dilation=d)
        shapes = (1, i, 2), (k, 2, 3)
        assert size(convlab.conv_transpose, *shapes, padding="SAME", **options) == i * s
        assert size(convlab.conv_transpose, *shapes, padding="VALID", **options) == i * s + max(e - s, 0)
        assert size(convlab.conv_transpose, *shapes, padding=[(lo, hi)], **options) == (i - 1) * s + 2 + lo + hi - e
        actual = size(convlab.conv_transpose, *shapes, padding=[(lo, hi)], use_consistent_padding=True, **options)
        assert actual == (i - 1) * s + e - lo - hi


# --- links, lessons, faults -----------------------------------------------------------------------------------------


def test_links_are_those_of_the_site():
    text = "[b](../benchmarks/README.md#method) [f](reference/convolution.md#convlab.conv) [l](../examples/lenet.py) [w](https://x.org)"
    linked = pages.linked(text, "docs/performance.md")
    assert linked == "[b](/benchmarks.md#method) [f](#convlab.conv) l [w](https://x.org)"
    assert pages.linked("```\n[b](x.md)\n```", "docs/index.md") == "```\n[b](x.md)\n```"


@pytest.mark.parametrize("path", pages.NOTEBOOKS, ids=lambda p: p.name)
def test_a_lesson_has_the_text_code_and_pictures_of_its_notebook(path, tmp_path):
    text = lessons.page(path, tmp_path / "pictures")
    assert text.startswith("# ") and "````python" in text and "Open in Colab" not in text
    pictures = [name for name in (tmp_path / "pictures").glob("*") if name.name in text]
    assert len(pictures) == len(list((tmp_path / "pictures").glob("*")))


def test_partial_outputs_of_a_cell_are_one_block(tmp_path):
    outputs = [{"output_type": "stream", "name": "stdout", "text": text} for text in ("one\n", ["two\n", "three\n"])]
    code = {"cell_type": "code", "source": "print()", "outputs": outputs}
    (tmp_path / "1.ipynb").write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": "# One"}, code]}))
    assert "`````text\none\ntwo\nthree\n`````" in lessons.page(tmp_path / "1.ipynb", tmp_path)


FAULTS = {
    "dead link": '<a href="nowhere.html">x</a>',
    "dead anchor": '<a href="#nowhere">x</a>',
    "network": '<script src="https://cdn.example.org/x.js"></script>',
    "formula": "<p>the stride $s$</p>",
    "norm": "<p>the largest \\|x\\|</p>",
    "placeholder": "<p>::: convlab.conv</p>",
    "docstring": '<dl><dt id="convlab.conv">conv</dt><dd><p>A stub.</p></dd></dl>',
    "address": "<p>https://github.com/" + "convlab/convlab</p>",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_site_are_found(tmp_path, fault):
    (tmp_path / "page.html").write_text(f"<html><body>{FAULTS[fault]}</body></html>")
    assert check.faults(tmp_path) != []


def test_a_page_without_faults_has_none(tmp_path):
    (tmp_path / "page.html").write_text(
        '<html><body id="top"><a href="#top">x</a> <code>$HOME ::: x</code> costs $5</body></html>'
    )
    assert check.faults(tmp_path) == []
