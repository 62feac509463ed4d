"""`python -m callbax run`: as Python runs a program, with callbax installed once it imports JAX."""

import os
import re
import signal
import subprocess
import sys
import time
import zipfile

import pytest

# Each case costs the start of several processes.
pytestmark = pytest.mark.process

DEADLINE = 240

# Says how it was started, and what its callbacks get.
PROGRAM = """
import os, sys
assert "jax" not in sys.modules and "callbax" not in sys.modules
print(__name__, sys.argv, sys.path[0], __file__, __package__, sys.flags.bytes_warning)
os.environ["JAX_ENABLE_X64"] = "1"
{first}
import jax, pickle
class OfMain: pass
assert type(pickle.loads(pickle.dumps(OfMain()))) is OfMain
kind = []
jax.jit(lambda x: jax.debug.callback(lambda x: kind.append(type(x)), x))(1.0)
jax.effects_barrier()
print(jax.config.jax_enable_x64, jax.__spec__.loader, file=sys.stderr)
open("kind", "w").write(str(kind[0]))
{last}
"""


def python(*command, cwd, **options):
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"},
        **options,
    )


def both_ways(cwd, *program, flags=(), options=()):
    """A program run by Python, and by callbax; all that is seen of it must be the same."""
    results = []
    for command in (program, ("-m", "callbax", "run", *options, *program)):
        result = python(*flags, *command, cwd=cwd)
        errors = re.sub(r"0x[0-9a-f]+", "0x", result.stderr)
        kind = cwd / "kind"
        results.append((result.returncode, result.stdout, errors))
        kinds = kind.read_text() if kind.exists() else ""
        kind.unlink(missing_ok=True)
    assert results[0] == results[1]
    return *results[1], kinds


def write(path, first="", last=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PROGRAM.format(first=first, last=last))
    return path


@pytest.mark.parametrize("arguments", ["numpy", "jax"])
def test_a_script(tmp_path, arguments):
    write(tmp_path / "scripts" / "script.py")
    code, out, errors, kind = both_ways(
        tmp_path,
        "scripts/script.py",
        *("-m", "--arguments", "--", "x y"),
        flags=["-b"],
        options=["--arguments", arguments],
    )
    assert code == 0, errors
    assert "['scripts/script.py', '-m', '--arguments', '--', 'x y']" in out
    assert errors.startswith("True")  # what it set before it imported JAX counts
    assert kind == (
        "<class 'numpy.ndarray'>" if arguments == "numpy" else "<class 'jaxlib._jax.ArrayImpl'>"
    )


@pytest.mark.parametrize("name", ["package", "package.module", "package.inner"])
def test_a_module(tmp_path, name):
    for file in ("__main__", "module", "inner/__main__"):
        write(tmp_path / "package" / f"{file}.py")
    for directory in ("package", "package/inner"):
        (tmp_path / directory / "__init__.py").write_text("")
    code, out, errors, kind = both_ways(tmp_path, "-m", name, "-c", "1")
    assert code == 0, errors
    assert "'-c', '1'" in out and kind == "<class 'numpy.ndarray'>"


@pytest.mark.full
def test_a_directory_and_an_archive(tmp_path):
    source = write(tmp_path / "directory" / "__main__.py").read_text()
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", source)
    for program in ("directory", "archive.zip"):
        code, _, errors, kind = both_ways(tmp_path, program, "x")
        assert code == 0, errors
        assert kind == "<class 'numpy.ndarray'>"


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("raise KeyError('lost')", 1),
        ("def f(): 1 / 0\nf()", 1),
        ("sys.exit(7)", 7),
        ("sys.exit('said')", 1),
        ("os._exit(5)", 5),
        ("raise KeyboardInterrupt", -signal.SIGINT),
    ],
)
def test_how_it_ends(tmp_path, last, code):
    """Exit codes; and tracebacks, which show the program alone."""
    write(tmp_path / "script.py", last=last)
    assert both_ways(tmp_path, "script.py")[0] == code


@pytest.mark.full
def test_what_cannot_run(tmp_path):
    (tmp_path / "wrong.py").write_text("x = = 1")
    for program in (("none.py",), ("-m", "nonesuch"), ("wrong.py",)):
        code, *_ = both_ways(tmp_path, *program)
        assert code != 0
    result = python("-m", "callbax", "run", cwd=tmp_path)
    assert result.returncode == 2 and "program" in result.stderr


@pytest.mark.parametrize(
    "first",
    [
        "import jax.numpy",
        "from jax.experimental import io_callback",
        "import callbax",
        "import callbax.debug",
        "import threading; t = threading.Thread(target=lambda: __import__('jax')); t.start(); t.join()",
    ],
)
def test_however_jax_is_imported(tmp_path, first):
    write(tmp_path / "script.py", first=first)
    code, _, errors, kind = both_ways(tmp_path, "script.py")
    assert (code, kind) == (0, "<class 'numpy.ndarray'>"), errors


def test_a_program_that_does_not_use_jax(tmp_path):
    (tmp_path / "script.py").write_text("import sys; print('jax' in sys.modules)")
    assert both_ways(tmp_path, "script.py")[1] == "False\n"


def test_a_signal_reaches_it(tmp_path):
    write(tmp_path / "script.py", last="open('ready', 'w').close()\nimport time; time.sleep(600)")
    process = subprocess.Popen(
        [sys.executable, "-m", "callbax", "run", "script.py"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + DEADLINE
    while not (tmp_path / "ready").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=DEADLINE)[1]
    assert process.returncode == -signal.SIGINT, errors
    assert "KeyboardInterrupt" in errors and "_install" not in errors


@pytest.mark.full
def test_inside_of_another_program(tmp_path):
    """Where the command was not started as such, the program runs in the same interpreter."""
    (tmp_path / "script.py").write_text("import sys; print(sys.argv, 'jax' in sys.modules)")
    code = "from callbax.__main__ import main; raise SystemExit(main(['run', 'script.py', 'x']))"
    result = python("-c", code, cwd=tmp_path)
    assert result.stdout == "['script.py', 'x'] True\n", result.stderr
