"""A hook of mkdocs: the site also shows files of the repository that are not under docs/.

README.md becomes the front page. Links stay as they are written, for readers of the repository, and
lead to the same thing here: to a page, or to a copy of the file.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {  # where each page of the repository is on the site, below docs/
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CODE_OF_CONDUCT.md": "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "benchmarks/README.md": "benchmarks/README.md",
    "examples/README.md": "examples/README.md",
}
SHOWN_AS = {  # what is not a page: the page that shows what is in a folder; a file that browsers show
    "examples/recipes": "recipes.md",
    "LICENSE": "LICENSE.txt",
}
ORIGINS = {there: here for here, there in PAGES.items()}
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?\)")
CODE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for here, there in PAGES.items():
        files.append(File.generated(config, there, abs_src_path=str(ROOT / here)))
    for file in list(files.documentation_pages()):
        for linked in _linked(file):
            if (ROOT / linked).is_file() and files.get_file_from_path(_place(linked)) is None:
                copy = File.generated(config, _place(linked), abs_src_path=str(ROOT / linked))
                files.append(copy)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    origin, here = _origin(page.file), page.file.src_uri

    def link(found: re.Match[str]) -> str:
        target = _target(origin, found[2])
        if target is None:
            return found[0]
        path = posixpath.relpath(_place(target), posixpath.dirname(here) or ".")
        return f"{found[1]}{path}{found[3] or ''})"

    return _outside_code(markdown, lambda text: LINK.sub(link, text))


def _outside_code(markdown: str, change) -> str:
    parts = CODE.split(markdown)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def _origin(file: File) -> str:
    """The path in the repository of what a page is made from."""
    return ORIGINS.get(file.src_uri) or f"docs/{file.src_uri}"


def _target(origin: str, link: str) -> str | None:
    """The path in the repository that a link leads to, if it leads into it."""
    if "://" in link or link.startswith("mailto:"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    return path if (ROOT / path).is_file() or path in SHOWN_AS else None


def _place(path: str) -> str:
    """Where a file of the repository is on the site, below docs/."""
    return PAGES.get(path) or SHOWN_AS.get(path) or path.removeprefix("docs/")


def _linked(file: File) -> set[str]:
    origin = _origin(file)
    text = CODE.sub("", (ROOT / origin).read_text(encoding="utf-8"))
    targets = (_target(origin, found[2]) for found in LINK.finditer(text))
    return {target for target in targets if target is not None}
