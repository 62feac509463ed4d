"""Which third-party programs there are: read from their files, which are not imported here."""

import ast
import importlib.util
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"


def all_programs():
    """As "file:name"."""
    for file in sorted(PROGRAMS.glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield f"{file.stem}:{node.name}"


def missing_libraries(file):
    """The libraries that a file imports and that are not installed."""
    libraries = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            libraries |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            libraries.add(node.module.partition(".")[0])
    return sorted(name for name in libraries if importlib.util.find_spec(name) is None)
