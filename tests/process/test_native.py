"""Compiled functions in a process: who keeps them alive, who holds the GIL, and what others see."""

import pytest

LIBRARY = """
#include <callbax/kernel.h>
double cube(double x) { return x * x * x; }
double mark(double x, void* flag) { *(double*)flag = 1; return x; }
int refuse(const callbax_call* call) { return call->argument_count ? 9 : 0; }
int twice(const callbax_call* call) {
  *(float*)call->results[0].data = 2 * *(const float*)call->arguments[0].data;
  return 0;
}
"""

# Each makes `f`, which adds things up to 8 at 2, and lets go of everything else.
CALLEES = {
    "ctypes": """
        import ctypes
        lib = ctypes.CDLL({path!r})
        f = cb.native(lib.cube, "double (double)")
        del lib
    """,
    "cffi": """
        import cffi
        ffi = cffi.FFI()
        ffi.cdef("double cube(double);")
        lib = ffi.dlopen({path!r})
        f = cb.native(lib.cube)
        del lib, ffi  # which closes the library
    """,
    "numba": """
        import numba
        cube = numba.cfunc("float64(float64)")(lambda x: x * x * x)
        f = cb.native(cube)
        del cube
    """,
    "address": """
        import cffi
        ffi = cffi.FFI()
        ffi.cdef("double cube(double);")
        lib = ffi.dlopen({path!r})
        f = cb.native(int(ffi.cast("intptr_t", lib.cube)), "double (double)")
        del lib, ffi
    """,
    "user_data": """
        import ctypes, numba
        from numba import types
        factor = np.array([4.0])
        signature = types.float64(types.float64, types.voidptr)
        @numba.cfunc(signature)
        def scaled(x, data):
            return x * numba.carray(data, 1, np.float64)[0]
        f = cb.native(scaled, user_data=factor)
        del scaled, factor
    """,
    "kernel": """
        import cffi
        ffi = cffi.FFI()
        ffi.cdef("int twice(void*);")
        lib = ffi.dlopen({path!r})
        kernel = cb.native(lib.twice, kernel=True, result=scalar)
        f = (lambda kernel: lambda x: 2 * kernel(x))(kernel)
        del lib, ffi, kernel
    """,
}

ORDERS = {
    "the program alone is left": "program(2.0); del f; collect()",
    "the traced function alone is left": "del f; collect()",
    "before JAX's caches": "program(2.0); del f; collect(); jax.clear_caches(); collect()",
    "after JAX's caches": "program(2.0); jax.clear_caches(); del f; collect()",
}

PROGRAM = """
import gc
def collect():
    for _ in range(3):
        gc.collect()
    junk = [np.full(1000, 7.0) for _ in range(100)]  # over what has been freed
"""


@pytest.fixture(scope="module")
def library(compile_c):
    return compile_c(LIBRARY)


@pytest.mark.parametrize("callee", CALLEES)
def test_a_program_keeps_what_it_calls(run_program, library, callee):
    make = CALLEES[callee].format(path=library).replace("\n        ", "\n")
    finished = run_program(
        f"{PROGRAM}{make}\n"
        "program = jax.jit(f).lower(2.0).compile()\n"
        "del f; collect()\n"
        "print('first', program(2.0))\n"
        "jax.clear_caches(); collect()\n"
        "print('second', program(2.0))\n"
        "del program; collect(); jax.clear_caches(); collect()\n"
        "print('registered', cb._native.statistics()['registered'])\n"
    )
    assert finished.returncode == 0, finished.output
    lines = finished.output.splitlines()
    assert lines[:2] == ["first 8.0", "second 8.0"]
    assert lines[2] == "registered 0"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("callee", ["numba", "cffi", "kernel"])
def test_no_order_of_freeing_crashes(run_program, library, callee, order):
    make = CALLEES[callee].format(path=library).replace("\n        ", "\n")
    finished = run_program(
        f"{PROGRAM}{make}\nprogram = jax.jit(f)\n{ORDERS[order]}\nprint(program(2.0))\n"
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.splitlines() == ["8.0"]


@pytest.mark.parametrize("callee", ["ctypes", "numba", "kernel"])
def test_programs_may_run_while_the_interpreter_exits(run_program, library, callee):
    make = CALLEES[callee].format(path=library).replace("\n        ", "\n")
    finished = run_program(
        f"{make}\n"
        "call = asynchronous(lambda x: lax.fori_loop(0, 100_000, lambda i, c: f(c) * 0 + x, x))\n"
        "results = [call(big) for _ in range(8)]\n"
        "print('exiting')\n"
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.splitlines() == ["exiting"]


@pytest.mark.parametrize("callee", ["ctypes", "numba", "kernel"])
def test_no_call_waits_for_the_gil(run_program, library, callee):
    make = CALLEES[callee].format(path=library).replace("\n        ", "\n")
    finished = run_program(
        f"""
{make}
import ctypes, sys
flag = np.zeros(1)
mark = cb.native(ctypes.CDLL({library!r}).mark, "double (double, void*)", user_data=flag)
loop = lambda x: lax.fori_loop(0, 1000, lambda i, c: f(c) * 0 + x, x)
program = asynchronous(lambda x: mark(loop(x)))
program(big).block_until_ready()
flag[0] = 0
sys.setswitchinterval(1000)  # no other thread gets the GIL while this one wants it
result = program(big)
deadline = time.monotonic() + 30
while flag[0] == 0 and time.monotonic() < deadline:
    pass
print("marked", flag[0])
"""
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.splitlines() == ["marked 1.0"]


@pytest.mark.parametrize("callee", ["ctypes", "kernel"])
def test_an_address_never_reaches_another_process(run_program, library, callee, tmp_path):
    make = CALLEES[callee].format(path=library).replace("\n        ", "\n")
    program = f"""
jax.config.update("jax_compilation_cache_dir", {str(tmp_path)!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
padding = bytearray({{padding}})
{make}
print(jax.jit(f)(2.0))
"""
    for padding in (0, 50_000_000):
        finished = run_program(program.format(padding=padding))
        assert finished.returncode == 0, finished.output
        assert finished.output.splitlines() == ["8.0"]


@pytest.mark.parametrize(
    ("callee", "has_name", "lacks"),
    [
        ("ctypes", True, "Import the module that wraps it with callbax.native"),
        ("kernel", True, "callbax.allow("),
        ("user_data", False, "existed only in the process that exported the program"),
    ],
)
def test_an_exported_program_says_what_another_process_lacks(
    run_program, library, callee, has_name, lacks, tmp_path
):
    make = CALLEES[callee].format(path=library).replace("\n        ", "\n")
    exported = tmp_path / "program"
    saved = run_program(
        f"""
{make}
from jax import export
program = jax.jit(f)
targets = {{line.split('@')[1].split('(')[0] for line in program.lower(scalar).as_text().splitlines()
           if 'custom_call' in line}}
checks = [export.DisabledSafetyCheck.custom_call(target) for target in targets]
data = export.export(program, disabled_checks=checks)(scalar).serialize()
open({str(exported)!r}, "wb").write(data)
print(export.deserialize(data).call(2.0))
"""
    )
    assert saved.returncode == 0, saved.output
    assert saved.output.splitlines()[-1] == "8.0"
    assert has_name != ("ExportWarning: the exported program calls" in saved.output)
    loaded = run_program(
        f"""
from jax import export
import callbax
try:
    export.deserialize(open({str(exported)!r}, "rb").read()).call(2.0)
except Exception as error:
    print(str(error)[:600])
"""
    )
    assert loaded.returncode == 0, loaded.output
    assert "NOT_FOUND" in loaded.output and lacks in loaded.output


def test_an_exported_function_of_a_module_is_found_by_its_name(run_program, tmp_path):
    exported = tmp_path / "program"
    saved = run_program(
        f"""
from jax import export
from scipy.special import cython_special
f = cb.native(cython_special.__pyx_capi__["gammainc"])
check = export.DisabledSafetyCheck.custom_call("callbax_loop")
data = export.export(jax.jit(f), disabled_checks=[check])(scalar, scalar).serialize()
open({str(exported)!r}, "wb").write(data)
print(export.deserialize(data).call(1.5, 2.0))
"""
    )
    assert saved.returncode == 0, saved.output
    for let_in in (
        'cb.allow("scipy.special.cython_special:__pyx_capi__.gammainc")',
        'f = cb.native(cython_special.__pyx_capi__["gammainc"])',
    ):
        loaded = run_program(
            f"""
from jax import export
from scipy.special import cython_special
program = export.deserialize(open({str(exported)!r}, "rb").read())
try:
    program.call(1.5, 2.0)
except jax.errors.JaxRuntimeError as error:
    assert "has not let in" in str(error), error
    {let_in}
    print(program.call(1.5, 2.0))
"""
        )
        assert loaded.returncode == 0, loaded.output
        assert loaded.output == saved.output


def test_a_kernel_that_fails_leaves_no_device_waiting(run_program, library):
    finished = run_program(
        f"""
import ctypes
logging.getLogger("callbax").setLevel(logging.CRITICAL)
kernel = cb.native(ctypes.CDLL({library!r}).refuse, kernel=True, result=lambda x: x)
mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
total = lambda x: lax.psum(kernel(x).sum(), "i")
program = jax.jit(jax.shard_map(total, mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P()))
jax.block_until_ready(program(jnp.arange(8.0)))
try:
    cb.effects_barrier()
except jax.errors.JaxRuntimeError as error:
    print(cb.original_exception(error).code)
""",
        devices=4,
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.splitlines()[0] == "9"
