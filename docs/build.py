"""Builds the site: `python docs/build.py site`. It needs the extra `docs` and no network, and prints the file to
open."""

from __future__ import annotations

import pathlib
import shutil
import sys
import tempfile

import check
import pages


def main(out: pathlib.Path) -> int:
    from sphinx.cmd.build import build_main

    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "source"
        pages.write(source)
        options = ["--quiet", "--fail-on-warning", "--keep-going", "--builder", "html"]
        where = ["--conf-dir", str(pages.DOCS), "--doctree-dir", str(pathlib.Path(folder) / "trees")]
        if failed := build_main([*options, *where, str(source), str(out)]):
            return failed
    faults = check.faults(out)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        return 1
    print(f"Open {out.resolve() / 'index.html'} in a browser.")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name the folder to write: python docs/build.py site")
    sys.exit(main(pathlib.Path(sys.argv[1])))
