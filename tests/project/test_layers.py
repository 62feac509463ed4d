"""The rules of the code's structure, kept by reading the source."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import callbax

PACKAGE = Path(callbax.__file__).parent
pytestmark = pytest.mark.sampled(1)  # each case is another file
FILES = sorted(PACKAGE.rglob("*.py"))

# Lowest first. A module imports from its own layer and those below it.
LAYERS = [
    {"callbax._versions", "callbax._native", "callbax._typing", "callbax._jax"},
    {"callbax._runtime"},
    {"callbax._host"},
    {"callbax._start"},
    {"callbax._callbacks"},
    {"callbax.debug"},
    {"callbax._install"},
    {"callbax._host_callback", "callbax.host_callback"},
    {"callbax._external"},
    {"callbax._check"},
    {"callbax._compiled"},
    {"callbax.scipy"},
    {"callbax"},
    {"callbax.tools"},
    {"callbax._tour", "callbax.__main__"},
]


def module_name(file: Path) -> str:
    parts = ("callbax", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int:
    while module:
        for level, names in enumerate(LAYERS):
            if module in names:
                return level
        module = module.rpartition(".")[0]
    raise AssertionError(f"{module} belongs to no layer")


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


NATIVE_MODULES = ("callbax._native", "callbax.tools._log_queue")
MODULES = {*map(module_name, FILES), *NATIVE_MODULES}


def modules_imported(file: Path) -> set[str]:
    """The modules of callbax that a file imports, anywhere in it: for types only, in functions."""
    names = {name for name in imports(file) if name.split(".")[0] == "callbax"}
    if file == PACKAGE / "__init__.py":
        names -= {"callbax.tools"}  # only checkers import it there, for which it is an attribute
    return {name if name in MODULES else name.rpartition(".")[0] for name in names}


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_layers_import_one_way(file):
    own = layer_of(module_name(file))
    for module in modules_imported(file):
        assert layer_of(module) <= own, f"{module_name(file)} imports {module}, a layer above it"


def test_tools_use_public_names_only():
    for file in (PACKAGE / "tools").glob("*.py"):
        for name in imports(file):
            if name.startswith("callbax") and not name.startswith("callbax.tools"):
                assert not any(part.startswith("_") for part in name.split(".")), (file, name)


def test_no_files_import_each_other():
    graph = {module_name(file): modules_imported(file) - {module_name(file)} for file in FILES}
    graphlib.TopologicalSorter(graph).prepare()  # a CycleError names the circle


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_private_modules_of_jax_are_imported_by_the_gateway_alone(file):
    private = {name for name in imports(file) if name.startswith(("jax._src", "jaxlib"))}
    assert not private or file.parent == PACKAGE / "_jax"


# Tools that compare callbax with JAX take the peers' functions from JAX by name. The tour shows that
# JAX's own run on callbax's runtime.
@pytest.mark.parametrize("file", [f for f in FILES if f.name != "installed.py"], ids=module_name)
def test_jaxs_own_callbacks_are_used_nowhere_in_the_package(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Attribute):
            continue
        source = ast.unparse(node)
        assert source not in {
            "jax.pure_callback",
            "jax.experimental.io_callback",
            "jax.debug.callback",
            "jax.debug.print",
        }
        # The gateway goes through JAX's lowering where there is no native runtime, and replaces it.
        assert "emit_python_callback" not in source or file.name in (
            "python_callbacks.py",
            "jax_callbacks.py",
        )
        assert not source.startswith(("_callback.pure", "_callback.io", "debugging.debug_callback"))
    assert "jax.experimental.io_callback" not in imports(file)


def printed_by(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_optional_dependencies_are_not_imported():
    program = (
        "import sys, callbax\n"
        "optional = {'rich', 'scipy', 'sklearn', 'tvm_ffi', 'jax_tvm_ffi', 'torch', 'cupy', 'pytest'}\n"
        # JAX itself imports scipy.
        "import jax\n"
        "print(sorted((optional - {'scipy'}) & set(sys.modules)))\n"
        "print([n for n in sys.modules if n.startswith('callbax._tour')])"
    )
    assert printed_by(program).split("\n")[:2] == ["[]", "[]"]


@pytest.mark.parametrize("module", NATIVE_MODULES)
def test_the_stub_of_a_native_module_is_up_to_date(tmp_path, module):
    stub = tmp_path / "stub.pyi"
    subprocess.run(
        [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", module, "-o", str(stub)],
        check=True,
        capture_output=True,
    )
    beside = (PACKAGE.parent / module.replace(".", "/")).with_suffix(".pyi")
    generated, kept = (ast.dump(ast.parse(file.read_text())) for file in (stub, beside))
    assert generated == kept


def test_files_are_small_enough_to_read():
    for file in FILES:
        assert len(file.read_text().splitlines()) <= 300, file


def test_external_has_few_files():
    assert len(list((PACKAGE / "_external").glob("*.py"))) <= 21


def test_what_is_imported_on_demand_is_what_type_checkers_see():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block, _ = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {(node.module, alias.name) for node in block.body for alias in node.names}
    lazy = {(module, name) for name, module in callbax._MODULE_OF.items()}
    assert seen == lazy
    for _, name in seen:
        assert getattr(callbax, name) is not None and name in dir(callbax)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        callbax.nothing  # noqa: B018


def test_what_few_programs_need_is_imported_on_demand():
    program = (
        "import sys, callbax\n"
        "print(sorted({m.split('.')[1] for m in sys.modules if m.startswith('callbax.')}))\n"
        "from callbax import external, ufunc, host_callback, check, install"
    )
    imported = set(ast.literal_eval(printed_by(program)))
    assert not imported & {
        "_external",
        "_compiled",
        "_check",
        "_install",
        "_host_callback",
        "_tour",
        "tools",
    }
