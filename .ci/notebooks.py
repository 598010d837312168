"""Runs the notebooks as a new user would: in an empty environment, with the wheel beside them and outside of a clone.

`python .ci/notebooks.py dist/convlab_jax-*.whl [NAME...]`. Their first cells install the wheel; the kernel and nbclient
are installed before.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).parent.parent
RUN = """
import pathlib, sys, time
import nbformat
from nbclient import NotebookClient
for path in map(pathlib.Path, sys.argv[1:]):
    began = time.time()
    NotebookClient(nbformat.read(path, as_version=4), timeout=900, kernel_name="python3").execute()
    print(f"{path.name} ran in {time.time() - began:.0f} s", flush=True)
"""


def main(wheel: pathlib.Path, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        venv.create(home / "env", with_pip=True)
        python = str(home / "env" / ("Scripts" if os.name == "nt" else "bin") / "python")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"CONVLAB_DATA": "digits", "JUPYTER_PATH": str(home / "env/share/jupyter")}
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "ipykernel", "nbclient", "nbformat"],
            check=True,
            env=environment,
        )
        lessons = home / "lessons"
        shutil.copytree(ROOT / "notebooks", lessons, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        shutil.copytree(ROOT / "examples/mnist", lessons / "examples/mnist")  # the fifth imports the LeNet program
        shutil.copy(wheel, lessons)
        present = sorted(path.name for path in lessons.glob("*.ipynb"))
        if unknown := set(names) - set(present):
            sys.exit(f"No notebook is called {', '.join(sorted(unknown))}: there are {', '.join(present)}.")
        chosen = names or present
        subprocess.run([python, "-c", RUN, *chosen], check=True, cwd=lessons, env=environment)


if __name__ == "__main__":
    wheels = [pathlib.Path(a) for a in sys.argv[1:] if a.endswith(".whl")]
    if len(wheels) != 1:
        sys.exit("Name one wheel: python .ci/notebooks.py dist/convlab_jax-*.whl [NAME...]")
    main(wheels[0], [a for a in sys.argv[1:] if not a.endswith(".whl")])
