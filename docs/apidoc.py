"""Makes the entries of the reference, signatures and docstrings of imported objects, as MyST Markdown.

The objects are imported and not parsed, so that an entry shows the object that a user calls. The docstrings are
Markdown in sections (Args, Returns, Raises, Attributes, Example). check.py finds docstrings that the built pages do not
show whole.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterable
from typing import Any

TITLES = {
    "Args": "Arguments",
    "Returns": "Returns",
    "Raises": "Raises",
    "Attributes": "Attributes",
    "Example": "Example",
}
SECTION = re.compile(rf"^({'|'.join(TITLES)}):$")
ITEM = re.compile(r"^((?:\*{0,2}\w+)(?:, \*{0,2}\w+)*(?: and the other options)?): +(.*)$")
AS_LAYER = re.compile(r"^`convlab\.(\w+)` as a layer\b")
# Linen documents the members that it adds to every module.
LINENS = ("parent", "name")


def found(path: str) -> Any:
    """Return the object of a dotted path."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            value = getattr(value, name)
        return value
    raise LookupError(path)


# --- docstrings -----------------------------------------------------------------------------------------------------


def sections(docstring: str) -> list[tuple[str | None, str]]:
    """Return the title and the text of each section in order; prose has the title None."""
    parts: list[tuple[str | None, list[str]]] = [(None, [])]
    for line in inspect.cleandoc(docstring).splitlines():
        if title := SECTION.match(line):
            parts.append((title[1], []))
        elif parts[-1][0] is not None and line and not line.startswith(" "):
            parts.append((None, [line]))
        else:
            parts[-1][1].append(line)
    texts = [(title, textwrap.dedent("\n".join(lines)).strip("\n")) for title, lines in parts]
    return [(title, text) for title, text in texts if text]


def items(text: str) -> list[tuple[str, str]]:
    """Return the name and the description of each entry of a section, with continuation lines joined; other lines have
    the name ""."""
    entries: list[tuple[str, str]] = []
    for line in text.splitlines():
        match = None if line.startswith(" ") else ITEM.match(line)
        if match:
            entries.append((match[1], match[2]))
        elif entries:
            entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line.strip()}".strip())
        else:
            entries.append(("", line.strip()))
    return entries


def _rendered(title: str | None, text: str) -> str:
    if title is None:
        return text
    if title == "Example":
        body = f"```pycon\n{text}\n```"
    elif title == "Returns":
        body = text
    else:
        body = "\n".join(f"- {_names(name)}: {text}" if name else text for name, text in items(text))
    return f"**{TITLES[title]}**\n\n{body}"


def _names(names: str) -> str:
    listed, more, _ = names.partition(" and the other options")
    return ", ".join(f"`{name}`" for name in listed.split(", ")) + more


# --- signatures -----------------------------------------------------------------------------------------------------


def signature(value: Any) -> str:
    """Return the signature as in source code, without self, annotations Any and the addresses of default functions."""
    target = value.__init__ if inspect.isclass(value) else value
    shown = []
    star = False
    for parameter in inspect.signature(target).parameters.values():
        if parameter.name == "self" or (inspect.isclass(value) and _is_linens(value, parameter.name)):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        shown.append(_parameter(parameter))
    returns = "" if inspect.isclass(value) else _annotation(inspect.signature(target).return_annotation)
    return f"({', '.join(shown)})" + (f" -> {returns}" if returns else "")


def _is_linens(value: type, name: str) -> bool:
    return value.__module__.startswith("convlab.linen") and name in LINENS


def _parameter(parameter: inspect.Parameter) -> str:
    prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    kind = _annotation(parameter.annotation)
    text = f"{prefix}{parameter.name}" + (f": {kind}" if kind else "")
    if parameter.default is parameter.empty:
        return text
    return f"{text} = {default(parameter.default)}" if kind else f"{text}={default(parameter.default)}"


def default(value: Any) -> str:
    """Return a default as in source code, or `...` if its repr has an address."""
    if value == {} or isinstance(value, type(None) | bool | int | float | str | tuple):
        return repr(value)
    text = getattr(value, "__name__", None) or repr(value)
    return text if re.fullmatch(r"[A-Za-z_][\w.]*", text) and text not in ("init", "<lambda>") else "..."


def _annotation(annotation: Any) -> str:
    if annotation in (inspect.Parameter.empty, Any):
        return ""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    text = re.sub(r"\b(?:InitVar|ClassVar)\[(.*)\]$", r"\1", text.strip("'"))
    return "" if text in ("Any", "None") else re.sub(r"\b(?:jax|typing|collections\.abc)\.", "", text)


# --- entries --------------------------------------------------------------------------------------------------------


def entry(path: str, extra: str = "") -> str:
    """Return the entry of one object; `extra` is Markdown that follows the first paragraph: a formula, a picture."""
    value = found(path)
    parts = sections(value.__doc__ or "")
    (_, first), rest = parts[0], parts[1:]
    summary, _, more = first.partition("\n\n")
    body = [summary, extra, more, *(_rendered(title, text) for title, text in rest)]
    kind = "class" if inspect.isclass(value) and value.__name__[0].isupper() else "function"
    if kind == "class":
        body += [*_called(value), *_as_function(value), *_others(path, value), *_members(value)]
    fence = "`````"
    return f"{fence}{{py:{kind}}} {path}{signature(value)}\n\n" + "\n\n".join(filter(None, body)) + f"\n{fence}\n"


def _as_function(layer: type) -> Iterable[str]:
    """Return the arguments of a layer without parameters, documented by its function."""
    of = AS_LAYER.match(layer.__doc__ or "")
    if not of:
        return
    named = set(inspect.signature(layer.__init__).parameters)
    docstring = dict(sections(found(f"convlab.{of[1]}").__doc__)).get("Args", "")
    rows = [(name, text) for name, text in items(docstring) if set(re.findall(r"\w+", name)) & named]
    if rows:
        yield "**Arguments**\n\n" + "\n".join(f"- {_names(name)}: {text}" for name, text in rows)
    yield f"Shapes, errors, an example and the source: [`convlab.{of[1]}`](#convlab.{of[1]})."


def _others(path: str, layer: type) -> Iterable[str]:
    """Return a reference to the layer that documents the options which the docstring omits."""
    system, _, name = path.rpartition(".")
    for other in ("Conv", "ConvTranspose"):
        docstring = layer.__doc__ or ""
        if other != name and (
            f"as in `{other}`" in docstring or f"as in `convlab.nnx.{name}`" in docstring and other == "Conv"
        ):
            yield f"The other options: [`{system}.{other}`](#{system}.{other})."


def _called(layer: type) -> Iterable[str]:
    """Describe how the layer is called."""
    if "__call__" in dir(layer) and layer.__module__.startswith(("convlab.nnx", "convlab.linen", "convlab._layers")):
        shown = signature(layer.__call__).replace("(", "layer(", 1)
        yield f"**Call**\n\n```python\n{shown}\n```"


def _members(value: type) -> Iterable[str]:
    """Return the documented methods and properties that the class defines itself."""
    for name, member in vars(value).items():
        held = member.fget if isinstance(member, property) else member
        if name.startswith("_") or not inspect.isfunction(held) or not held.__doc__:
            continue
        if not held.__module__.startswith("convlab"):  # a default of a field
            continue
        kind = "attribute" if isinstance(member, property) else "method"
        shown = "" if kind == "attribute" else signature(held)
        parts = "\n\n".join(_rendered(title, text) for title, text in sections(held.__doc__))
        yield f"````{{py:{kind}}} {name}{shown}\n\n{parts}\n````"
