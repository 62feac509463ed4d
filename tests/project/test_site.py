"""The site: each page is in its table, each public name has an entry, with what one needs to use it."""

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

import callbax

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGE = Path(callbax.__file__).parent
MODULES = {
    "callbax": "__init__.py",
    "callbax.debug": "debug.py",
    "callbax.host_callback": "host_callback.py",
    "callbax.tools": "tools/__init__.py",
}
JAXS_OWN = {
    f"callbax.debug.{name}"
    for name in (
        "DebugEffect",
        "OrderedDebugEffect",
        "inspect_array_sharding",
        "visualize_array_sharding",
        "visualize_sharding",
    )
}


def names_of(module, file):
    """The names that a file re-exports (`import x as x`), lists in __all__, or defines itself."""
    found = set(getattr(module, "__all__", ()))
    for node in ast.parse((PACKAGE / file).read_text()).body:
        if isinstance(node, ast.If):  # what is imported when it is asked for
            node = ast.Module(node.body)
        for inner in ast.walk(node):
            if isinstance(inner, ast.ImportFrom):
                found |= {alias.name for alias in inner.names if alias.asname == alias.name}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
    return {name for name in found if not name.startswith("_")}


def public():
    found = {}
    for path, file in MODULES.items():
        module = importlib.import_module(path)
        found |= {f"{path}.{name}": getattr(module, name) for name in names_of(module, file)}
    return {path: thing for path, thing in found.items() if not inspect.ismodule(thing)}


PUBLIC = public()


def documentation(path):
    return inspect.getdoc(PUBLIC[path]) or ""


def has_example(path):
    return ">>> " in documentation(path)


def test_each_public_name_has_one_entry_and_each_entry_is_a_public_name():
    pages = [page.read_text() for page in (DOCS / "api").glob("*.md")]
    entries = re.findall(r"(?m)^::: (\S+)$", "\n".join(pages))
    entries = [
        re.sub(r"\.(\w+)\.\1$", r".\1", entry) for entry in entries
    ]  # not the module of that name
    assert len(entries) == len(set(entries))
    assert set(entries) == set(PUBLIC) - JAXS_OWN
    named = (DOCS / "api" / "debug.md").read_text()
    assert all(f"`{path.rpartition('.')[2]}`" in named for path in JAXS_OWN)


@pytest.mark.parametrize("path", MODULES)
def test_completion_offers_the_public_names_and_no_others(path):
    module = importlib.import_module(path)
    assert {*dir(module)} == names_of(module, MODULES[path])
    assert all(hasattr(module, name) for name in dir(module))


def test_each_function_and_each_class_has_an_example():
    with_calls = {path for path in set(PUBLIC) - JAXS_OWN if callable(PUBLIC[path])}
    assert {path for path in with_calls if not has_example(path)} == set()


def test_each_argument_of_a_function_is_described_and_so_is_the_result():
    lacking = []
    for path, function in PUBLIC.items():
        if path in JAXS_OWN or not inspect.isfunction(function):
            continue
        text = documentation(path)
        described = text.partition("Args:")[2].partition("\n\n")[0]
        returns = inspect.signature(function).return_annotation
        if returns not in ("None", None, "Iterator[None]") and "Returns:" not in text:
            lacking.append(f"{path} ->")
        for argument in inspect.signature(function).parameters:
            if not re.search(rf"\b{argument}\b", described):
                lacking.append(f"{path}({argument})")
    assert not lacking


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("section", "entry"), [("Raises", r"[\w.]+(, [\w.]+)*: "), ("Attributes", r"\w+: ")]
)
def test_errors_are_named_by_their_classes_and_attributes_have_lines_of_their_own(section, entry):
    for path in set(PUBLIC) - JAXS_OWN:
        _, _, text = documentation(path).partition(f"{section}:\n")
        indent = text[: len(text) - len(text.lstrip())]
        for line in re.findall(rf"(?m)^{indent}(\S.*)", text.partition("\n\n")[0]):
            assert re.match(entry, line), (path, line)


def test_each_page_is_in_the_table_of_the_site():
    table = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\n\n")[0]
    for page in [*DOCS.glob("*.md"), *DOCS.glob("api/*.md")]:
        assert re.search(rf"\s{re.escape(page.relative_to(DOCS).as_posix())}\n", table), page


def test_the_page_on_installing_has_the_extras_and_what_each_brings():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    table = (DOCS / "installation.md").read_text().partition("| extra |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1:3] for row in table.splitlines()[2:]]
    assert sorted(re.findall(r"`([\w-]+)`", "".join(names for names, _ in rows))) == sorted(extras)
    for names, brings in rows:
        if "what" not in brings:
            named = brings.lower().replace("pytorch", "torch").replace(",", " ").split()
            assert sorted(named) == sorted(extras[names.strip(" `")])


def test_a_name_that_is_a_modules_too_has_the_entry_of_the_function():
    for path in PUBLIC:
        file = PACKAGE.joinpath(*path.split(".")[1:]).with_suffix(".py")
        entry = f"{path}.{path.rpartition('.')[2]}" if file.exists() else path
        pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
        assert path in JAXS_OWN or f"::: {entry}\n" in pages, entry


def test_the_rules_that_an_external_function_takes_have_entries_and_examples():
    rules = {name for name in dir(callbax.External) if name.startswith("def")} | {"call_where"}
    shown = (DOCS / "api" / "external.md").read_text()
    for name in rules:
        assert re.search(rf"\b{name}\b", shown), name
        assert ">>> " in inspect.getdoc(getattr(callbax.External, name)), name
