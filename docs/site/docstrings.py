"""An extension of griffe, which reads the docstrings, so that the site shows what a reader needs."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n(?=\S| ).*)*", re.MULTILINE)


class ForReaders(griffe.Extension):
    """Examples are code, and a constant that says nothing of itself is described by its class.

    Each example has a fence around it, from its first prompt to a blank line.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)

    def on_module_members(self, *, mod: griffe.Module, **_: Any) -> None:
        for constant in mod.attributes.values():
            if constant.docstring is None and isinstance(constant.value, griffe.ExprCall):
                made_by = mod.classes.get(str(constant.value.function))
                if made_by is not None and made_by.docstring is not None:
                    constant.docstring = griffe.Docstring(made_by.docstring.value, parent=constant)
