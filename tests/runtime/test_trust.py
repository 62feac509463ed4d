"""What a program may name: a file is data."""

import ctypes
import gc
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import scipy.special
from jax import export

import callbax as cb
from callbax import _native
from callbax._host import names, program_names, trust

SCALAR = jax.ShapeDtypeStruct((), np.float32)
ONE_ARGUMENT = {"structure": [["tuple", 0], ["dict"]]}

MODELS = """
import functools, os, subprocess
from os import system
from json import dumps as reexported
import numpy as np
import callbax as cb

def half(x):
    return x / 2

class Model:
    def method(self, x):
        return x
    @staticmethod
    def double(x):
        return 2 * x
    @cb.external(result=cb.like(0))
    def wrapped(x):
        return 3 * x

@cb.external(result=cb.like(0))
def wrapped(x):
    return 3 * x

def plain(x):
    return 4 * x

called = cb.external(plain, result=cb.like(0))
partial = functools.partial(os.system)
ufunc = np.frompyfunc(os.system, 1, 1)
table = {"half": half}

def __getattr__(name):
    if name.startswith("__"):  # those that an import asks for
        raise AttributeError(name)
    raise AssertionError(f"asked for {name}")
"""


@pytest.fixture
def models(monkeypatch, tmp_path):
    """A package with a module, whose own functions programs may name."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("from my_package.models import half\n")
    (tmp_path / "my_package" / "models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(trust, "_allowed", set())
    import my_package.models

    yield my_package.models
    for name in ("my_package", "my_package.models"):
        sys.modules.pop(name, None)


def resolved(kind, path):
    """The function that a loaded program would call, or why it would not."""
    answer = names.resolve(program_names.write({kind: path, **ONE_ARGUMENT}))
    return answer if isinstance(answer, str) else answer.target.function


def is_refused(path):
    for kind in ("function", "debug"):
        why = resolved(kind, path)
        assert isinstance(why, str) and path in why
    why = names.resolve(program_names.write({"loop": path, "types": "d->d"}))
    assert isinstance(why, str) and path in why
    return True


@pytest.mark.parametrize(
    "path",
    [
        "builtins:exec",
        "builtins:eval",
        "os:system",
        "posix:system",
        "subprocess:run",
        "subprocess:Popen",
        "ctypes:CDLL",
        "importlib:import_module",
        "pickle:loads",
        "numpy:load",
        "numpy:os.system",
        "numpy:ufunc",
        "numpy:sin.at",
        "numpy:sin.__class__",
        "numpy.linalg:norm",
        "scipy.special:seterr",
        "callbax:native",
        "callbax._host.trust:allow",
        "callbax._host.trust:_allowed.add",
        "callbax._compiled.native:native",
        "jax:jit",
    ],
)
def test_functions_that_nobody_let_in_are_refused(path):
    assert is_refused(path)


@pytest.mark.parametrize(
    "name", ["half", "plain.__call__", "Model.method", "Model.double", "system", "os.system"]
)
def test_plain_functions_of_imported_modules_are_refused_until_they_are_let_in(models, name):
    path = f"my_package.models:{name}"
    if name == "half":
        assert f'write callbax.allow("{path}") before it runs' in resolved("function", path)
    assert is_refused(path)


@pytest.mark.parametrize(
    "path",
    [
        "my_package.models:half.__globals__.get",
        "my_package.models:wrapped.function.__globals__",
        "my_package.models:Model.__init__.__globals__",
        "my_package.models:Model.__subclasses__",
        "my_package.models:table.half",
        "my_package.models:missing",
        "my_package.models:subprocess.run",
        "my_package:models.half",
        "my_package..models:half",
        "my_package.models:",
        "my_package.models",
        ":half",
        "",
        "my_package.models:half:",
        "my_package.models:half half",
        "my_package/models:half",
        "../models:half",
    ],
)
def test_nothing_is_reached_by_way_of_something_else(models, path):
    cb.allow("my_package.models:*", "my_package:*")
    assert is_refused(path)


@pytest.mark.parametrize("name", ["system", "reexported", "partial", "ufunc", "table", "np"])
def test_a_whole_module_lets_in_what_it_defines_and_not_what_it_imports(models, name):
    cb.allow("my_package.models:*")
    assert is_refused(f"my_package.models:{name}")
    assert resolved("function", "my_package.models:half") is models.half
    assert resolved("debug", "my_package.models:half").func is models.half


def test_a_package_does_not_let_in_its_modules_nor_what_it_imports_from_them(models):
    cb.allow("my_package:*")
    assert is_refused("my_package:half")
    assert is_refused("my_package.models:half")


def test_functions_of_classes_are_let_in_one_by_one(models):
    cb.allow("my_package.models:*")
    assert is_refused("my_package.models:Model.double")
    cb.allow("my_package.models:Model.double")
    assert resolved("function", "my_package.models:Model.double") is models.Model.double


def test_functions_are_let_in_themselves(models):
    cb.allow(models.half, np.linalg.norm)
    assert resolved("function", "my_package.models:half") is models.half
    assert resolved("function", "numpy.linalg:norm") is np.linalg.norm


def test_what_is_let_in_is_imported_and_nothing_else(models):
    for name in ("my_package", "my_package.models"):
        del sys.modules[name]
    why = resolved("function", "my_package.models:half")
    assert "the module my_package.models is not imported in this process" in why
    assert "Write `import my_package.models` before it runs; for what it wraps" in why
    assert "my_package" not in sys.modules
    cb.allow("my_package.models:*")
    assert resolved("function", "my_package.models:half")(4) == 2


def test_the_reason_of_a_failed_import_is_in_the_message(monkeypatch, tmp_path):
    monkeypatch.setattr(trust, "_allowed", set())
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_models.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "leaving_models.py").write_text("raise SystemExit('no licence')\n")
    cb.allow("broken_models:*", "leaving_models:f", "absent_models:f")
    assert "No module named 'not_installed_anywhere'" in resolved("function", "broken_models:f")
    assert "SystemExit: no licence" in resolved("function", "leaving_models:f")
    assert "No module named 'absent_models'" in resolved("function", "absent_models:f")


def test_functions_that_were_wrapped_have_opted_in(models):
    assert resolved("function", "my_package.models:wrapped") is models.wrapped.function
    assert resolved("function", "my_package.models:Model.wrapped")(2) == 6
    assert resolved("function", "my_package.models:plain") is models.plain
    del models.called
    gc.collect()
    assert is_refused("my_package.models:plain")


def test_functions_that_a_living_program_calls_have_opted_in(models):
    lowered = jax.jit(lambda x: cb.pure_callback(models.half, SCALAR, x)).lower(SCALAR)
    assert resolved("function", "my_package.models:half") is models.half
    del lowered
    jax.clear_caches()
    gc.collect()
    assert is_refused("my_package.models:half")


def test_ufuncs_of_numpy_and_scipy_are_open():
    assert resolved("function", "numpy:sin") is np.sin
    assert resolved("function", "scipy.special:jv") is scipy.special.jv
    assert resolved("debug", "numpy:sin").func is np.sin


def test_modules_that_load_lazily_are_not_loaded(monkeypatch, tmp_path):
    import importlib.util

    (tmp_path / "lazy_models.py").write_text("raise AssertionError('was loaded')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = importlib.util.find_spec("lazy_models")
    loader = importlib.util.LazyLoader(spec.loader)
    spec.loader = loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lazy_models", module)
    loader.exec_module(module)
    assert is_refused("lazy_models:half")


@pytest.mark.parametrize("main", ["__main__", "__mp_main__"])
def test_the_main_script_of_another_process_is_not_this_one(monkeypatch, main):
    module = types.ModuleType(main)
    exec(
        "import callbax as cb\n@cb.external(result=cb.like(0))\ndef scale(x): return 2 * x",
        vars(module),
    )
    monkeypatch.setitem(sys.modules, main, module)
    path = f"{main}:scale"
    program = jax.jit(module.scale)
    assert program(1.0) == 2
    assert "the main script is another in each process" in resolved("function", path)
    assert is_refused(path)
    with pytest.raises(ValueError, match="the main script is another in each process"):
        cb.allow(path)
    with pytest.raises(ValueError, match="the main script is another in each process"):
        cb.allow(module.scale)


@pytest.mark.parametrize(
    "name",
    [
        "my_package",
        "my_package.*",
        "my_package.*:f",
        "my_package:f*",
        "*",
        "*:*",
        "os:",
        ":f",
        "a b:c",
    ],
)
def test_what_cannot_be_let_in(name):
    with pytest.raises(ValueError, match="takes .package.module:function. or .package.module:"):
        cb.allow(name)
    assert not any(name in path for path in trust._allowed)


def test_functions_without_a_name_cannot_be_let_in():
    with pytest.raises(ValueError, match=r"cannot let in .*<lambda> .*cannot be found so"):
        cb.allow(lambda x: x)
    with pytest.raises(TypeError, match="takes functions and text"):
        cb.allow(3)


@pytest.mark.parametrize(
    "text",
    [
        "numpy:square((0,), {})",
        "",
        "[]",
        "{}",
        "null",
        '{"function": "numpy:sin"',
        '{"function": "numpy:sin"}',
        '{"function": 3, "structure": [["tuple", 0], ["dict"]]}',
        '{"function": "numpy:sin", "structure": [["tuple", 0]]}',
        '{"function": "numpy:sin", "structure": [["tuple", 0], ["set"]]}',
        '{"function": "numpy:sin", "structure": [["tuple", 0], ["dict", [1, 0]]]}',
        '{"function": "numpy:sin", "structure": [0, ["dict"]]}',
        '{"function": "numpy:sin", "structure": [["tuple", ' + "[" * 100_000,
        '{"function": "numpy:sin", "print": "", "structure": [["tuple", 0], ["dict"]]}',
        '{"function": "numpy:sin", "structure": [["tuple", 0], ["dict"]], "result": ["dict", [[], 0]]}',
        '{"loop": 1, "types": "d->d"}',
        '{"process": 1, "label": 2}',
        '{"local": 1}',
    ],
)
def test_what_is_not_a_name_is_an_error(text):
    assert isinstance(names.resolve(text), str)


@pytest.mark.parametrize(
    "field",
    [
        "{0.__class__}",
        "{0.__class__.__init__.__globals__}",
        "{0.T.__repr__.__globals__[os].environ}",
        "{0[x].tofile}",
        "{0:{0.__class__}}",
        "{0:{0.base.__class__}>{0}}",
    ],
)
def test_format_strings_of_files_show_values_and_nothing_that_hangs_on_them(field):
    options = np.get_printoptions()
    name = {"print": field, "options": options, **ONE_ARGUMENT}
    why = names.resolve(program_names.write(name))
    assert "which is refused: it asks for the attribute" in why


@pytest.mark.parametrize(
    ("fmt", "shown"),
    [
        ("x = {0} {{ ( [ : \" ' }} \\ \n", "x = 2.0 { ( [ : \" ' } \\ \n\n"),
        ("{0:.2f} {0.shape} {0.dtype.name} {0.T.real}", "2.00 () float32 2.0\n"),
        ("\N{SNOWMAN}\x00{0}", "\N{SNOWMAN}\x002.0\n"),
    ],
)
def test_prints_are_found_by_their_content(capsys, fmt, shown):
    options = np.get_printoptions()
    name = {"print": fmt, "options": options, **ONE_ARGUMENT}
    answer = names.resolve(program_names.write(name))
    assert not isinstance(answer, str), answer
    answer.target.function(np.float32(2)[...])
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("options", [None, [], {"unknown": 1}, {"formatter": {"all": 1}}])
def test_odd_print_options_are_refused(options):
    name = {"print": "{}", "options": options, **ONE_ARGUMENT}
    assert "which is refused" in names.resolve(program_names.write(name))


@pytest.mark.parametrize(
    "tree",
    [
        ((), {}),
        ((1, [2, (None,)], {"b": 3, "a": {}}), {"key": 4}),
        (({1: 2, 3: 4}, {(1, "a"): 2}, {True: 1}, {2.5: 1}), {}),
        (({'"]}, \\': 1, "\N{SNOWMAN}": 2},), {}),
    ],
)
def test_structures_are_read_as_they_were_written(tree):
    structure = jax.tree.structure(tree)
    data = program_names.read(program_names.write({"it": program_names.write_tree(structure)}))
    assert program_names.read_tree(data["it"]) == structure


LANES = {
    "lanes": "threads",
    "of": {"function": "numpy:sin", **ONE_ARGUMENT},
    "views": True,
    "casting": "safe",
    "external": "threads",
    "ranks": [0],
    "results": [["float32"]],
    "masked": False,
    "canonicalize": True,
    **ONE_ARGUMENT,
}
ARRAYS = {"arguments": [["float32", 3]], "results": [["float32", 3]]}
OF_LIBRARY = {
    "arrays": "torch",
    "on_device": False,
    "out": False,
    "of": {"function": "os:system"},
    **ONE_ARGUMENT,
}
RULE = {
    "rule": "host vjp",
    "of": {"function": "numpy:cos"},
    "positions": [0],
    "call": ONE_ARGUMENT["structure"],
    "tree": 0,
    "elementwise": True,
    "per_shard": False,
    **ARRAYS,
    **ONE_ARGUMENT,
}


@pytest.fixture
def cosine():
    function = cb.external(np.cos, result="broadcast")
    function.def_host_vjp(lambda primals, result, ct: (-np.sin(primals[0]) * ct,))
    return function


def test_lanes_and_rules_are_found_by_the_function_that_they_belong_to(cosine):
    lanes = names.resolve(program_names.write(LANES)).target.function
    assert np.array_equal(lanes(np.float32([0, 1])), [np.sin(np.float32([0, 1]))])
    rule = names.resolve(program_names.write(RULE)).target.function
    one = np.ones(3, np.float32)
    assert np.array_equal(rule(one, one, one)[0], -np.sin(one))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (LANES, {"of": {"function": "os:system", **ONE_ARGUMENT}}),
        (LANES, {"of": LANES}),
        (LANES, {"of": {"loop": "numpy:sin", "types": "f->f"}}),
        (LANES, {"of": "numpy:sin"}),
        (LANES, {"of": {"function": "numpy:sin"}}),
        (LANES, {"lanes": "elsewhere"}),
        (LANES, {"lanes": "executor"}),
        (LANES, {"ranks": [0, 0]}),
        (LANES, {"ranks": [-1]}),
        (LANES, {"ranks": ["0"]}),
        (LANES, {"results": [["object", 1]]}),
        (LANES, {"results": [["O"]]}),
        (LANES, {"results": [["float32", -1]]}),
        (LANES, {"results": [[]]}),
        (LANES, {"results": 3}),
        (LANES, {"casting": "unsafe"}),
        (LANES, {"masked": 1}),
        (RULE, {"rule": "host jvp"}),
        (RULE, {"rule": "__class__"}),
        (RULE, {"of": {"function": "numpy:deg2rad"}}),
        (RULE, {"of": {"function": "os:system"}}),
        (RULE, {"of": {"named": "nobody"}}),
        (RULE, {"of": []}),
        (RULE, {"positions": [1]}),
        (RULE, {"positions": [True]}),
        (RULE, {"arguments": []}),
        (RULE, {"tree": ["tuple", 0, 0]}),
        (RULE, {"call": [["tuple"], ["dict"]]}),
        ({"complex": {"function": "os:system"}, "expected": [True], **ONE_ARGUMENT}, {}),
        ({"complex": [], "expected": [True], **ONE_ARGUMENT}, {}),
        (OF_LIBRARY, {}),
        (OF_LIBRARY, {"arrays": "pandas", "of": {"function": "numpy:sin"}}),
        (OF_LIBRARY, {"out": 1, "of": {"function": "numpy:sin"}}),
        (OF_LIBRARY, {"of": []}),
        ({"function": "numpy:sin", "texts": [[0, "x"]], **ONE_ARGUMENT}, {}),
        ({"symbol": "system", "library": "libc.so.6", "types": "l->l"}, {}),
        ({"symbol": "cbrt", "library": "libm.so.6", "types": 3}, {}),
        ({"kernel": "system", "library": "libc.so.6", **ONE_ARGUMENT}, {}),
        ({"log": "{0.__class__}", "options": np.get_printoptions(), "file": "", "line": 1}, {}),
        ({"log": "{}", "options": np.get_printoptions(), "file": "", "line": -1}, {}),
    ],
)
def test_names_of_what_surrounds_functions_are_refused_if_they_are_odd(cosine, name, changes):
    why = names.resolve(program_names.write({**name, **changes}))
    assert isinstance(why, str), why


def test_only_prints_take_text_and_only_in_its_place():
    options = np.get_printoptions()
    name = {"print": "{} {}", "options": options, "structure": [["tuple", 0, 0], ["dict"]]}
    assert not isinstance(names.resolve(program_names.write({**name, "texts": [[1, "b"]]})), str)
    for texts in ([[2, "b"]], [[1, "b"], [1, "c"]], [[0, 1]], "ab", [["0", "b"]], {"0": "b"}):
        assert isinstance(names.resolve(program_names.write({**name, "texts": texts})), str)


def test_functions_with_several_rules_are_told_apart_by_a_given_name(cosine):
    other = cb.external(np.cos, result="broadcast")
    other.def_host_vjp(lambda primals, result, ct: (0 * ct,))
    assert "of which this process has several" in names.resolve(program_names.write(RULE))
    del other
    gc.collect()
    assert not isinstance(names.resolve(program_names.write(RULE)), str)


def test_c_functions_are_found_if_this_process_wraps_them_with_this_signature():
    name = {"symbol": "hypot", "library": "libm.so.6", "types": "dd->d"}
    assert "has not let in. Import the module that wraps it" in names.resolve(
        program_names.write(name)
    )
    hypot = cb.native(ctypes.CDLL("libm.so.6").hypot, "double (double, double)")
    loop = names.resolve(program_names.write(name)).target
    assert loop.source == hypot.only_loop.source
    parallel = cb.native(ctypes.CDLL("libm.so.6").hypot, "double (double, double)", parallel=True)
    assert not isinstance(names.resolve(program_names.write(name)), str)
    assert isinstance(names.resolve(program_names.write({**name, "types": "d->d"})), str)
    del hypot, loop, parallel
    gc.collect()
    assert isinstance(names.resolve(program_names.write(name)), str)


def test_kernels_are_let_in_one_by_one(compile_c, monkeypatch):
    monkeypatch.setattr(trust, "_allowed_offers", [])
    source = (
        "#include <callbax/kernel.h>\nint nothing(const callbax_call* call) { return call == 0; }\n"
    )
    library = compile_c(source)
    address = ctypes.CDLL(library).nothing
    kernel = cb.native(address, kernel=True, result=SCALAR)
    name = {"kernel": "nothing", "library": os.path.basename(library), **ONE_ARGUMENT}
    assert "write callbax.allow(kernel) before it runs" in names.resolve(program_names.write(name))
    cb.allow(kernel)
    assert names.resolve(program_names.write(name)).target.function == kernel._function
    with_data = cb.native(address, kernel=True, result=SCALAR, user_data=np.zeros(1))
    with pytest.raises(ValueError, match="no symbol, or it has user_data"):
        cb.allow(with_data)


CHECKS = [export.DisabledSafetyCheck.custom_call("callbax_call")]


def test_the_error_reaches_the_caller_of_a_loaded_program(models):
    """From end to end: the file says another function than was exported."""
    program = jax.jit(lambda x: cb.pure_callback(np.sin, x, x))
    exported = export.export(program, disabled_checks=CHECKS)(SCALAR)
    file = exported.serialize().replace(b'"numpy:sin"', b'"posix:nic"')
    assert file != exported.serialize()
    with pytest.raises(
        jax.errors.JaxRuntimeError, match="posix:nic, but the module posix here has"
    ):
        export.deserialize(file).call(np.float32(1))
    assert export.deserialize(exported.serialize()).call(np.float32(0)) == 0


def test_no_name_of_a_loaded_program_stays_registered():
    before = _native.statistics()["registered"]
    assert is_refused(f"{os.__name__}:system")
    assert resolved("function", "numpy:sin") is np.sin
    gc.collect()
    assert _native.statistics()["registered"] == before


@pytest.mark.full  # it takes seconds
def test_the_main_script_of_a_file_is_not_the_one_that_loads_it(tmp_path):
    """Whether that has a function of the same name, has compiled or exported it, or not."""
    script = """
import jax, callbax
from jax import export
def scale(x):
    return x * {factor}
f = jax.jit(lambda x: callbax.{call})
checks = [export.DisabledSafetyCheck.custom_call("callbax_call")]
exported = export.export(f, disabled_checks=checks)(2.0)
print(f(2.0), exported.call(2.0))
"""
    write = "open('program', 'wb').write(exported.serialize())"
    load = "export.deserialize(bytearray(open('program', 'rb').read())).call(2.0)"

    def run(*source):
        return subprocess.run(
            [sys.executable, "-c", "\n".join(source)], capture_output=True, text=True, cwd=tmp_path
        )

    for call in (
        "pure_callback(scale, x, x)",
        "external(scale, result=callbax.like(0))(x)",
    ):
        writer = run(script.format(factor=2, call=call), write)
        assert writer.returncode == 0, writer.stderr
        assert "ExportWarning: the exported program calls scale (" in writer.stderr
        reader = run(script.format(factor=1000, call=call), load)
        assert reader.stdout == writer.stdout.replace("4.0", "2000.0")
        assert "calls the host function scale (" in reader.stderr
        assert "existed only in the process that exported the program" in reader.stderr
