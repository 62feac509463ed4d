"""A hook of mkdocs: what search engines show of a page, and what the site's own search shows first.

A page is described by its first paragraph.
"""

from __future__ import annotations

import html
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

LONGEST = 160  # characters that are shown
# Not a heading, a list or a table.
PARAGRAPH = re.compile(r"(?:^|\n\n)(?=[\w`\[])(.+?)(?=\n\n|$)", re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> None:
    found = PARAGRAPH.search(markdown.strip())
    if found is not None:
        page.meta.setdefault("description", html.escape(_shortened(_plain(found[1]))))
    if page.file.src_uri.startswith("api/"):
        page.meta.setdefault("search", {"boost": 2})


def _plain(paragraph: str) -> str:
    return " ".join(re.sub(r"[`*]", "", LINK.sub(r"\1", paragraph)).split())


def _shortened(text: str) -> str:
    """Its first sentences, or its first words."""
    if len(text) <= LONGEST:
        return text.rstrip(":")
    sentences, end, _ = text[:LONGEST].rpartition(". ")
    return f"{sentences}." if end else text[: LONGEST - 1].rpartition(" ")[0] + "…"
