"""callbax.install: JAX's own callbacks on callbax's runtime, from when to when, and for whom."""

import functools
import gc
import io
import threading
import time
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

import callbax
from callbax import _jax
from callbax._install import rules
from callbax._jax import jax_callbacks

ONE = jnp.float32(1)
PAIR = jnp.float32([1, 2])
SCALAR = jax.ShapeDtypeStruct((), np.float32)


def ordered(function, x):
    return io_callback(function, SCALAR, x, ordered=True)


def debug_print(function, x):
    jax.debug.print("{}", x)
    return x


def debug(function, x, **options):
    jax.debug.callback(function, x, **options)
    return x


FLAVOURS = {
    "pure": lambda f, x: jax.pure_callback(f, SCALAR, x, vmap_method="sequential"),
    "io": lambda f, x: io_callback(f, SCALAR, x),
    "ordered io": ordered,
    "debug": debug,
    "ordered debug": lambda f, x: debug(f, x, ordered=True),
    "print": debug_print,
}
EACH_FLAVOUR = pytest.mark.parametrize("call", FLAVOURS.values(), ids=FLAVOURS)


@pytest.fixture(autouse=True)
def _uninstalled():
    yield
    callbax.uninstall()
    assert jax_tables() == _TABLES


def jax_tables():
    """What stands in JAX's tables for its callbacks."""
    entries = []
    for callback in jax_callbacks.JAX_CALLBACKS:
        primitive = callback.primitive
        lowerings = {platform: table.get(primitive) for platform, table in lowering_tables()}
        batching = jax_callbacks.batching_rule(primitive)
        entries.append((lowerings, batching, primitive.impl))
    return entries


def lowering_tables():
    return [("", _jax.mlir._lowerings), *_jax.mlir._platform_specific_lowerings.items()]


_TABLES = jax_tables()


def is_native(program, *args):
    """Whether a program, traced now, runs on callbax's runtime, and nothing in it on JAX's."""
    text = jax.jit(lambda *args: program(*args)).lower(*args).as_text()
    assert ("@callbax_call" in text) != ("xla_ffi_python_cpu_callback" in text)
    return "@callbax_call" in text


@EACH_FLAVOUR
def test_each_flavour_runs_natively_until_uninstall(call):
    program = functools.partial(call, lambda x: x)
    assert not is_native(program, ONE)
    callbax.install()
    assert is_native(program, ONE)
    callbax.uninstall()
    assert not is_native(program, ONE)


def test_a_program_that_is_compiled_follows():
    """Installing and leaving is seen by programs that were called before; what they do is the same."""
    seen = []
    program = jax.jit(lambda x: debug(lambda x: seen.append(type(x)), x))
    for _ in range(2):
        program(ONE)
        jax.effects_barrier()
        with callbax.installed():
            program(ONE)
            jax.effects_barrier()
    assert seen == [type(ONE), np.ndarray] * 2


def test_eager_calls_follow():
    seen = []
    for arguments in (None, "numpy", "jax"):
        if arguments:
            callbax.install(arguments)
        jax.pure_callback(lambda x: seen.append(type(x)) or x, SCALAR, ONE).block_until_ready()
        io_callback(lambda x: seen.append(type(x)), None, ONE)
        jax.effects_barrier()
        jax.debug.callback(lambda x: seen.append(type(x)), ONE)
    assert seen == [type(ONE)] * 3 + [np.ndarray] * 3 + [type(ONE)] * 3


def test_references_from_before_are_reached():
    held = functools.partial(jax.debug.callback, ordered=True)

    class Holder:
        call = staticmethod(jax.pure_callback)

        def method(self, x, call=io_callback):
            return call(lambda x: x, SCALAR, x)

    callbax.install()
    assert is_native(lambda x: held(lambda _: None, x), ONE)
    assert is_native(lambda x: Holder.call(np.sin, SCALAR, x), ONE)
    assert is_native(Holder().method, ONE)


def test_names_and_jaxprs_stay_jaxs():
    names = [jax.pure_callback, io_callback, jax.debug.callback, jax.debug.print]

    def program(x):
        x = jax.pure_callback(np.sin, SCALAR, x)
        jax.debug.print("{}", x, ordered=True)
        return io_callback(np.sin, SCALAR, x)

    before = str(jax.make_jaxpr(program)(ONE))
    callbax.install()
    assert [jax.pure_callback, io_callback, jax.debug.callback, jax.debug.print] == names
    assert str(jax.make_jaxpr(program)(ONE)) == before


def test_lanes_are_one_call():
    """Under vmap a callback is one call of the runtime's, with lanes; else JAX's loop around calls."""
    callbax.install()
    for call in FLAVOURS.values():
        if call is ordered:
            continue
        jaxpr = jax.make_jaxpr(jax.vmap(jax.vmap(functools.partial(call, lambda x: x))))(
            jnp.zeros((2, 3))
        )
        assert [str(v) for e in jaxpr.eqns for k, v in e.params.items() if k == "lanes"] == [
            "Lanes(sizes=(3, 2), operand_axes=(3,))"
        ]
    shapes = []
    record = lambda x: shapes.append(x.shape) or x  # noqa: E731
    whole = jax.vmap(lambda x: jax.pure_callback(record, SCALAR, x, vmap_method="expand_dims"))
    np.testing.assert_array_equal(whole(PAIR), PAIR)
    assert shapes == [(2,)]


def test_importable_functions_have_their_names_in_programs():
    callbax.install()
    program = jax.jit(lambda x: jax.pure_callback(np.square, SCALAR, x))
    own = jax.jit(lambda x: callbax.pure_callback(np.square, SCALAR, x))
    name = r'callback = "{\22function\22:\22numpy:square\22'
    assert name in program.lower(ONE).as_text()
    assert name in own.lower(ONE).as_text()
    text = jax.jit(lambda x: jax.debug.callback(warnings.warn, "said", x)).lower(ONE).as_text()
    assert "warn" in text


def test_programs_can_be_exported():
    program = jax.jit(lambda x: jax.pure_callback(np.square, SCALAR, x))
    checks = [jax.export.DisabledSafetyCheck.custom_call("callbax_call")]
    with callbax.installed():
        exported = jax.export.export(program, disabled_checks=checks)(ONE + 2)
    data = exported.serialize()
    assert jax.export.deserialize(data).call(ONE + 2) == 9


def test_jax_arrays_for_those_who_want_them():
    def update(x):
        assert isinstance(x, jax.Array)
        return x.at[0].set(7)

    with callbax.installed("jax"):
        program = jax.jit(lambda x: jax.pure_callback(update, x, x))
        assert "@callbax_call" in program.lower(PAIR).as_text()
        np.testing.assert_array_equal(program(PAIR), [7, 2])
    with callbax.installed(), pytest.raises(jax.errors.JaxRuntimeError, match="AssertionError"):
        program(PAIR).block_until_ready()


def test_a_breakpoint_shows_the_arrays_of_the_program(capsys):
    def stop(x):
        jax.debug.breakpoint(stdin=io.StringIO("p x + 1\nc\n"))
        return x

    callbax.install()
    assert is_native(stop, ONE)
    jax.jit(stop)(ONE)
    jax.effects_barrier()
    assert "Array(2., dtype=float32)" in capsys.readouterr().out


def test_other_arguments_are_refused():
    for function in (callbax.install, lambda value: callbax.installed(value).__enter__()):
        with pytest.raises(ValueError, match="arguments must be 'numpy' or 'jax', .* is 'torch'"):
            function("torch")
    assert not is_native(lambda x: jax.pure_callback(np.sin, SCALAR, x), ONE)


def arguments_seen():
    """What a callback gets at present."""
    seen = []
    jax.debug.callback(lambda x: seen.append("numpy" if type(x) is np.ndarray else "jax"), ONE)
    native = is_native(lambda x: jax.pure_callback(np.sin, SCALAR, x), ONE)
    return seen[0] if native else None


def test_blocks_nest():
    with callbax.installed():
        assert arguments_seen() == "numpy"
        with callbax.installed("jax"):
            assert arguments_seen() == "jax"
            with callbax.installed():
                assert arguments_seen() == "numpy"
            assert arguments_seen() == "jax"
        assert arguments_seen() == "numpy"
    assert arguments_seen() is None


def test_install_is_one_setting_of_the_process():
    """It may be said again, otherwise too; one uninstall ends it, and blocks outlive it."""
    callbax.uninstall()
    callbax.install()
    callbax.install("jax")
    assert arguments_seen() == "jax"
    with callbax.installed():
        callbax.uninstall()
        assert arguments_seen() == "numpy"
    assert arguments_seen() is None


def test_a_block_ends_with_its_exception():
    with pytest.raises(KeyError), callbax.installed():
        raise KeyError
    assert arguments_seen() is None


def test_a_function_may_be_decorated():
    assert callbax.installed()(arguments_seen)() == "numpy"
    assert arguments_seen() is None


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_install_is_for_all_threads_and_a_block_for_its_own():
    callbax.install()
    assert in_thread(arguments_seen) == "numpy"
    callbax.uninstall()
    with callbax.installed("jax"):
        assert in_thread(arguments_seen) is None
        callbax.install()
        assert in_thread(arguments_seen) == "numpy"
        assert arguments_seen() == "jax"


def test_threads_come_and_go():
    """Blocks of several threads that overlap: each sees its own, and the last one out leaves JAX's."""
    barrier = threading.Barrier(4)

    def work(arguments):
        barrier.wait()
        for _ in range(20):
            with callbax.installed(arguments):
                if arguments_seen() != arguments:
                    return False
        return True

    results = []
    threads = [
        threading.Thread(target=lambda a=a: results.append(work(a)))
        for a in ("numpy", "jax", "numpy", "jax")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4


def test_a_later_rule_of_somebody_else_is_left_alone():
    callbax.install()
    primitive = jax_callbacks.JAX_CALLBACKS[0].primitive
    (theirs,) = jax_callbacks.replace_lowering(primitive, lambda rule, ctx, *args, **params: args)
    entry = _jax.mlir._lowerings[primitive]
    callbax.uninstall()
    assert _jax.mlir._lowerings[primitive] is entry
    _jax.mlir._lowerings[primitive] = _TABLES[0][0][""]


def test_what_is_not_known_is_left_to_jax_with_one_warning(monkeypatch):
    """As from a JAX whose primitives have other parameters."""

    def refuse(self, params):
        raise jax_callbacks.UnexpectedCall("the parameters callback, mood")

    monkeypatch.setattr(jax_callbacks.JaxCallback, "read", refuse)
    rules._warn_once.cache_clear()
    callbax.install()
    with pytest.warns(RuntimeWarning, match="jax.pure_callback to JAX.*mood") as caught:
        for call in (lambda x: jax.pure_callback(np.sin, SCALAR, x),) * 2:
            assert not is_native(call, ONE)
    assert len(caught) == 1
    rules._warn_once.cache_clear()


def test_unknown_parameters_are_unexpected():
    for callback in jax_callbacks.JAX_CALLBACKS:
        with pytest.raises(jax_callbacks.UnexpectedCall, match="the parameters mood"):
            callback.read({"mood": 1})


def test_parameters_of_another_form_are_unexpected():
    params = {"callback": abs, "result_avals": 1, "sharding": None, "vmap_method": None}
    with pytest.raises(
        jax_callbacks.UnexpectedCall, match="TypeError: 'int' object is not iterable"
    ):
        jax_callbacks.JAX_CALLBACKS[0].read(params)


def test_static_arguments_as_a_dict_or_as_pairs():
    """A print that JAX lowers by itself, as on other platforms, calls back with pairs."""
    read = next(c.read for c in jax_callbacks.JAX_CALLBACKS if c.name == "jax.debug.callback")
    tree = jax.tree.structure(((0, 0), {}))
    for static in ({1: "text"}, ((1, "text"),)):
        flat = jax_callbacks._debugging._make_flat_callback(tree, print, static)
        effect = jax_callbacks._debugging.debug_effect
        call = read({"callback": flat, "effect": effect, "partitioned": False})
        assert (call.function, call.static) == (print, ((1, "text"),))


def test_nothing_is_kept():
    """Neither installing, nor programs of the time of it, keep callbacks or records alive."""

    def once():
        function = lambda x: x  # noqa: E731
        with callbax.installed():
            program = jax.jit(lambda x: jax.pure_callback(function, SCALAR, x))
            program(ONE).block_until_ready()
        return weakref.ref(function)

    kept = [once() for _ in range(20)]
    deadline = time.monotonic() + 60
    while any(reference() is not None for reference in kept):
        assert time.monotonic() < deadline
        jax.clear_caches()
        gc.collect()
        time.sleep(0.01)  # references are dropped between other work of this thread


def test_a_reduction_cannot_call_the_host():
    """XLA would end the process, as it does with JAX's callbacks."""

    def function(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), np.float32), x)

    with (
        callbax.installed(),
        pytest.raises(
            NotImplementedError, match=r"^jax.pure_callback of sin .*cannot call the host"
        ),
    ):
        jnp.arange(4.0).at[1].apply(function)
