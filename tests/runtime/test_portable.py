"""The portable runtime: calls by way of JAX's own callbacks, and where they are chosen.

The suite as a whole runs under it, too (see portable_differences.py).
"""

import functools
import math
import os
import re
import subprocess
import sys
import threading
import warnings

import flavours
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CALLBAX, Recorder, devices, finish
from jax import export
from jax.interpreters import mlir

import callbax
from callbax._jax import barriers, narrow_types
from callbax._runtime import platforms, portable_calls

SCALAR = jax.ShapeDtypeStruct((), np.float32)


@pytest.fixture
def portable(monkeypatch):
    monkeypatch.setattr(platforms, "_setting", "portable")


@pytest.fixture
def any_backend(monkeypatch):
    """A backend for each platform, as far as JAX's lowering asks for one."""

    class Backend:
        def make_python_callback_from_host_send_and_recv(self, *args):
            return object()

    monkeypatch.setattr(mlir.ModuleContext, "get_backend", lambda *_, **__: Backend())


def text_for(platform, program, *args):
    return jax.jit(program).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu", "METAL"])
@pytest.mark.parametrize("setting", ["", "portable"])
def test_which_runtime_a_platform_has(monkeypatch, no_problem, setting, platform):
    monkeypatch.setattr(platforms, "_setting", setting)
    runtime = platforms.runtime_of([platform])
    is_native = setting == "" and platform in ("cpu", "cuda")
    assert runtime.name == ("native" if is_native else "portable")
    assert platform in runtime.reason or "CALLBAX_RUNTIME" in runtime.reason


@pytest.fixture
def no_problem(monkeypatch):
    """As with a driver of NVIDIA's."""
    monkeypatch.setattr(platforms._native, "cuda_problem", str)
    platforms._choice.cache_clear()
    yield
    platforms._choice.cache_clear()


@pytest.fixture(params=["", "libcuda.so.1: no such file"])
def problem(request, monkeypatch):
    """Of NVIDIA's driver."""
    monkeypatch.setattr(platforms, "_setting", "")
    monkeypatch.setattr(platforms._native, "cuda_problem", lambda: request.param)
    platforms._choice.cache_clear()
    platforms._warn.cache_clear()
    yield request.param
    platforms._choice.cache_clear()
    platforms._warn.cache_clear()


def test_where_there_is_a_native_runtime_it_runs_if_it_can(problem):
    names = ["cpu", "cuda", "rocm"]
    chosen = [platforms.choice([name]) for name in names]
    assert [runtime.is_native for runtime in chosen] == [True, not problem, False]
    assert [runtime.refused for runtime in chosen] == [False, bool(problem), False]
    assert problem in chosen[1].reason


def test_where_it_cannot_run_there_is_one_warning(problem):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            platforms.choice(["cuda"])
            platforms.runtime_of(["cuda"])
    if problem:
        (warning,) = caught
        message = str(warning.message)
        assert f"JAX's own on cuda: callbax's own runtime cannot run: {problem}" in message
        assert "CALLBAX_RUNTIME='portable' chooses them without a warning" in message
    else:
        assert not caught


def test_an_exported_program_is_native_whatever_driver_there_is_here(problem):
    assert platforms.runtime_of(["cuda"], exporting=True).is_native


@flavours.each(flavours.ALL)
def test_native_programs_for_gpus_call_callbaxs_target(problem, any_backend, call):
    if problem:
        pytest.skip("they are portable")
    text = text_for("cuda", functools.partial(call, CALLBAX, Recorder()), SCALAR)
    assert text.count("custom_call @callbax_call(") == 1 and "python_gpu_callback" not in text


def test_programs_that_travel_have_native_calls(portable):
    assert platforms.runtime_of(["cpu", "tpu"]).is_native
    assert platforms.runtime_of(["cpu"], exporting=True).is_native
    assert platforms.runtime_of(["cuda"], exporting=True).is_native
    assert not platforms.runtime_of(["rocm"], exporting=True).is_native
    call = jax.jit(lambda x: callbax.pure_callback(np.sin, SCALAR, x))
    check = export.DisabledSafetyCheck.custom_call("callbax_call")
    exported = export.export(call, disabled_checks=[check])(SCALAR)
    assert exported.call(np.float32(1)) == np.sin(np.float32(1))


def test_another_setting_is_an_error_that_names_the_variable():
    done = subprocess.run(
        [sys.executable, "-c", "import callbax"],
        env={**os.environ, "CALLBAX_RUNTIME": "fast"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert re.search("ValueError: .*CALLBAX_RUNTIME must be 'native' .*'fast'", done.stderr)


def test_the_choice_starts_no_backend():
    program = """
import callbax, jax
from callbax._jax import runtime
from callbax._runtime import platforms
print(platforms.runtime_of(["cpu"]).name, platforms.runtime_of(["cuda"]).name)
print(runtime.has_backends())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split()[-1] == "False"


@pytest.mark.filterwarnings("ignore:callbacks go through JAX's own")
@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
@flavours.each(flavours.ALL)
def test_without_a_device_of_the_platform_jaxs_reason_is_in_the_error(call, platform):
    if jax.default_backend() != "cpu":
        pytest.skip("there may be one")
    with pytest.raises(NotImplementedError) as caught:
        text_for(platform, functools.partial(call, CALLBAX, Recorder()), SCALAR)
    message = str(caught.value)
    assert f"compiled here for {platform}" in message
    why = "own runtime cannot run" if platform == "cuda" else "has no native runtime"
    assert why in message
    assert re.search(r"JAX says: .*platform.*\. Run the part .*jax\.default_device", message)
    assert "test_portable" in message or "Recorder" in message


@pytest.mark.parametrize(
    ("platform", "target"),
    [("cuda", "xla_ffi_python_gpu_callback"), ("rocm", "xla_ffi_python_gpu_callback")],
)
@flavours.each(flavours.ALL)
def test_portable_programs_for_gpus_call_by_jaxs_own_target(
    any_backend, portable, call, platform, target
):
    text = text_for(platform, functools.partial(call, CALLBAX, Recorder()), SCALAR)
    assert text.count(target) == 1 and "callbax_call" not in text


@flavours.each(flavours.ALL)
def test_calls_on_tpu_have_channels_of_their_own(any_backend, call):
    record = Recorder()

    def twice(x):
        return call(CALLBAX, record, x), call(CALLBAX, record, x)

    text = text_for("tpu", twice, SCALAR)
    handles = re.findall(r"channel_handle<handle = (\d+)", text)
    assert len(handles) >= 4 and len(set(handles)) == len(handles)


def test_compiled_functions_on_other_platforms(any_backend, portable):
    text = text_for("cuda", callbax.ufunc(np.hypot), SCALAR, SCALAR)
    assert text.count("xla_ffi_python_gpu_callback") == 1 and "callbax_loop" not in text


def test_what_jax_does_not_support_is_an_error_with_its_reason(monkeypatch, portable):
    def refuse(*_, **__):
        raise ValueError("`EmitPythonCallback` not supported on METAL backend.")

    monkeypatch.setattr(portable_calls.python_callbacks._callback, "emit_python_callback", refuse)
    message = "(?s)callbax.pure_callback of sin .*JAX says: .EmitPython.*METAL backend"
    with pytest.raises(NotImplementedError, match=message):
        jax.jit(lambda x: callbax.pure_callback(np.sin, SCALAR, x))(1.0)


def test_an_export_for_another_platform_alone_is_an_error():
    call = jax.jit(lambda x: callbax.pure_callback(np.sin, SCALAR, x))
    with pytest.raises(NotImplementedError, match="sin .*exported for tpu alone"):
        export.export(call, platforms=["tpu"])(SCALAR)


@pytest.mark.parametrize("shape", [(), (3,), (300, 300)], ids=str)
def test_arguments_are_the_functions_to_keep(portable, shape):
    kept = []

    def keep(x):
        kept.append(x)
        x += 1
        return x

    def program(x):
        struct = jax.ShapeDtypeStruct(shape, np.float32)
        return jax.lax.fori_loop(0, 5, lambda _, x: callbax.pure_callback(keep, struct, x), x)

    result = finish(jax.jit(program), jnp.zeros(shape))
    np.testing.assert_array_equal(result, np.full(shape, 5))
    for count, x in enumerate(kept, 1):
        np.testing.assert_array_equal(x, np.full(shape, count))


def test_a_barrier_raises_callbaxs_message_alone(monkeypatch, portable):
    """On GPU a failed program ends there; on CPU JAX waits for it, and what it raises is as it is."""

    def fail(x):
        raise KeyError("lost")

    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.jit(lambda x: callbax.debug.callback(fail, x))(1.0)
        callbax.effects_barrier()
    error = jax.errors.JaxRuntimeError(str(caught.value))
    monkeypatch.setattr(barriers, "wait_for_effects", lambda: (_ for _ in ()).throw(error))
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        callbax.effects_barrier()
    assert str(caught.value).startswith("INTERNAL: callbax.debug.callback: the callback ")
    assert repr(callbax.original_exception(caught.value)) == "KeyError('lost')"


def test_jax_work_in_a_callback_of_another_platform_is_on_cpu(monkeypatch):
    seen = []

    def look(operands, results):
        seen.append((jax.config.jax_default_device.platform, jnp.ones(2).sum().item()))

    call = portable_calls.PortableCall(look, [], "cuda")
    assert call(np.float32(1)) == ()
    assert seen == [("cpu", 2.0)]


def test_a_compiled_function_in_a_distributed_program_runs_once(portable):
    mesh = jax.make_mesh((4,), ("i",), devices=devices(4))
    spread = jax.sharding.NamedSharding(mesh, jax.P("i"))
    x = jax.device_put(np.arange(8, dtype=np.float32), spread)
    hypot = callbax.ufunc(np.hypot)
    y = jax.jit(lambda x: hypot(x, x) * 2)(x)
    np.testing.assert_allclose(y, np.hypot(x, x) * 2, rtol=1e-6)
    by_hand = jax.shard_map(
        lambda x: hypot(x, x), mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P("i")
    )
    np.testing.assert_allclose(jax.jit(by_hand)(x), np.hypot(x, x), rtol=1e-6)


def test_threads_of_xla_keep_their_python_state(portable):
    """By way of JAX, too: its own callbacks make a state for each call."""
    local = threading.local()
    counts = []

    def count(x):
        local.count = getattr(local, "count", 0) + 1
        counts.append((threading.get_ident(), local.count))
        return x

    struct = jax.ShapeDtypeStruct((500, 500), np.float32)
    program = jax.jit(lambda x: callbax.pure_callback(count, struct, x @ x) @ x)
    x = jnp.zeros((500, 500))
    for _ in range(20):
        x = program(x)
    finish(lambda: x)
    by_thread = {}
    for thread, number in counts:
        by_thread.setdefault(thread, []).append(number)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_thread.values())


class Seen:
    """A callback that keeps its arrays as they are."""

    def __init__(self):
        self.arrays = []

    def seen(self, x):
        self.arrays.append(x)

    def __call__(self, x):
        self.seen(x)
        return x


@pytest.mark.sampled(4)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("dtype", ["int2", "uint2", "int4", "uint4", "float4_e2m1fn"])
@flavours.each(flavours.ALL)
def test_packed_types_travel_as_wider_ones_outside_of_cpu(
    monkeypatch, portable, call, dtype, shape
):
    """JAX's callbacks would take bytes for single values there."""
    monkeypatch.setattr(narrow_types, "UNPACKED_ON", set())
    x = jnp.asarray(np.arange(6).astype(dtype)[: math.prod(shape)].reshape(shape))
    record = Seen()
    result = finish(jax.jit(lambda x: call(CALLBAX, record, x)), x)
    if shape != (0,) or record.arrays:  # XLA omits pure calls of no data
        (array,) = record.arrays
        assert (array.dtype, array.shape) == (x.dtype, shape)
        np.testing.assert_array_equal(array, np.asarray(x))
    assert result.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(result), np.asarray(x))


def test_packed_types_are_not_what_jaxs_callbacks_get(any_backend, portable):
    text = text_for(
        "cuda", lambda x: callbax.pure_callback(lambda x: x, x, x), jnp.zeros(4, "int4")
    )
    (call,) = re.findall(r"custom_call @xla_ffi.*", text)
    assert "tensor<4xi8>" in call and "xi4>" not in call
