"""What the site shows and no page can say by itself: pictures, tables and pages that are made of the code as it is."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

# --- pictures -----------------------------------------------------------------------------------------------------


def pictures() -> dict[str, bytes]:
    """The pictures of the site by file name, drawn anew."""
    import jax.numpy as jnp
    from flax import nnx

    from convlab import viz

    sys.path.insert(0, str(ROOT / "examples/mnist"))
    from lenet.model import LeNet

    x, image = jnp.arange(1.0, 7.0)[:, None], jnp.arange(25.0).reshape(5, 5, 1)
    edges = jnp.array([[1.0, 0.0, -1.0]] * 3)[:, :, None, None]
    two = jnp.stack([x[:, 0], x[:, 0] + 6], -1)
    lenet = LeNet(rngs=nnx.Rngs(0))
    return {
        "slide.gif": _gif(viz.slide(x, jnp.full((3, 1, 1), 2.0), padding=1)),
        "image.gif": _gif(viz.slide(image, edges, padding="SAME", padding_mode="reflect", strides=2)),
        "groups.png": viz.slide(two, jnp.ones((3, 1, 4)) * jnp.arange(1.0, 5.0), feature_group_count=2).at(9)._repr_png_(),
        "transposed.gif": _gif(viz.slide_transpose(image[:2, :2] + 1, jnp.ones((3, 3, 1, 1)), strides=2, padding="VALID")),
        "lenet.png": viz.shapes(lenet, jnp.ones((1, 28, 28, 1)))._repr_png_(),
        "field.png": viz.receptive_field(lenet, _digit(), "conv2", (4, 4))._repr_png_(),
        "matrix.png": viz.matrix(jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1), (6, 6, 1), padding="VALID")._repr_png_(),
    }


def _digit():
    """A digit of scikit-learn's, as the LeNet program sees it."""
    from lenet import data, engine

    return engine.normalise(data.load("digits").test_images[:1])


def _gif(show) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "show.gif"
        show.save(path, seconds=0.8)
        return path.read_bytes()


# --- tables -------------------------------------------------------------------------------------------------------


def layers() -> str:
    """Every layer of `convlab.nnx` and `convlab.linen`, with its arguments."""
    nnx, linen = importlib.import_module("convlab.nnx"), importlib.import_module("convlab.linen")
    rows = ["| layer | what it is | arguments |", "|---|---|---|"]
    for name, layer in sorted(vars(nnx).items()):
        if inspect.isclass(layer) and hasattr(linen, name) and layer.__module__.startswith("convlab"):
            said = inspect.cleandoc(layer.__doc__).split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
            of = re.match(r"`(convlab\.\w+)` as a layer\b", said)
            page = next((p for p in REFERENCE if of and f"::: {of[1]}\n" in p.read_text()), None)
            if page:
                said = f"[`{of[1]}`]({page.name}#{of[1]})" + said.removeprefix(f"`{of[1]}`")
            documented = (
                f"[`{name}`](#convlab.nnx.{name})" if f"::: convlab.nnx.{name}\n" in LAYERS.read_text() else f"`{name}`"
            )
            rows.append(f"| {documented} | {said} | {_arguments(layer) if '#' not in documented else 'see below'} |")
    return "\n".join(rows)


LAYERS = ROOT / "docs/reference/layers.md"
REFERENCE = sorted((ROOT / "docs/reference").glob("*.md"))


def _arguments(layer: type) -> str:
    parameters = [p for p in inspect.signature(layer.__init__).parameters.values() if p.name not in ("self", "rngs")]
    return ", ".join(f"`{p.name}`" if p.default is p.empty else f"`{p.name}={_short(p.default)}`" for p in parameters)


def _short(default: object) -> str:
    return getattr(default, "__name__", "...") if callable(default) or "<factory>" in repr(default) else repr(default)


def formulations(which: str) -> str:
    """The rows of the table by which a formulation is chosen."""
    rows = getattr(importlib.import_module("convlab._backend.tables"), which)
    lines = [f"| {n} | `{name}` | {reason} |" for n, (name, reason, _) in enumerate(rows, 1)]
    return "\n".join(["| | formulation | reason |", "|---|---|---|", *lines])


def notebooks() -> str:
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "notebooks/refresh.py")
    assert spec and spec.loader
    refresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(refresh)
    import nbformat

    rows = ["| notebook | |", "|---|---|"]
    for path in refresh.NOTEBOOKS:
        title, _, text = nbformat.read(path, as_version=4).cells[0].source.partition("\n")
        about = text.strip().split("\n\n")[0].replace("\n", " ")
        address = refresh.address(path.name)
        where = f"[open in Colab]({address})" if address else f"`notebooks/{path.name}`"
        rows.append(f"| **{title.lstrip('# ')}**<br>{about} | {where} |")
    return "\n".join(rows)


TABLES = {
    "layers": layers,
    "forward": lambda: formulations("FORWARD"),
    "kernel gradient": lambda: formulations("KERNEL_GRADIENT"),
    "tpu forward": lambda: formulations("TPU_FORWARD"),
    "tpu kernel gradient": lambda: formulations("TPU_KERNEL_GRADIENT"),
    "notebooks": notebooks,
    "contributing": lambda: linked((ROOT / "CONTRIBUTING.md").read_text().partition("\n")[2]),
}

# --- pages that are files elsewhere -------------------------------------------------------------------------------

PAGES = {
    "benchmarks.md": "benchmarks/README.md",
    "seam.md": "convlab/_backend/README.md",
    "trainings.md": "examples/architectures/README.md",
}
LINKS = {"convlab/_backend/README.md": "seam.md", "../../docs/networks.md": "networks.md"}


def linked(text: str) -> str:
    """A text of the repository with its links as they are on the site."""
    for old, new in LINKS.items():
        text = text.replace(f"]({old})", f"]({new})")
    return text


def on_files(files, config):
    from mkdocs.structure.files import File

    for name, content in pictures().items():
        files.append(File.generated(config, f"pictures/{name}", content=content))
    for name, path in PAGES.items():
        files.append(File.generated(config, name, content=linked((ROOT / path).read_text())))
    files.append(File.generated(config, "picture.png", content=(ROOT / "benchmarks/picture.png").read_bytes()))
    for path in sorted((ROOT / "examples/architectures/trainings").glob("*.png")):
        files.append(File.generated(config, f"trainings/{path.name}", content=path.read_bytes()))
    return files


def on_page_markdown(markdown, page, config, files):
    return re.sub(r"<!-- make: (.*?) -->", lambda found: TABLES[found[1]](), markdown)
