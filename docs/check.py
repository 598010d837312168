"""Finds faults of the built site: docstrings that are not shown whole, dead links, raw markup, files from a network,
addresses of another project."""

from __future__ import annotations

import functools
import html.parser
import pathlib
import re
import sys
import urllib.parse
from collections.abc import Iterator

import apidoc

# The name `convlab` on PyPI and its address on GitHub are another project's.
STRANGE = re.compile(
    r"github\.com[/:]convlab\b|github/convlab/convlab|pypi\.org/project/convlab\b(?!-jax)|convlab\.(?:readthedocs|github)\.io"
    r"|pip install (?:-\S+ )*[\"']?convlab\b(?!_jax|-jax)|[\"'\s]convlab\[|convlab @ ",
    re.IGNORECASE,
)
RAW = re.compile(r"\$[^$\n]{1,60}\$|\\\||:::|<!--|\]\([^)\s]+\)|\{(?:py|raw|ref)[:}]")
LOADED = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(html.parser.HTMLParser):
    """The checked parts of a page: anchors, links, loaded files, its text without code, and the text of each entry."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.entries: dict[str, list[str]] = {}
        self._open: list[tuple[str, str | None, bool]] = []  # tag, entry whose text it holds, whether its text is code
        self._signatures: list[str | None] = []  # for each open dt the entry to which the signature belongs
        self._entry: str | None = None  # the entry whose signature was read last, and whose text follows
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if given.get("id"):
            self.ids.add(given["id"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get(LOADED.get(tag, "")):
            self.loads.append(given[LOADED[tag]])
        begun = None
        if tag == "dt":
            name = given.get("id") or ""
            self._signatures.append(name if name.startswith("convlab.") else None)
        if tag == "dd" and self._entry:
            begun, self._entry = self._entry, None
            self.entries[begun] = []
        if tag not in VOID:
            code = (
                tag in ("pre", "code", "script", "style", "math", "title")
                or "output" in (given.get("class") or "").split()
            )
            self._open.append((tag, begun, code))

    def handle_endtag(self, tag):
        if tag == "dt" and self._signatures:
            self._entry = self._signatures.pop() or self._entry
        while self._open and tag in [opened for opened, *_ in self._open] and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if any(tag in ("script", "style") for tag, *_ in self._open):
            return
        for _, entry, _ in self._open:
            if entry:
                self.entries[entry].append(data)
        if not any(code for *_, code in self._open):
            self.text.append(data)


@functools.cache
def _page(path: pathlib.Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def faults(site: pathlib.Path) -> list[str]:
    """Return a line for each fault of the site, sorted by page."""
    found = []
    for path in sorted(site.rglob("*.html")):
        if "_static" not in path.parts:
            found += [f"{path.relative_to(site)}: {fault}" for fault in _faults(path)]
    return found


def _faults(path: pathlib.Path) -> Iterator[str]:
    page = _page(path)
    yield from (f"dead link {link}" for link in page.links + page.loads if not _there(path, link))
    yield from (f"needs a network for {load}" for load in page.loads if load.startswith(("http:", "https:", "//")))
    text = "".join(page.text)
    yield from (f"raw markup {found[0]!r}" for found in RAW.finditer(text))
    yield from (f"names what the project does not hold: {found[0]!r}" for found in STRANGE.finditer(path.read_text()))
    for name, shown in page.entries.items():
        yield from (f"{name} lacks of its docstring: {line!r}" for line in missing(name, "".join(shown)))


def _there(path: pathlib.Path, link: str) -> bool:
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = path if not parts.path else path.parent / urllib.parse.unquote(parts.path)
    if not target.exists():
        return False
    if not parts.fragment or target.suffix != ".html" or target.name in ("search.html", "genindex.html"):
        return True
    return urllib.parse.unquote(parts.fragment) in _page(target).ids


def missing(name: str, shown: str) -> list[str]:
    """Return the lines of an object's docstring that its entry does not show."""
    letters = _letters(shown)
    lines = []
    for title, text in apidoc.sections(apidoc.found(name).__doc__ or ""):
        pieces = (
            text.splitlines()
            if title == "Example"
            else [text]
            if title is None
            else [f"{n} {t}" for n, t in apidoc.items(text)]
        )
        for piece in pieces:
            lines += [line for line in piece.splitlines() if _letters(_link_text(line)) not in letters]
    return lines


def _link_text(text: str) -> str:
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text.partition("  # doctest: ")[0])


def _letters(text: str) -> str:
    return "".join(re.findall(r"[^\W_]", re.sub(r"\s", "", text)))


if __name__ == "__main__":
    print("\n".join(faults(pathlib.Path(sys.argv[1]))))
