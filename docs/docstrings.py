"""How mkdocstrings reads convlab's docstrings: their "Example:" is an examples section, and shapes say more than annotations."""

from __future__ import annotations

from typing import Any

import griffe


class Docstrings(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
            obj.docstring.value = obj.docstring.value.replace("\n    Example:\n", "\n    Examples:\n")

    def on_function_instance(self, *, func: griffe.Function, **kwargs: Any) -> None:
        for parameter in func.parameters:
            parameter.annotation = None
