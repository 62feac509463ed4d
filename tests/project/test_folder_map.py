"""The folder map of docs/design.md names the files that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "callbax"
WHOLE = ("_check", "_tour", "scipy", "include")  # rooms that the map names as a whole


def section(title: str) -> list[str]:
    """The lines of the folder map under the folder of this name, which is not indented further."""
    page = (ROOT / "docs" / "design.md").read_text()
    text = page.partition("## Folder map")[2].partition("\n## ")[0]
    return re.search(rf"(?ms)^    {re.escape(title)}\n(.*?)(?=^    \S)", text)[1].splitlines()


def test_the_map_names_each_python_file():
    named, folder = set(), ""
    for line in section("src/callbax/"):
        indent = len(line) - len(line.lstrip())
        if indent == 6:
            room = re.match(r" +(\w+)/", line)
            folder = f"{room[1]}/" if room else ""
        named |= {folder + name for name in re.findall(r"\b\w+\.py\b", line) if indent <= 8}
    files = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py")}
    files = {name for name in files if not name.startswith(WHOLE)}
    rooms = {name for name in files if name.endswith("/__init__.py")}
    assert named - files == set()
    assert files - rooms - named == set()


def test_the_map_names_each_native_file():
    lines = section("native/")
    named = set(re.findall(r"\b[a-z_]+\b", " ".join(line[6:24] + line[24:] for line in lines)))
    stems = {file.stem for file in (ROOT / "native").rglob("*")}
    assert stems - named == set()
