"""Where callbax means to differ from JAX."""

import os
import subprocess
import sys
from pathlib import Path

import flavours
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CALLBAX, EAGER_AND_JIT, LIBRARIES, devices, run
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

import callbax

X_LIKE = jax.ShapeDtypeStruct((2,), np.float32)


def run_in_subprocess(program, folder="", **environment):
    """Runs the program text in a Python of its own, which may import from `folder`.

    Returns the lines that it prints.
    """
    source = str(Path(callbax.__file__).parents[1])
    paths = [str(folder), source, os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@EAGER_AND_JIT
def test_pure_callback_vmaps_without_a_method(transform):
    """0. `pure_callback` vmaps without a `vmap_method`."""

    def program(library, record):
        def f(x, y):
            return library.pure_callback(record.of(np.subtract), x, x, y)

        return transform(jax.vmap(f, in_axes=(0, None)))(jnp.arange(3.0), jnp.float32(1))

    theirs, ours = (run(library, program) for library in LIBRARIES)
    assert type(theirs.error) is NotImplementedError
    assert ours.value.tolist() == [-1.0, 0.0, 1.0]
    assert ours.calls == [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]


@EAGER_AND_JIT
@flavours.each(flavours.ALL)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2)], ids=str)
def test_callbacks_receive_numpy_arrays(transform, call, shape):
    """1. Callbacks receive NumPy arrays, not jax Arrays."""

    def program(library, record):
        class Types:
            @staticmethod
            def seen(x):
                record.calls.append((type(x), x.shape, x.flags.writeable))

            def __call__(self, x):
                self.seen(x)
                return x

        return transform(lambda x: call(library, Types(), x))(jnp.ones(shape))

    outcome = run(CALLBAX, program)
    assert outcome.error is None
    if call is flavours.pure and 0 in shape:
        assert len(outcome.calls) <= 1  # XLA need not compute what has no elements
        return
    assert outcome.calls == [(np.ndarray, shape, True)]


@EAGER_AND_JIT
@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
def test_the_natural_callback_of_the_older_guide(transform, flavour):
    """1. `np.sin(x).astype(x.dtype)` is the natural callback."""

    def program(library, record):
        callback = getattr(library, flavour)
        return transform(lambda x: callback(lambda x: np.sin(x).astype(x.dtype), x, x))(
            jnp.arange(3, dtype=jnp.int32)
        )

    outcome = run(CALLBAX, program)
    assert outcome.error is None
    assert outcome.value.tolist() == [0, 0, 0]


JAX_INSIDE = """
import numpy as np, jax, jax.numpy as jnp, callbax

@jax.jit
def largest_eigenvalue(x):
    return jnp.abs(jnp.linalg.eigvals(x)).max()

def host(x):
    return np.asarray(largest_eigenvalue(x), np.float32)

x = np.eye(300, dtype=np.float32)
f = jax.jit(lambda x: callbax.pure_callback(host, jax.ShapeDtypeStruct((), np.float32), x) + 1)
print([float(y) for y in [f(i * x) for i in range(30)]] == [i + 1.0 for i in range(30)])
"""


@pytest.mark.process
def test_jax_inside_a_callback_works():
    """2. JAX inside a callback works: jitted eig of 300×300, 30 asynchronous dispatches."""
    assert run_in_subprocess(JAX_INSIDE) == ["True"]


IMPORTABLE = """
import numpy as np

def double(x):
    return np.multiply(x, 2)

def shift(tree, *, by):
    return tree["a"] + by
"""

EXPORTING = """
import jax, numpy as np, callbax, importable
x = jax.ShapeDtypeStruct((2,), np.float32)
def f(x):
    y = callbax.pure_callback(importable.double, x, x, vmap_method="sequential")
    return callbax.pure_callback(importable.shift, x, {"a": y}, by=x)
check = jax.export.DisabledSafetyCheck.custom_call
exported = jax.export.export(jax.jit(f), disabled_checks=[check("callbax_call")])(x)
open(PATH, "wb").write(exported.serialize())
"""

IMPORTING = """
import jax, jax.export, numpy as np, callbax
callbax.allow("importable:*")
exported = jax.export.deserialize(open(PATH, "rb").read())
print(exported.call(np.float32([1, 2])).tolist())
"""


def test_export_works_for_importable_callbacks():
    """3. `jax.export` works for callbacks with a stable name (JAX's are refused)."""

    def exported_call(library, record):
        f = jax.jit(lambda x: library.pure_callback(np.square, x, x))
        check = export.DisabledSafetyCheck.custom_call("callbax_call")
        return export.export(f, disabled_checks=[check])(X_LIKE).call(jnp.array([2.0, 3.0]))

    theirs, ours = (run(library, exported_call) for library in LIBRARIES)
    assert type(theirs.error) is NotImplementedError
    assert ours.value.tolist() == [4.0, 9.0]


@pytest.mark.process
@pytest.mark.full  # it takes seconds
def test_exported_programs_run_in_another_process(tmp_path):
    """3. `jax.export` works for callbacks with a stable name, in another process."""
    pytest.importorskip("flatbuffers", reason="jax.export serialises with it")
    (tmp_path / "importable.py").write_text(IMPORTABLE)
    header = f"PATH = {str(tmp_path / 'program')!r}\nimport jax.export\n"
    run_in_subprocess(header + EXPORTING, tmp_path)
    assert run_in_subprocess(header + IMPORTING, tmp_path) == ["[3.0, 6.0]"]


OF_A_FILE = """
import sys, jax.export, numpy as np, callbax
call = jax.export.deserialize(bytearray(open(PATH, "rb").read())).call
try:
    call(np.float32([1, 2])).block_until_ready()
except jax.errors.JaxRuntimeError as error:
    print('write callbax.allow("importable:' in str(error), "importable" in sys.modules)
callbax.allow("importable:double", "importable:shift")
print(call(np.float32([1, 2])).tolist())
"""


@pytest.mark.process
def test_a_file_is_data(tmp_path):
    """7. A file is data: a loaded program calls by name only what this process has let in."""
    pytest.importorskip("flatbuffers", reason="jax.export serialises with it")
    (tmp_path / "importable.py").write_text(IMPORTABLE)
    header = f"PATH = {str(tmp_path / 'program')!r}\nimport jax.export\n"
    run_in_subprocess(header + EXPORTING, tmp_path)
    assert run_in_subprocess(header + OF_A_FILE, tmp_path) == ["True False", "[3.0, 6.0]"]


CACHED = """
import jax, numpy as np, callbax, importable
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
x = np.float32([1, 2])
f = jax.jit(lambda x: callbax.pure_callback(importable.double, x, x) + 1)
print(f(x).tolist(), hits.count("/jax/compilation_cache/cache_hits"))
"""


@pytest.mark.process
@pytest.mark.full  # it takes seconds
def test_the_persistent_compile_cache_works_for_importable_callbacks(tmp_path):
    """3. The persistent compile cache works for callbacks with a stable name."""
    (tmp_path / "importable.py").write_text(IMPORTABLE)
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    assert run_in_subprocess(CACHED, tmp_path, **environment) == ["[3.0, 5.0] 0"]
    assert run_in_subprocess(CACHED, tmp_path, **environment) == ["[3.0, 5.0] 1"]


CACHED_BY_ORDER = """
import ctypes, functools
import jax, numpy as np, callbax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
x = np.float32([1, 2])

def adds(k):
    return lambda x: x + k

def of_main(x):
    return x + 100

class Model:
    def method(self, x):
        return x + 1000

square = callbax.external(lambda x: x * x, result=callbax.like(0))
square.def_host_vjp(lambda primals, result, cotangent: (2 * primals[0] * cotangent,))
threads = callbax.external(lambda x: x + 1, result=callbax.like(0), vmap_method="threads")
libm = ctypes.CDLL(None)
libm.fabs.restype, libm.fabs.argtypes = ctypes.c_double, [ctypes.c_double]
programs = [
    *(lambda x, f=f: callbax.pure_callback(f, x, x) for f in map(adds, range(1, 4))),
    lambda x: callbax.pure_callback(of_main, x, x),
    lambda x: callbax.pure_callback(Model().method, x, x),
    lambda x: callbax.pure_callback(functools.partial(np.add, 10000), x, x),
    lambda x: callbax.pure_callback(adds(1), x, callbax.pure_callback(adds(2), x, x)),
    lambda x: jax.grad(lambda x: square(x).sum())(x),
    jax.vmap(threads),
    jax.vmap(lambda x: threads.call_where(x > 1, x)),
    callbax.native(libm.fabs),
]
for program in programs:
    hits.clear()
    f = jax.jit(program)
    print(f(x).tolist(), hits.count("/jax/compilation_cache/cache_hits"))
"""


@pytest.mark.process
@pytest.mark.full
def test_the_persistent_compile_cache_works_for_callbacks_without_a_stable_name(tmp_path):
    """3. The persistent compile cache works for lambdas, closures, functions of the main script."""
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    values = ["[2.0, 3.0]", "[3.0, 4.0]", "[4.0, 5.0]", "[101.0, 102.0]", "[1001.0, 1002.0]"]
    values += ["[10001.0, 10002.0]", "[4.0, 5.0]", "[2.0, 4.0]", "[2.0, 3.0]", "[0.0, 3.0]"]
    values += ["[1.0, 2.0]"]
    first = run_in_subprocess(CACHED_BY_ORDER, tmp_path, **environment)
    assert [line.rpartition(" ")[0] for line in first] == values
    entries = sorted(path.name for path in (tmp_path / "cache").glob("*-cache"))
    second = run_in_subprocess(CACHED_BY_ORDER, tmp_path, **environment)
    assert second == [f"{value} 1" for value in values]
    assert sorted(path.name for path in (tmp_path / "cache").glob("*-cache")) == entries
    # Another function under the same name: what counts is whose program it is.
    other = CACHED_BY_ORDER.replace("return lambda x: x + k", "return lambda x: x - k")
    third = run_in_subprocess(other, tmp_path, **environment)
    assert third[:3] == ["[0.0, 1.0] 1", "[-1.0, 0.0] 1", "[-2.0, -1.0] 1"]


@pytest.mark.parametrize("platforms", [("cpu", "cuda"), ("cpu", "tpu")], ids="+".join)
@flavours.each([flavours.pure, flavours.io, flavours.debug])
def test_multi_platform_lowering_works(platforms, call):
    """4. Multi-platform lowering works."""

    def program(library, record):
        x = jax.ShapeDtypeStruct((), np.float32)
        traced = jax.jit(lambda x: call(library, record, x)).trace(x)
        return traced.lower(lowering_platforms=platforms).as_text()

    theirs, ours = (run(library, program) for library in LIBRARIES)
    assert theirs.error is not None
    assert ours.error is None
    assert "callbax_call" in ours.value


@flavours.each([flavours.pure, flavours.io, flavours.debug])
def test_multi_platform_lowering_of_a_cpu_branch(call):
    """4. Multi-platform lowering works, where only the branch for CPU calls back."""

    def program(library, record):
        def f(x):
            return jax.lax.platform_dependent(
                x, cpu=lambda x: call(library, record, x), default=lambda x: x + 1
            )

        traced = jax.jit(f).trace(jax.ShapeDtypeStruct((), np.float32))
        return traced.lower(lowering_platforms=("cpu", "cuda")).as_text()

    outcome = run(CALLBAX, program)
    assert outcome.error is None
    assert "callbax_call" in outcome.value


MESH_KINDS = pytest.mark.parametrize("kind", ["Auto", "Explicit"])
DIRECT = {
    "pure": lambda f, x: callbax.pure_callback(f, x, x),
    "pure, placed": lambda f, x: callbax.pure_callback(
        f, x, x, sharding=jax.sharding.SingleDeviceSharding(devices(3)[-1])
    ),
    "io": lambda f, x: callbax.io_callback(f, x, x),
    "ordered io": lambda f, x: callbax.io_callback(f, x, x, ordered=True),
    "external": lambda f, x: callbax.external(f, result=x)(x),
    "in scan": lambda f, x: jax.lax.scan(
        lambda c, _: (c, callbax.pure_callback(f, x, x)), 0.0, None, length=1
    )[1][0],
    "lanes": lambda f, x: jax.vmap(
        lambda x: callbax.pure_callback(f, jax.ShapeDtypeStruct((), x.dtype), x)
    )(x),
    "one of two": lambda f, x: callbax.pure_callback(
        lambda x: (f(x), x[0]), (x, jax.ShapeDtypeStruct((), x.dtype)), x
    )[0],
}


@pytest.mark.sampled(4)
@MESH_KINDS
@pytest.mark.parametrize("call", DIRECT)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_the_direct_result_in_a_partitioned_program_is_replicated(transform, call, kind):
    """13. The direct result of a callback in a partitioned program is usable outside as it is."""
    axis = getattr(jax.sharding.AxisType, kind)
    mesh = jax.make_mesh((4,), ("i",), axis_types=(axis,), devices=devices(4))
    spread = NamedSharding(mesh, PartitionSpec() if call == "lanes" else PartitionSpec("i"))
    x = jax.device_put(jnp.arange(8.0), spread)
    y = transform(lambda x: DIRECT[call](np.square, x))(x)
    expected = np.arange(8.0) ** 2
    assert y.sharding.is_fully_replicated
    assert len(y.addressable_shards) == 4
    for shard in y.addressable_shards:
        np.testing.assert_array_equal(shard.data, expected)
    np.testing.assert_array_equal(y + 1, expected + 1)
    np.testing.assert_array_equal(jax.jit(lambda x, y: x + y)(x, y), expected + np.arange(8.0))


@MESH_KINDS
def test_a_replicated_result_costs_no_collective_more(kind):
    """13. A value of one device is brought to the others once, wherever it is used."""
    axis = getattr(jax.sharding.AxisType, kind)
    mesh = jax.make_mesh((4,), ("i",), axis_types=(axis,), devices=devices(4))
    split = NamedSharding(mesh, PartitionSpec("i"))
    x = jax.device_put(jnp.arange(8.0), split)

    def direct(x):
        return callbax.pure_callback(np.square, x, x)

    for program in (
        jax.jit(direct),
        jax.jit(lambda x: direct(x) + x),
        jax.jit(direct, out_shardings=split),
    ):
        text = program.lower(x).compile().as_text()
        assert text.count(" all-gather(") == 1  # of the argument
        assert text.count(" all-reduce(") == 1  # of the result
        assert "collective-permute(" not in text and "all-to-all(" not in text
    unused = jax.jit(lambda x: (direct(x), x)[1]).lower(x).compile().as_text()
    assert "all-reduce(" not in unused


@EAGER_AND_JIT
def test_escaped_braces_print_as_braces(transform):
    """5. `print("{{}} {}", 3)` prints `{} 3` (JAX 0.10.2 prints `{{}} {} 3`)."""

    def program(library, record):
        transform(lambda x: library.debug.print("{{}} {}", x))(3)

    assert run(CALLBAX, program).printed == ["{} 3"]


def test_the_example_of_the_older_guide_works():
    """`vectorized=True` of the older guide (its example must work), with a DeprecationWarning."""

    def program(library, record):
        def host(x):
            record.calls.append(x.shape)
            return np.sin(x).astype(x.dtype)

        def f(x):
            spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
            with pytest.warns(DeprecationWarning, match="vectorized"):
                return library.pure_callback(host, spec, x, vectorized=True)

        return jax.vmap(f)(jnp.arange(3.0)), jax.jit(f)(jnp.float32(1))

    outcome = run(CALLBAX, program)
    assert outcome.error is None
    np.testing.assert_allclose(outcome.value[0], np.sin(np.arange(3.0)), rtol=1e-6)
    np.testing.assert_allclose(outcome.value[1], np.sin(1.0), rtol=1e-6)
    assert outcome.calls == [(3,), ()]


@pytest.mark.parametrize("vectorized", [True, False])
def test_vectorized_of_the_older_guide_is_still_understood(vectorized):
    """6. The older guide's `vectorized=True` is still understood."""

    def program(library, record):
        def f(x):
            with pytest.warns(DeprecationWarning, match="vectorized argument"):
                return library.pure_callback(record, x, x, vectorized=vectorized)

        return jax.vmap(f)(jnp.arange(3.0))

    outcome = run(CALLBAX, program)
    assert outcome.error is None
    assert outcome.calls == ([[0.0, 1.0, 2.0]] if vectorized else [0.0, 1.0, 2.0])


def test_vectorized_and_vmap_method_together_are_an_error():
    """6. Both at once contradict each other."""

    def program(library, record):
        return library.pure_callback(
            record, jnp.float32(0), 1.0, vectorized=True, vmap_method="sequential"
        )

    assert type(run(CALLBAX, program).error) is ValueError


SETTINGS = """
import contextvars, threading
import jax, jax.numpy as jnp, numpy as np
import callbax

user = contextvars.ContextVar("user", default="nobody")
scalar = jax.ShapeDtypeStruct((), jnp.float32)
big = jnp.ones((300, 300))
seen = set()

def callback(x):
    seen.add((user.get(), np.geterr()["divide"], (jnp.asarray(np.float64(1)) / 3).dtype.name))
    return np.float32(0)

user.set("caller")
with np.errstate(divide="ignore"), jax.enable_x64(True):
    small = jax.jit(lambda x: callbax.pure_callback(callback, scalar, x))
    large = jax.jit(lambda a: callbax.pure_callback(callback, scalar, (a @ a).sum()))
    lanes = jax.vmap(callbax.external(callback, result=scalar, vmap_method="threads"))
    for _ in range(10):
        jax.block_until_ready([small(1.0), large(big), lanes(jnp.ones(4))])
print(seen)
"""


@pytest.mark.process
def test_settings_travel():
    """10. JAX's configuration, contextvars and NumPy's errstate are those of the caller."""
    # JAX's own run in a large program on a thread that has the settings of the process.
    assert run_in_subprocess(SETTINGS) == ["{('caller', 'ignore', 'float64')}"]


@EAGER_AND_JIT
@pytest.mark.parametrize("value", [1, True, np.int64(3), np.float16(0.5)])
def test_external_widens_safely(transform, value):
    """11. `external` widens results safely; `pure_callback` stays as strict as JAX's."""
    like = jax.ShapeDtypeStruct((), np.float32)

    def program(library, record):
        return transform(lambda: library.pure_callback(lambda: value, like))()

    for library in LIBRARIES:
        assert "Incorrect output dtype" in str(run(library, program).error)
    assert transform(callbax.external(lambda: value, result=like))() == np.float32(value)


@EAGER_AND_JIT
@pytest.mark.parametrize("value", [np.float64(0.1), 1j, 2**24 + np.int64(1)])
def test_external_narrows_nothing(transform, value):
    """11. Nothing is lost by what `external` converts."""
    with jax.enable_x64(True):
        like = jax.ShapeDtypeStruct((), np.float32)
        f = transform(callbax.external(lambda: value, result=like))
        with pytest.raises(jax.errors.JaxRuntimeError, match="Incorrect output dtype"):
            jax.block_until_ready(f())


def test_lanes_of_a_loop_stop_by_themselves():
    """13. In a while_loop whose condition has an ordered debug callback, a lane stops on time."""

    def program(library, record):
        def running(state):
            library.debug.callback(record.seen, state[0], ordered=True)
            return state[0] < 3

        def f(x):
            return jax.lax.while_loop(running, lambda state: (state[0] + 1, state[1]), (x, key))

        key = jax.random.key(1)
        return jax.vmap(jax.vmap(f))(jnp.array([[1, 2], [3, 4]]))[0]

    theirs, ours = (run(library, program) for library in LIBRARIES)
    assert theirs.value.tolist() == [[3, 4], [5, 6]]
    assert ours.value.tolist() == [[3, 3], [3, 4]]
    assert ours.calls == [1, 3, 2, 4, 2, 3, 3, 4, 3, 3, 3, 4]
