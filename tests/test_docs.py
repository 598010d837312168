"""Every example of the documentation and the READMEs runs and prints what the page says; every public name has its place in the reference."""

import contextlib
import inspect
import io
import pathlib
import re

import pytest

import convlab
import convlab.analysis
import convlab.sharding
import convlab.viz

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_the_examples_of_a_page_print_what_it_says(page):
    names = {"__name__": "page"}
    for block in BLOCK.finditer(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block[1], str(page), "exec"), names)
        if block[2] is not None:
            assert printed.getvalue().split("\n") == block[2].split("\n")


def referenced(page):
    return set(re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/reference" / page).read_text(), re.MULTILINE))


def test_every_public_name_is_in_the_reference():
    pages = ("convolution.md", "pooling.md", "patches.md", "resampling.md", "speed.md")
    assert set().union(*map(referenced, pages)) == {f"convlab.{name}" for name in convlab.__all__}
    assert referenced("analysis.md") == {f"convlab.analysis.{name}" for name in convlab.analysis.__all__}
    assert referenced("sharding.md") == {f"convlab.sharding.{name}" for name in convlab.sharding.__all__}
    assert referenced("viz.md") == {f"convlab.viz.{name}" for name in convlab.viz.__all__}


def test_every_function_is_named_where_one_chooses():
    page = (ROOT / "docs/which-layer.md").read_text()
    functions = {name for name in convlab.__all__ if inspect.isfunction(getattr(convlab, name))} - {"explain"}
    assert [name for name in sorted(functions) if f"`{name}`" not in page] == []
