"""Runs README.md as a new user would: each Python block separately, in an empty environment with the packages that the
lines above it install.

`python .ci/readme.py dist/convlab_jax-*.whl [--all]`. Without `--all` the training is compiled and not run.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import venv

README = pathlib.Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WHEEL = re.compile(r"pip install '(convlab_jax-[^\[]+\.whl)(\[[\w,]+\])'")


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the language and the source of each fenced block, in order."""
    return [(found[1], found[2]) for found in BLOCK.finditer(text)]


def main(wheel: pathlib.Path, train: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(pathlib.Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ran = 0
        for language, source in blocks(README.read_text(encoding="utf-8")):
            if installation := WHEEL.search(source):
                if installation[1] != wheel.name:
                    raise SystemExit(f"README.md installs {installation[1]}, the wheel is {wheel.name}.")
                what = str(wheel.resolve()) + installation[2]
                subprocess.run([python, "-m", "pip", "install", "--quiet", what], check=True, env=environment)
            elif language == "python":
                run = source if train else source.replace('__name__ == "__main__"', "False")
                subprocess.run([python, "-c", run], check=True, cwd=folder, env=environment)
                ran += 1
        print(f"{ran} Python blocks of README.md ran from {wheel.name}.")


if __name__ == "__main__":
    paths = [pathlib.Path(a) for a in sys.argv[1:] if a.endswith(".whl")]
    if len(paths) != 1:
        sys.exit("Name one wheel: python .ci/readme.py dist/convlab_jax-*.whl [--all]")
    main(paths[0], train="--all" in sys.argv)
