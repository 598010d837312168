"""The table of names: what it calls ours exists, and of PyTorch's and Flax's names none is forgotten."""

import importlib
import pathlib
import re

import pytest
from flax import linen, nnx

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "names.md"
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| PyTorch")
]
ABOUT = re.compile(r"conv|pool|fold$|pad(\d.)?$|flatten$", re.IGNORECASE)
# No operations on images: modules, helpers of modules, the inverse of a reshape.
OTHERS = {"linen.pooling", "nnx.unflatten", "nnx.flatten", "nn.Unflatten"}


def names(column):
    return {name for row in ROWS for name in re.findall(r"`([\w.]+)", row[column])}


def named(space, prefix):
    found = {f"{prefix}.{name}" for name in dir(space) if ABOUT.search(name) and not name.startswith("_")}
    return found - OTHERS


def test_every_row_has_four_cells_and_none_is_empty():
    assert len(ROWS) > 50
    for row in ROWS:
        assert len(row) == 4, row
        assert all(row), row
        assert row[3] != "–", row


@pytest.mark.parametrize("name", sorted(n for n in names(3) if n.startswith("convlab.")))
def test_what_the_table_calls_ours_exists(name):
    *modules, attribute = name.split(".")
    assert callable(getattr(importlib.import_module(".".join(modules)), attribute))


def test_every_function_and_layer_of_ours_is_in_the_table():
    import convlab
    import convlab.linen
    import convlab.nnx

    functions = {f"convlab.{n}" for n in convlab.__all__} - {"convlab.Window", "convlab.explain"}
    layers = {n for n, v in vars(convlab.nnx).items() if isinstance(v, type) and issubclass(v, nnx.Module)}
    assert functions <= names(3)
    assert {f"convlab.nnx.{n}" for n in layers & vars(convlab.linen).keys()} <= names(3)


def test_no_name_of_flax_is_forgotten():
    assert named(nnx, "nnx") | named(linen, "linen") <= names(2)


def test_no_name_of_pytorch_is_forgotten():
    torch = pytest.importorskip("torch")
    given = {n for n in named(torch.nn, "nn") if n.split(".")[1][0].isupper()}
    assert given | named(torch.nn.functional, "F") <= names(0)
