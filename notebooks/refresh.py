"""Brings the notebooks up to date: first cells, outputs, sizes. `python notebooks/refresh.py [NAME...]`

Each notebook begins with a heading and its badge, and a cell that installs what is missing; both are written by this program, so that the
address stands in one place. Then it is executed, and what is too heavy for a repository (the frames of animations; a still stays)
is left out of its outputs.
"""

from __future__ import annotations

import os
import pathlib
import sys

import nbformat
from nbclient import NotebookClient

# --- the one setting: where the repository is on GitHub -----------------------------------------------------------
REPOSITORY = "convlab/convlab"
BRANCH = "main"
# ------------------------------------------------------------------------------------------------------------------

FOLDER = pathlib.Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("[0-9]-*.ipynb"))
COLAB = "https://colab.research.google.com"
HEAVY = 10_000  # characters of one output
EXAMPLE = """
import pathlib
import sys

if not pathlib.Path("../examples").exists():
    !git clone --quiet --depth 1 --branch {branch} https://github.com/{repository} /tmp/convlab
sys.path[:0] = [str(p) for p in (pathlib.Path("../examples/mnist"), pathlib.Path("/tmp/convlab/examples/mnist")) if p.exists()]
"""


def address(name: str) -> str:
    """Where Colab opens a notebook."""
    return f"{COLAB}/github/{REPOSITORY}/blob/{BRANCH}/notebooks/{name}"


def badge(name: str) -> str:
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({address(name)})"


def installation(text: str) -> str:
    """The cell that installs what is missing; where the notebook imports the LeNet program, it is fetched too."""
    cell = f"""try:
    import convlab.viz
except ImportError:
    %pip install --quiet "convlab[examples] @ git+https://github.com/{REPOSITORY}@{BRANCH}"
"""
    return (cell + EXAMPLE.format(repository=REPOSITORY, branch=BRANCH) if "from lenet " in text else cell).strip()


def headed(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """The notebook with its first two cells as they should be."""
    text = "\n".join(cell.source for cell in notebook.cells)
    first, second = notebook.cells[:2]
    heading = first.source.split("\n\n[![Open in Colab]")[0]
    first.source = f"{heading}\n\n{badge(name)}"
    if second.source.startswith("try:\n    import convlab"):
        notebook.cells.remove(second)
    cell = nbformat.v4.new_code_cell(installation(text), id="install")
    notebook.cells.insert(1, cell)
    return notebook


def lightened(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without heavy pages, where there is a still, and without what changes from run to run."""
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if len(data.get("text/html", "")) > HEAVY and "image/png" in data:
                del data["text/html"]
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def execute(path: pathlib.Path, seconds: int = 600) -> nbformat.NotebookNode:
    """The executed notebook; raises `nbclient.exceptions.CellExecutionError` where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    before = os.environ.get("PYTHONPATH")
    here = os.pathsep.join(filter(None, (str(FOLDER.parent), before)))  # this convlab, installed or not
    return client.execute(env=os.environ | {"PYTHONPATH": here})


def main(names: list[str]) -> None:
    for path in [p for p in NOTEBOOKS if not names or p.name in names]:
        notebook = headed(nbformat.read(path, as_version=4), path.name)
        nbformat.write(notebook, path)
        nbformat.write(lightened(execute(path)), path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
