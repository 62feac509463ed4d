"""What type checkers learn of the public functions."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import scipy

import callbax as cb
from callbax._callbacks.flavours import EXTERNAL
from callbax._external import host, options
from callbax._host import libraries
from callbax._typing import HostVmapMethod
from callbax.scipy.special import _stub
from callbax.tools import _displays

PACKAGE = Path(cb.__file__).parent
PUBLIC = {name: getattr(cb, name) for name in dir(cb) if not name.startswith("_")}

# Each comment is the type that a checker has to find.
PROGRAM = """
from typing import Any

import jax
import numpy as np

import callbax as cb
from callbax.scipy import special


@cb.external(result=cb.like(0))
def solve(matrix: np.ndarray, side: np.ndarray, method: str = "lu") -> np.ndarray:
    return np.linalg.solve(matrix, side)


def norm(x: np.ndarray, order: int) -> float:
    return float(np.linalg.norm(x, order))


@cb.external(result=cb.infer)
def halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x[::2], x[1::2]


@cb.external(result="broadcast")
def undeclared(x: Any) -> Any:
    return x, x


def of_names(function: cb.Ufunc, kernel: cb.Kernel, report: cb.Report) -> cb.Finding:
    return report.findings[0]


def typed(x: jax.Array) -> jax.Array:
    return solve(x, x) + special.jv(0, x) + cb.scipy.special.lambertw(x)


reveal_type(solve)  # External[[matrix: ndarray, side: ndarray, method: str =], ndarray]
reveal_type(cb.external(norm, result=np.float32(0)))  # External[[x: ndarray, order: int], float]
reveal_type(solve(np.eye(2), np.ones(2), method="qr"))  # Array
reveal_type(solve.call_where(True, 1, 2))  # Any
reveal_type(halves(np.ones(4)))  # Any
reveal_type(undeclared)  # External[[x: Any], Any]
reveal_type(undeclared(1))  # Any
cb.external(norm, results=1)  # Unexpected keyword argument "results" for overloaded function "external"
cb.external(norm, result="broadcast", effects="io", arrays="jax", derivative="central")
cb.external(norm, result=1, vmap_method="thread")  # No overload variant of "external"
cb.external(norm, result=1, effects="oi")  # No overload variant of "external"
cb.external(norm, result=1, arrays="tf")  # No overload variant of "external"
cb.external(norm, result=1, derivative="exact")  # No overload variant of "external"
cb.native(0, kernel=True, result=None, vmap_method="legacy_vectorized")
cb.ufunc(np.hypot, derivative="forward")  # No overload variant of "ufunc"
cb.tools.Progress(display="x")  # Argument "display" to "Progress" has incompatible type "Literal['x']"
cb.pure_callbak(norm, 1)  # Module has no attribute "pure_callbak"
cb.tools.progress  # Module has no attribute "progress"
jax_like: str = "expand_dims"
cb.pure_callback(norm, 1, vmap_method=jax_like)
reveal_type(cb.check(solve, np.eye(2), np.ones(2)))  # Report
reveal_type(cb.scipy.special.jv)  # Ufunc[[ArrayLike, ArrayLike], Array]
reveal_type(special.jv(0, 1.5))  # Array
reveal_type(special.sici)  # Ufunc[[ArrayLike], tuple[Array, Array]]
reveal_type(cb.ufunc(special.jv, derivative="central"))  # Ufunc[[ArrayLike, ArrayLike], Array]
reveal_type(cb.ufunc(np.hypot))  # Ufunc[..., Any]
reveal_type(cb.native(0, "double (double)"))  # Ufunc[..., Array]
reveal_type(cb.native(0, kernel=True, result=None))  # Kernel
special.jv(1.5)  # Too few arguments for "__call__" of "Ufunc"
special.jvv(0, 1.5)  # Module has no attribute "jvv"
"""


@pytest.mark.full
@pytest.mark.skipif(not importlib.util.find_spec("mypy"), reason="mypy is not installed")
def test_a_checker_knows_the_types_of_a_small_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    # The types of JAX and NumPy take mypy some ten seconds, so they are kept.
    cache = Path(__file__).parents[2] / ".mypy_cache" / "program"
    if "site-packages" in PACKAGE.parts:  # where py.typed is what mypy goes by
        path = {}
    else:
        path = {"MYPYPATH": str(PACKAGE.parent)}
    output = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={cache}", program.name],
        cwd=tmp_path,
        env={**os.environ, **path},
        capture_output=True,
        text=True,
    )
    found = {}
    for line in output.stdout.splitlines():
        if told := re.fullmatch(r"program.py:(\d+): (error|note): (.*?)(  \[[\w-]+\])?", line):
            found.setdefault(int(told[1]), readable(told[3]))
    lines = enumerate(PROGRAM.splitlines(), start=1)
    expected = {i: line.partition("  # ")[2] for i, line in lines if "  # " in line}
    assert found == expected, output.stdout + output.stderr


def readable(message: str) -> str:
    """The type that mypy reveals, or its error, with names as the program writes them."""
    message = re.sub(r'^Revealed type is "(.*)"$', r"\1", message).partition(";")[0]
    message = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", message)
    message = message.replace("ndarray[tuple[Any, ...], dtype[Any]]", "ndarray")
    message = message.partition(" matches argument types")[0]  # of overloads
    array_like = "Array | ndarray | bool[bool] | number[Any, int | float | complex] | bool | int"
    message = message.replace("[*Any, **Any]", "...")  # as mypy has it where it reads its cache
    return message.replace(f"{array_like} | float | complex", "ArrayLike")


def test_the_choices_of_a_keyword_and_their_tables_agree():
    assert set(libraries.NAMES) == {"numpy", *libraries._LIBRARIES}
    assert set(EXTERNAL) == set(typing.get_args(options.Effects))
    assert set(host._RUNNERS) == set(typing.get_args(HostVmapMethod))
    assert set(_displays.NAMES) == {"auto", *_displays.DISPLAYS}


def test_the_stub_of_scipys_functions_is_up_to_date():
    generated, stub = _stub.stub(), PACKAGE / "scipy" / "special" / "__init__.pyi"
    assert "def jv(v: ArrayLike, z: ArrayLike, /) -> Array: ..." in generated
    kept = stub.read_text(encoding="utf-8")
    if f"for SciPy {scipy.__version__}:" not in kept:
        pytest.skip("the stub is for another version of SciPy")
    assert generated == kept, "run python -m callbax.scipy.special._stub"


def test_what_is_returned_has_a_public_name():
    functions = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
    for name, function in functions.items():
        for form in [function, *typing.get_overloads(function)]:
            for returned in classes_in(typing.get_type_hints(form)["return"]):
                assert PUBLIC.get(returned.__name__) is returned, f"{name} returns a {returned}"


def classes_in(hint: object) -> list[type]:
    """The classes of the package that a type is made of."""
    found = [kind for part in typing.get_args(hint) for kind in classes_in(part)]
    own = typing.get_origin(hint) or hint
    if inspect.isclass(own) and own.__module__.partition(".")[0] == "callbax":
        found.append(own)
    return found


def test_the_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()
