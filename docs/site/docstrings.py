"""An extension of griffe, which reads the docstrings: their examples are shown as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n(?=\S| ).*)*", re.MULTILINE)


class ExamplesAsCode(griffe.Extension):
    """Puts a fence around each example of a docstring, from its first prompt to a blank line."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
