"""Converts the notebooks to pages, with the text, code, outputs, pictures and animations of the files."""

from __future__ import annotations

import base64
import json
import pathlib
import re

EXTENSIONS = {"image/png": "png", "image/gif": "gif", "image/jpeg": "jpg", "image/svg+xml": "svg"}
ANSI = re.compile(r"\x1b\[[\d;]*m")


def page(path: pathlib.Path, pictures: pathlib.Path) -> str:
    """Convert the notebook to Markdown, and write its pictures into the folder `pictures` beside the page."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for number, cell in enumerate(cells):
        source = _joined(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\n*\[!\[Open in Colab\].*", "", source))
        elif cell["cell_type"] == "code":
            folded = cell.get("id") == "install"
            parts.append(_code(source, "Set up" if folded else None))
            outputs = _merged(cell["outputs"])
            parts += [_output(output, pictures, f"{path.stem}-{number}-{n}") for n, output in enumerate(outputs)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _joined(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def _merged(outputs: list[dict]) -> list[dict]:
    """Merge the pieces of printed output into one."""
    merged: list[dict] = []
    for output in outputs:
        if merged and output["output_type"] == merged[-1]["output_type"] == "stream":
            merged[-1] = merged[-1] | {"text": _joined(merged[-1]["text"]) + _joined(output["text"])}
        else:
            merged.append(output)
    return merged


def _code(source: str, folded: str | None) -> str:
    block = f"````python\n{source}\n````"
    return f"<details><summary>{folded}</summary>\n\n{block}\n\n</details>" if folded else block


def _output(output: dict, pictures: pathlib.Path, name: str) -> str:
    if output["output_type"] == "stream":
        return _text(_joined(output["text"]))
    if output["output_type"] == "error":
        return _text("\n".join(output["traceback"]))
    data = {kind: _joined(value) for kind, value in output.get("data", {}).items() if kind != "application/json"}
    if "text/html" in data:
        return f'``````{{raw}} html\n<div class="output">{data["text/html"]}</div>\n``````'
    for kind, extension in EXTENSIONS.items():
        if kind in data:
            pictures.mkdir(parents=True, exist_ok=True)
            content = data[kind].encode() if extension == "svg" else base64.b64decode(data[kind])
            (pictures / f"{name}.{extension}").write_bytes(content)
            return f"![{_plain(data.get('text/plain', 'The picture that the cell draws'))}](/lessons/{pictures.name}/{name}.{extension})"
    if "text/markdown" in data:
        return data["text/markdown"]
    return _text(data.get("text/plain", ""))


def _text(text: str) -> str:
    text = ANSI.sub("", text).rstrip()
    return f"`````text\n{text}\n`````" if text else ""


def _plain(text: str) -> str:
    """Return an alternative text for an image, because the reprs of figures have no description."""
    return "The picture that the cell draws" if "<" in text else re.sub(r"[\[\]\n]", " ", text)[:120]


def first_cell(path: pathlib.Path) -> str:
    """Return the text of the first cell: a heading and a summary."""
    text = _joined(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    return re.sub(r"\n*\[!\[Open in Colab\].*", "", text)
