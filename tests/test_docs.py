"""Every example of the documentation and the READMEs runs and prints what the page says; the reference has every public
name."""

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


@pytest.mark.program
@pytest.mark.parametrize(
    "page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_the_examples_of_a_page_print_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write a file
    names = {"__name__": "page"}
    for block in BLOCK.finditer(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block[1], str(page), "exec"), names)
        if block[2] is not None:
            assert printed.getvalue().split("\n") == block[2].split("\n")


def referenced():
    pages = (ROOT / "docs/reference").glob("*.md")
    return [
        name for p in pages for name in re.findall(r"^(?:<!-- make: entry |::: )([\w.]+)", p.read_text(), re.MULTILINE)
    ]


def test_every_public_name_is_in_the_reference_once():
    found = referenced()
    assert len(found) == len(set(found))
    for module in (convlab, convlab.analysis, convlab.sharding, convlab.viz):
        own = {name for name in found if name.rpartition(".")[0] == module.__name__}
        assert own == {f"{module.__name__}.{name}" for name in module.__all__}


def test_every_function_is_on_the_page_which_layer():
    page = (ROOT / "docs/which-layer.md").read_text()
    functions = {name for name in convlab.__all__ if inspect.isfunction(getattr(convlab, name))} - {"explain"}
    assert [name for name in sorted(functions) if f"`{name}`" not in page] == []


LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?!https?://|#|mailto:)([^)\s#]+)[^)\s]*\)")
TEXTS = sorted(
    {*ROOT.glob("*.md"), *(p for f in ("docs", "benchmarks", "examples", "convlab") for p in (ROOT / f).rglob("*.md"))}
)


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_to_files_of_the_repository(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [link for link in LINK.findall(prose) if not (page.parent / link).exists()] == []
