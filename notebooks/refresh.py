"""Brings the notebooks up to date: first cells, outputs, sizes. `python notebooks/refresh.py [--heads] [NAME...]`

Each notebook begins with a heading and its badge, and a cell that installs missing packages. This program writes both,
so that the repository's address is in one file, and executes the notebook. Animations play without a running kernel and
without a network connection. An HTML page that is too large for the repository is removed if there is a picture too.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tomllib
from collections.abc import Sequence

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("[0-9]-*.ipynb"))
URLS = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]["urls"]
REPOSITORY = URLS.get("Repository")  # None until the project has a public address
COLAB = "https://colab.research.google.com"
HEAVY = 410_000  # characters of one output: 300 KB in base 64 and a player
INSTALL = """
try:
    import convlab.viz
except ImportError:
    import importlib.util
    import pathlib

    present = importlib.util.find_spec("convlab")
    if present and present.origin and not (pathlib.Path(present.origin).parent / "viz").is_dir():
        raise SystemExit("The `convlab` installed here is another project: uninstall it, restart the kernel.") from None
    here = pathlib.Path().resolve()
    drive = pathlib.Path("/content/drive/MyDrive")  # where Colab mounts yours
    found = [
        path for folder in (here, here.parent / "dist", drive) for path in sorted(folder.glob("convlab_jax-*.whl"))
    ]
    found += [folder for folder in (here, *here.parents) if (folder / "convlab/viz").is_dir()]
    source = f"{{found[0]}}[examples]" if found else "{address}"
    if not source:
        raise SystemExit(
            "convlab is not installed. Put its wheel (convlab_jax-*.whl) beside this notebook,\\n"
            "or open the notebook inside a clone of the repository, and run this cell again."
        ) from None
    %pip install --quiet "{{source}}"
"""
EXAMPLE = """
import pathlib
import sys

program = next((p for p in (pathlib.Path("../examples/mnist"), pathlib.Path("examples/mnist")) if p.exists()), None)
if program is None:
    raise SystemExit("This notebook imports examples/mnist: put the repository's folder `examples` beside it.")
sys.path.insert(0, str(program))
"""


def address(name: str) -> str | None:
    """Return the address at which Colab opens a notebook; None until the repository has a public address on GitHub."""
    if not REPOSITORY:
        return None
    return f"{COLAB}/github/{REPOSITORY.removeprefix('https://github.com/')}/blob/main/notebooks/{name}"


def badge(name: str) -> str:
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({address(name)})" if REPOSITORY else ""


def installation(text: str) -> str:
    """Return the cell that installs missing packages; in a notebook that imports the LeNet program it also finds
    that."""
    cell = INSTALL.format(address=f"convlab-jax[examples] @ git+{REPOSITORY}" if REPOSITORY else "")
    return (cell + EXAMPLE if "from lenet " in text else cell).strip()


def headed(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Return the notebook with its first two cells up to date."""
    text = "\n".join(cell.source for cell in notebook.cells)
    first, second = notebook.cells[:2]
    heading = first.source.split("\n\n[![Open in Colab]")[0]
    first.source = f"{heading}\n\n{badge(name)}".rstrip()
    if second.source.startswith("try:\n    import convlab"):
        notebook.cells.remove(second)
    cell = nbformat.v4.new_code_cell(installation(text), id="install")
    notebook.cells.insert(1, cell)
    return notebook


def lightened(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook without heavy pages that have a picture, and without metadata that changes between runs."""
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if len(data.get("text/html", "")) > HEAVY and "image/png" in data:
                del data["text/html"]
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def execute(path: pathlib.Path, seconds: int = 600, extra: Sequence[str] = ()) -> nbformat.NotebookNode:
    """Execute the notebook with extra cells at its end; raise `nbclient.exceptions.CellExecutionError` if a cell
    fails."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in extra]
    client = NotebookClient(
        notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    )
    before = os.environ.get("PYTHONPATH")
    here = os.pathsep.join(filter(None, (str(FOLDER.parent), before)))  # this convlab, installed or not
    return client.execute(env=os.environ | {"PYTHONPATH": here})


HEADS = "--heads"


def main(arguments: list[str]) -> None:
    """Refresh the named notebooks, or all; with `--heads` only their first two cells."""
    names = [name for name in arguments if name != HEADS]
    for path in [p for p in NOTEBOOKS if not names or p.name in names]:
        notebook = headed(nbformat.read(path, as_version=4), path.name)
        nbformat.write(notebook, path)
        if HEADS in arguments:
            continue
        nbformat.write(lightened(execute(path)), path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
