"""Names that are given to host functions."""

import gc
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import names_in

import callbax as cb
from callbax._host.call import HostFunction

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


def text_of(function, *args):
    program = jax.jit(lambda *a: cb.pure_callback(function, SCALAR, *a))
    return program.lower(*args).as_text()


def test_a_given_name_is_written_in_the_program_with_the_structure_of_the_call():
    function = HostFunction(lambda *a, out=None: None, name="my.sim", out=True)
    text = text_of(function, np.float32(1), (np.float32(2),))
    structure = [["tuple", 0, ["tuple", 0]], ["dict"], 0]
    assert names_in(text) == [{"named": "my.sim", "structure": structure}]


def test_a_program_finds_a_function_by_its_given_name():
    function = HostFunction(lambda x: x + 1, name="finds.by.name", views=True)
    lowered = jax.jit(lambda x: cb.pure_callback(function, SCALAR, x)).lower(np.float32(3))
    jax.clear_caches()
    gc.collect()
    assert lowered.compile()(np.float32(3)) == 4


def test_two_living_functions_cannot_have_one_name():
    first = HostFunction(lambda x: x, name="taken")
    assert HostFunction(first.function, name="taken") == first
    HostFunction(first.function, name="taken", views=True)
    with pytest.raises(
        ValueError, match=r"(?s)'taken', given to .*<lambda> .*already that of .*:\d+"
    ):
        HostFunction(lambda x: x + 1, name="taken")
    del first
    gc.collect()
    second = HostFunction(lambda x: x + 1, name="taken")
    assert cb.pure_callback(second, SCALAR, 1.0) == 2


@pytest.mark.parametrize("name", ["", "a:b", "f()", "#1"])
def test_what_cannot_be_a_name(name):
    with pytest.raises(ValueError, match="cannot be the name of sqrt"):
        HostFunction(np.sqrt, name=name)


def test_a_redefined_function_takes_the_name_and_leaves_old_programs_alone():
    cell = "@named\ndef f(x): return x + {}"
    namespace = {"__name__": "notebook", "named": lambda f: HostFunction(f, name="of.a.cell")}
    exec(cell.format(1), namespace)
    old = namespace["f"]
    program = jax.jit(lambda x: cb.pure_callback(old, SCALAR, x))
    assert program(1.0) == 2
    exec(cell.format(10), namespace)
    new = namespace["f"]
    assert cb.pure_callback(new, SCALAR, 1.0) == 11
    assert program(1.0) == 2
    assert cb.pure_callback(old, SCALAR, 1.0) == 2


EXPORTER = """
import sys, jax, jax.numpy as jnp, numpy as np, callbax as cb
from callbax._host.call import HostFunction

def fill(x, *, out):
    np.multiply(x["x"], 2, out=out["y"][0])
    out["y"][1][...] = x["x"].sum()
    return out

def sim():
    return HostFunction(eval("lambda x, *, out: fill(x, out=out)", globals()), name="my.sim",
                        views=True, out=True)

def program(f, x):
    spec = {"y": (x, jax.ShapeDtypeStruct((), x.dtype))}
    return cb.pure_callback(f, spec, {"x": x})

def exported():
    f = sim()
    checks = [jax.export.DisabledSafetyCheck.custom_call("callbax_call")]
    return jax.export.export(jax.jit(lambda x: program(f, x)), disabled_checks=checks)(
        jax.ShapeDtypeStruct((3,), "float32")).serialize()

def load():
    with open(sys.argv[1], "rb") as file:
        return jax.export.deserialize(bytearray(file.read()))
"""


def run(source, *args):
    return subprocess.run(
        [sys.executable, "-c", EXPORTER + source, *map(str, args)], capture_output=True, text=True
    )


@pytest.fixture
def exported(tmp_path):
    file = tmp_path / "program"
    finished = run("with open(sys.argv[1], 'wb') as file: file.write(exported())", file)
    assert finished.returncode == 0, finished.stderr
    return file


@pytest.mark.process
def test_an_exported_program_finds_the_function_of_that_name_with_its_options(exported):
    source = """
f = sim()
for _ in range(3):
    result = load().call(jnp.arange(3.0))
print(result["y"][0].tolist(), float(result["y"][1]))
"""
    finished = run(source, exported)
    assert finished.stdout == "[0.0, 2.0, 4.0] 3.0\n", finished.stderr


@pytest.mark.process
def test_an_exported_program_whose_function_is_missing_says_so(exported):
    finished = run("load().call(jnp.arange(3.0))", exported)
    assert finished.returncode == 1
    assert "NOT_FOUND" in finished.stderr
    assert "'my.sim', but no function of this process was given that name" in finished.stderr
