"""The table of names: all its names exist, and it has all names of PyTorch, Keras and Flax."""

import importlib
import pathlib
import re
from operator import attrgetter

import jax
import pytest
from flax import linen, nnx

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "names.md"
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| PyTorch")
]
ABOUT = re.compile(r"conv|pool|fold$|pad(\d.)?$|flatten$", re.IGNORECASE)
# These are not operations on images: modules, helpers of modules, the inverse of a reshape, conversions.
OTHERS = {
    "linen.pooling",
    "nnx.unflatten",
    "nnx.flatten",
    "nn.Unflatten",
    "ops.convert_to_numpy",
    "ops.convert_to_tensor",
}


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

    functions = {f"convlab.{n}" for n in convlab.__all__} - {"convlab.Tuning", "convlab.Window", "convlab.explain"}
    public = {n: v for n, v in vars(convlab.nnx).items() if isinstance(v, type) and not n.startswith("_")}
    layers = {n for n, v in public.items() if issubclass(v, nnx.Module)}
    assert functions <= names(3)
    assert {f"convlab.nnx.{n}" for n in layers & vars(convlab.linen).keys()} <= names(3)


def unknown(column, **spaces):
    """Return the names in the column that these modules do not have."""

    def known(name):
        space, *path = name.split(".")
        return space not in spaces or bool(attrgetter(".".join(path))(spaces[space]))

    def missing(name):
        try:
            return not known(name)
        except AttributeError:
            return True

    return {name for name in names(column) if "." in name and missing(name)}


def test_flaxs_names_are_all_there_and_exist():
    assert named(nnx, "nnx") | named(linen, "linen") <= names(2)
    assert not unknown(2, nnx=nnx, linen=linen, lax=jax.lax, jnp=jax.numpy)


def test_pytorchs_names_are_all_there_and_exist():
    torch = pytest.importorskip("torch")
    given = {n for n in named(torch.nn, "nn") if n.split(".")[1][0].isupper()}
    assert given | named(torch.nn.functional, "F") <= names(0)
    assert not unknown(0, nn=torch.nn, F=torch.nn.functional)


def test_kerass_names_are_all_there_and_exist():
    keras = pytest.importorskip("keras")
    layers = {name.removeprefix("layers.") for name in named(keras.layers, "layers")}
    operations = {n for space in ("ops", "ops.image") for n in named(attrgetter(space)(keras), space)}
    assert layers | operations <= names(1)
    assert not unknown(1, ops=keras.ops)
    former = {"LocallyConnected1D", "LocallyConnected2D"}  # Keras 2
    assert not {n for n in names(1) - former if n[0].isupper() and not hasattr(keras.layers, n)}
