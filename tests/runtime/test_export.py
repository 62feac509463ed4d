"""Exported programs in the process that made them, and symbolic shapes."""

import ctypes
import functools
import gc
import pickle
import re
import weakref
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices
from jax import export
from jax.experimental import serialize_executable

import callbax as cb
from callbax import _jax, _native, tools
from callbax import host_callback as hcb
from callbax._jax import saved_programs

SCALAR = jax.ShapeDtypeStruct((), np.float32)

calls = []


def record(x):
    calls.append(float(x))
    return x + 1


class Model:
    def method(self, x):
        return x + 1


def adds(k):
    return lambda x: x + k


def in_loop(x):
    def body(carry, _):
        return cb.pure_callback(adds(1), SCALAR, carry), None

    return jax.lax.scan(body, x, None, length=3)[0]


def with_host_rule(x):
    square = cb.external(lambda x: x * x, result=SCALAR)
    square.def_host_vjp(lambda primals, result, cotangent: (2 * primals[0] * cotangent,))
    return jax.grad(square)(x)


def on_threads(x):
    lanes = cb.external(lambda x: x + 1, result=SCALAR, vmap_method="threads")
    return jax.vmap(lanes)(jnp.stack([x, x]))[1]


def masked(x):
    lanes = cb.external(lambda x: x + 1, result=SCALAR)
    return jax.vmap(lambda x: lanes.call_where(x > 0, x))(jnp.stack([x, x]))[1]


def native(x):
    fabs = ctypes.cast(ctypes.CDLL(None).fabs, ctypes.c_void_p).value
    # With data of its own, it is another function than libm's, which other tests may have named.
    return cb.native(fabs, "double (double, void*)", user_data=np.zeros(1))(x)


def fresh_debug(x):
    cb.debug.callback(lambda x: calls.append(float(x)), x)
    return x


def watched(x):
    cb.debug.watch(lambda batch, x: calls.append(float(x)), x)
    return tools.raise_if(x, x < 0, lambda x: ValueError(x), x)


def checked_in_branch(x):
    return jax.lax.cond(x > 0, lambda x: tools.check_finite(x, "x"), lambda x: x, x)


def tapped_with_device(x):
    return hcb.id_tap(lambda x, _, device: calls.append(float(x)), x, tap_with_device=True)


PROGRAMS = {
    "lambda": (lambda x: cb.pure_callback(lambda x: x + 1, SCALAR, x), 3),
    "closure": (lambda x: cb.pure_callback(adds(1), SCALAR, x), 3),
    "partial": (lambda x: cb.pure_callback(functools.partial(np.add, 1), SCALAR, x), 3),
    "method": (lambda x: cb.pure_callback(Model().method, SCALAR, x), 3),
    "io": (lambda x: cb.io_callback(adds(1), SCALAR, x), 3),
    "ordered": (lambda x: cb.io_callback(adds(1), SCALAR, x, ordered=True), 3),
    "debug": (fresh_debug, 2),
    "loop": (in_loop, 5),
    "branch": (
        lambda x: jax.lax.cond(x > 0, lambda x: cb.pure_callback(adds(1), x, x), jnp.sin, x),
        3,
    ),
    "jit": (lambda x: jax.jit(lambda x: cb.pure_callback(adds(1), x, x))(x), 3),
    "host rule": (with_host_rule, 4),
    "threads": (on_threads, 3),
    "call_where": (masked, 3),
    "native": (native, 2),
    "watch": (watched, 2),
    "check in branch": (checked_in_branch, 2),
    "tap with device": (tapped_with_device, 2),
}


def exported(program, *args):
    with pytest.warns(cb.ExportWarning, match="no name that another process could find it by"):
        return export.export(jax.jit(program), disabled_checks=cb.EXPORT_CHECKS)(*args)


def registered():
    return _native.statistics()["registered"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_exported_program_keeps_its_callbacks_as_long_as_it_lives(name):
    program, expected = PROGRAMS[name]
    jax.clear_caches()
    gc.collect()
    before = registered()

    def call():
        kept = exported(lambda x: program(x), SCALAR)
        for _ in range(2):
            jax.clear_caches()
            gc.collect()
            assert kept.call(np.float32(2)) == expected
            assert jax.jit(kept.call)(np.float32(2)) == expected
        cb.effects_barrier()

    call()
    jax.clear_caches()
    gc.collect()
    assert registered() == before


def test_the_derivative_of_an_exported_program_keeps_what_it_needs():
    def program(x):
        return cb.pure_callback(adds(1), x, jax.lax.stop_gradient(x)) * x

    whole = exported(program, SCALAR)
    derivative = whole.vjp()
    del whole
    jax.clear_caches()
    gc.collect()
    assert derivative.call(np.float32(2), np.float32(1))[0] == 3


def test_an_exported_program_lets_its_callback_go():
    def make():
        def fresh(x):
            return x + 1

        return exported(lambda x: cb.pure_callback(fresh, x, x), SCALAR), weakref.ref(fresh)

    program, alive = make()
    gc.collect()
    assert alive() is not None
    del program
    jax.clear_caches()
    gc.collect()
    assert alive() is None


def test_a_file_of_this_process_works_while_the_exported_program_lives():
    program = exported(lambda x: cb.pure_callback(adds(1), x, x), SCALAR)
    loaded = export.deserialize(program.serialize())
    assert loaded.call(np.float32(2)) == 3
    del program
    jax.clear_caches()
    gc.collect()
    with pytest.raises(jax.errors.JaxRuntimeError, match="adds.*existed only in the process"):
        loaded.call(np.float32(2))


def test_two_exported_programs_never_share_a_name():
    first = exported(lambda x: cb.pure_callback(adds(1), x, x), SCALAR)
    second = exported(lambda x: cb.pure_callback(adds(2), x, x), SCALAR)
    assert [first.call(np.float32(2)), second.call(np.float32(2))] == [3, 4]


def test_the_warning_names_the_callback_and_the_line_that_exports():
    with pytest.warns(cb.ExportWarning) as caught:
        export.export(
            jax.jit(lambda x: cb.pure_callback(adds(1), x, x)), disabled_checks=cb.EXPORT_CHECKS
        )(SCALAR)
    (warning,) = caught
    assert "adds.<locals>.<lambda> (" in str(warning.message)
    assert warning.filename == __file__


def test_what_has_a_name_is_exported_without_a_warning():
    program = export.export(
        jax.jit(lambda x: cb.pure_callback(np.sin, x, x)), disabled_checks=cb.EXPORT_CHECKS
    )
    assert program(SCALAR).call(np.float32(0)) == 0


FLAVOURS = {
    "pure": lambda x: cb.pure_callback(record, x, x),
    "io": lambda x: cb.io_callback(record, x, x),
    "debug": lambda x: (cb.debug.callback(record, x), x + 1)[1],
    "external": cb.external(record, result=SCALAR),
}


@pytest.mark.filterwarnings("ignore::callbax.ExportWarning")
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_lanes_over_symbolic_dimensions(flavour):
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("n, m"), np.float32)
    program = jax.jit(jax.vmap(jax.vmap(FLAVOURS[flavour])))
    symbolic = export.export(program, disabled_checks=cb.EXPORT_CHECKS)(shape)
    for size in ((2, 3), (1, 1), (3, 2)):
        x = np.arange(np.prod(size), dtype=np.float32).reshape(size)
        calls.clear()
        assert np.array_equal(symbolic.call(x), x + 1)
        cb.effects_barrier()
        assert calls == list(x.T.ravel())


def test_lanes_over_a_symbolic_dimension_of_one_argument():
    lanes = export.symbolic_shape("n")
    program = jax.vmap(lambda x, y: cb.pure_callback(np.add, SCALAR, x, y), in_axes=(0, None))
    symbolic = export.export(jax.jit(program), disabled_checks=cb.EXPORT_CHECKS)(
        jax.ShapeDtypeStruct(lanes, np.float32), SCALAR
    )
    assert symbolic.call(np.float32([1, 2, 3]), np.float32(4)).tolist() == [5, 6, 7]


def test_symbolic_shapes_of_elementwise_functions():
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("n, m"), np.float32)
    cosine = cb.external(np.cos, result="broadcast")
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    program = export.export(jax.jit(cosine), disabled_checks=cb.EXPORT_CHECKS)(shape)
    assert np.array_equal(program.call(x), np.cos(x))


# -- loaded programs inside of others ---------------------------------------------------------------
def loaded(program, *args):
    program = export.export(jax.jit(program), disabled_checks=cb.EXPORT_CHECKS)(*args)
    return export.deserialize(program.serialize()).call


@cb.external(result=SCALAR, effects="io")
def noted(x):
    calls.append(float(x))
    return x


@cb.external(result=SCALAR, effects="ordered")
def noted_in_order(x):
    return noted.function(x)


@cb.external(result=SCALAR, effects="io")
def fails(x):
    raise OSError("disk full")


def test_effects_of_a_loaded_program_happen_once_for_each_call():
    program = loaded(noted, SCALAR)
    calls.clear()
    jax.jit(lambda x: (program(x), x)[1])(1.0)  # nobody uses the result
    jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: (program(x), x + 1)[1], x))(2.0)
    assert calls == [1, 2, 3, 4]


def test_ordered_effects_of_a_loaded_program_are_in_one_order_with_others():
    program = loaded(noted_in_order, SCALAR)
    calls.clear()

    def mixed(x):
        noted_in_order(x)
        jax.experimental.io_callback(lambda x: calls.append(-float(x)), None, x, ordered=True)
        program(x + 1)
        noted_in_order(x + 2)

    for _ in range(3):
        jax.jit(mixed)(1.0)
    jax.effects_barrier()
    assert calls == [1, -1, 2, 3] * 3


@pytest.mark.parametrize("inside_jit", [False, True])
def test_an_error_in_a_loaded_program_surfaces_from_its_call_and_once(inside_jit):
    program = loaded(fails, SCALAR)
    call = jax.jit(lambda x: (program(x), x)[1]) if inside_jit else program
    for _ in range(2):
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="disk full") as caught:
            call(np.float32(1))
        assert isinstance(cb.original_exception(caught.value), OSError)
        cb.effects_barrier()


def test_compiled_programs_with_a_callback_without_a_name_are_not_pickled():
    for program in (lambda x: cb.pure_callback(adds(1), x, x), _cfunction()):
        compiled = jax.jit(program).lower(SCALAR).compile()
        with pytest.raises(pickle.PicklingError, match="no name that another process could find"):
            serialize_executable.serialize(compiled)


def _cfunction():
    """A C function with data, which has an address in this process only."""
    scale = np.array([3.0])
    fabs = ctypes.cast(ctypes.CDLL(None).fabs, ctypes.c_void_p).value
    return cb.native(fabs, "double (double, void*)", user_data=scale)


def test_what_keeps_a_callback_from_travelling_is_said():
    class Pair(NamedTuple):
        x: float

    for program, reason in (
        (lambda x: cb.debug.callback(record, x, np.sum), "not arrays .here .*function"),
        (lambda x: cb.pure_callback(lambda p: p.x, x, Pair(x)), "not in types of your own"),
        (lambda x: cb.pure_callback(adds(1), x, x), "with `def` at the top level"),
        (_cfunction(), "a C function from a shared library"),
    ):
        with pytest.warns(cb.ExportWarning, match=reason):
            export.export(jax.jit(program), disabled_checks=cb.EXPORT_CHECKS)(SCALAR)


@pytest.mark.parametrize(
    ("program", "target"),
    [
        (lambda x: cb.pure_callback(np.sin, x, x), "callbax_call"),
        (lambda x: cb.debug.print("{}", x), "callbax_call"),
        (cb.scipy.special.j0, "callbax_loop"),
    ],
    ids=["call", "print", "loop"],
)
def test_without_the_checks_jax_says_which_calls_it_does_not_know(program, target):
    with pytest.raises(ValueError, match=f"(?s)custom calls whose targets.*{target}") as info:
        export.export(jax.jit(program))(SCALAR)
    (note,) = [note for note in info.value.__notes__ if note.startswith("callbax: ")]
    assert "disabled_checks=callbax.EXPORT_CHECKS" in note and "callbax.allow" in note


def test_what_jax_says_of_other_calls_has_no_note_of_callbaxs():
    with pytest.raises(ValueError, match="custom calls whose targets") as info:
        export.export(jax.jit(lambda x: jax.ffi.ffi_call("others", x)(x)))(SCALAR)
    assert not any("callbax" in note for note in getattr(info.value, "__notes__", []))


def test_programs_for_other_platforms_alone_are_refused_by_name():
    program = jax.jit(lambda x: cb.pure_callback(np.sin, x, x))
    with pytest.raises(NotImplementedError, match="sin.* exported for rocm alone"):
        export.export(program, platforms=("rocm",), disabled_checks=cb.EXPORT_CHECKS)(SCALAR)


def test_effects_are_made_readable_only_where_that_works():
    class Equal:
        def __eq__(self, other):
            return type(other) is Equal

        def __hash__(self):
            return 0

    class Single:
        pass

    class Stubborn:
        def __init__(self, text):
            pass

    equal, single = Equal(), Single()
    assert saved_programs._make_single(equal) and Equal() is not equal
    assert saved_programs._make_single(single) and Single() is single
    assert type(type("Other", (Single,), {})()).__name__ == "Other"
    assert not saved_programs._make_single(Stubborn("")) and "__new__" not in vars(Stubborn)
    for effect in (_jax.IO_EFFECT, _jax.ORDERED_IO_EFFECT, _jax.DEBUG_EFFECT):
        assert type(effect)() is effect
        assert pickle.loads(pickle.dumps(effect)) is effect


def test_jax_keeps_its_own_way_where_its_rule_is_another(monkeypatch):
    monkeypatch.setattr(saved_programs._export, "_check_module", None)
    assert not saved_programs.note_at_refusals(("callbax_call",), "note")
    monkeypatch.setattr(saved_programs._export, "_call_exported_lowering", lambda ctx, *args: None)
    assert not saved_programs.mark_loaded_programs(("callbax_call",), "needs_pool", "keeps_objects")


@pytest.mark.parametrize("effects", ["ordered", "ordered_debug"])
def test_ordered_results_of_symbolic_shape_are_refused(effects):
    f = cb.external(np.sin, result="broadcast", effects=effects)
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("n"), np.float32)
    make = export.export(jax.jit(f), disabled_checks=cb.EXPORT_CHECKS)
    with pytest.raises(NotImplementedError, match=r"sin.*is ordered and has a result of symbolic"):
        make(shape)
    # Known shapes travel, and unordered calls of any shape.
    x = np.arange(3, dtype=np.float32)
    assert np.allclose(make(x).call(x), np.sin(x))
    g = cb.external(np.sin, result="broadcast", effects="io")
    exported = export.export(jax.jit(g), disabled_checks=cb.EXPORT_CHECKS)(shape)
    assert np.allclose(exported.call(x), np.sin(x))


# -- on several devices, for several platforms -----------------------------------------------------
BOTH = ("cpu", "cuda")


def sharded(program, platforms):
    """Exports it for an argument that four devices share; returns it, and such an argument."""
    mesh = jax.make_mesh((4,), ("x",), devices=devices(4))
    x = jax.device_put(jnp.arange(8, dtype=np.float32), jax.NamedSharding(mesh, jax.P("x")))
    exporting = export.export(
        jax.jit(program), platforms=platforms, disabled_checks=cb.EXPORT_CHECKS
    )
    return exporting(x), x


def targets_in(exported):
    return set(re.findall(r"custom_call @(\w*(?:call|callback)\w*)", exported.mlir_module()))


def test_a_sharded_program_for_cpu_and_gpu_names_callbaxs_handler_on_both():
    exported, x = sharded(lambda x: cb.pure_callback(np.square, x, x) + 1, BOTH)
    assert targets_in(exported) == {"xla_python_gpu_callback"}
    loaded = export.deserialize(exported.serialize())
    assert loaded.platforms == BOTH
    np.testing.assert_array_equal(jax.jit(loaded.call)(x), np.arange(8) ** 2 + 1)


def test_calls_on_each_device_have_a_name_for_each_platform():
    def program(x):
        cb.debug.callback(np.square, x, partitioned=True)
        return x

    for platform, name in (("cpu", "gpu"), ("cuda", "cpu")):
        exported, _ = sharded(program, (platform,))
        assert targets_in(exported) == {f"xla_ffi_partitioned_python_{name}_callback"}
    with pytest.raises(NotImplementedError, match=r"calls square, .*\(cpu, cuda\)\. .* for each"):
        sharded(program, BOTH)
