"""Names in programs, and what is shared between calls."""

import functools
import gc
import math
import subprocess
import sys
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import names_in

import callbax as cb

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


def square(x):
    return np.square(x)


def name_of(function, *args):
    program = jax.jit(lambda *a: cb.pure_callback(function, SCALAR, *a))
    (name,) = names_in(program.lower(*args).as_text())
    return name


def test_importable_functions_are_named_by_module_and_qualified_name():
    one = np.float32(1)
    assert name_of(np.square, one)["function"] == "numpy:square"
    assert name_of(math.hypot, one, one)["function"] == "math:hypot"


def test_structure_of_the_arguments_is_part_of_the_name():
    name = name_of(np.square, {"a": np.float32(1), "b": (np.float32(2), None)})
    arguments = ["tuple", ["dict", ["a", 0], ["b", ["tuple", 0, None]]]]
    assert name == {"function": "numpy:square", "structure": [arguments, ["dict"]]}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "source",
    [
        "cb.pure_callback(np.square, x, x)",
        "cb.io_callback(np.square, x, x, ordered=True)",
        "(cb.debug.print('x = {}', x, ordered=True), x)[1]",
        "cb.pure_callback(scipy.special.jv, x, x, x, vmap_method='expand_dims')",
        "cb.pure_callback(lambda x: x, x, x)",
        "cb.pure_callback(of_main, x, x)",
        "(cb.debug.callback(print, 'x is', x), x)[1]",
        "jax.vmap(cb.external(lambda x: x, result=cb.like(0), vmap_method='threads'))(x)",
    ],
)
def test_programs_are_byte_identical_in_two_processes(source):
    program = f"""
import jax, numpy as np, scipy.special, callbax as cb
def of_main(x): return x
x = jax.ShapeDtypeStruct((3,), "float32")
print(jax.jit(lambda x: {source}).lower(x).as_text())
"""
    texts = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(texts) == 1
    assert "callbax_call" in texts.pop()


def test_other_functions_get_a_label_and_a_number():
    one = np.float32(1)
    partial = name_of(functools.partial(np.add, 1), one)
    assert partial == {"local": "partial", "number": partial["number"]}
    here = "test_other_functions_get_a_label_and_a_number.<locals>.<lambda>"
    first, second = (lambda x: x), (lambda x: x)
    programs = [jax.jit(lambda x, f=f: cb.pure_callback(f, SCALAR, x)) for f in (first, second)]
    lowered = [program.lower(one) for program in programs]
    assert [names_in(one.as_text()) for one in lowered] == [
        [{"local": here, "number": 0}],
        [{"local": here, "number": 1}],
    ]


def test_numbers_of_functions_that_are_gone_are_used_again():
    def name_of_a_fresh_function():
        def fresh(x):
            return x

        program = jax.jit(lambda x: cb.pure_callback(fresh, SCALAR, x))
        lowered = program.lower(np.float32(1))
        return names_in(lowered.as_text())[0]["number"], lowered

    number, lowered = name_of_a_fresh_function()
    kept = [name_of_a_fresh_function() for _ in range(20)]
    assert sorted([number, *(other for other, _ in kept)]) == list(range(21))
    del lowered, kept
    jax.clear_caches()
    gc.collect()
    assert name_of_a_fresh_function()[0] == 0


def test_a_redefined_function_is_not_mistaken_for_its_predecessor():
    module = types.ModuleType("module_with_a_cell")
    sys.modules[module.__name__] = module
    try:
        exec("def f(x): return x + 1", module.__dict__)
        first = module.f
        old = jax.jit(lambda x: cb.pure_callback(first, SCALAR, x))
        assert old(1.0) == 2
        exec("def f(x): return x + 10", module.__dict__)
        new = jax.jit(lambda x: cb.pure_callback(module.f, SCALAR, x))
        assert new(1.0) == 11
        assert old(1.0) == 2
        assert cb.pure_callback(first, SCALAR, 1.0) == 2
    finally:
        del sys.modules[module.__name__]


def test_a_program_finds_an_importable_function_that_nothing_else_keeps_registered():
    lowered = jax.jit(lambda x: cb.pure_callback(square, SCALAR, x)).lower(np.float32(3))
    jax.clear_caches()
    gc.collect()
    assert lowered.compile()(np.float32(3)) == 9


def test_equal_calls_are_traced_and_compiled_once():
    traced = []

    def program(x):
        traced.append(x)
        return cb.pure_callback(square, SCALAR, x)

    jitted = jax.jit(program)
    for i in range(3):
        jitted(np.float32(i))
    assert len(traced) == 1
    assert jitted._cache_size() == 1


def test_bound_methods_and_lambdas_of_one_object_share_a_compilation(count_compilations):
    class Model:
        def double(self, x):
            return 2 * x

    model = Model()
    same = lambda x: x  # noqa: E731
    with count_compilations() as count:
        for i in range(3):
            assert cb.pure_callback(model.double, SCALAR, np.float32(i)) == 2 * i
    assert count() == 1
    with count_compilations() as count:
        for i in range(3):
            cb.pure_callback(same, SCALAR, np.float32(i))
    assert count() == 1


@pytest.fixture
def count_compilations():
    import contextlib

    @contextlib.contextmanager
    def counting():
        seen = []

        def listener(name, *_, **__):
            if name == "/jax/core/compile/backend_compile_duration":
                seen.append(name)

        jax.monitoring.register_event_duration_secs_listener(listener)
        try:
            yield lambda: len(seen)
        finally:
            jax.monitoring.unregister_event_duration_listener(listener)

    return counting


def test_the_executable_keeps_the_callback_alive_and_lets_it_go():
    def program():
        def fresh(x):
            return x + 1

        return jax.jit(lambda x: cb.pure_callback(fresh, SCALAR, x)), weakref.ref(fresh)

    jitted, alive = program()
    compiled = jitted.lower(np.float32(1)).compile()
    assert jitted(1.0) == 2
    del jitted
    gc.collect()
    assert compiled(np.float32(2)) == 3
    assert alive() is not None
    del compiled
    jax.clear_caches()
    gc.collect()
    assert alive() is None


def test_callables_that_cannot_be_hashed():
    class Unhashable:
        __hash__ = None

        def __eq__(self, other):
            return True

        def __call__(self, x):
            return x + self.offset

    one, two = Unhashable(), Unhashable()
    one.offset, two.offset = 1, 2
    assert jax.jit(lambda x: cb.pure_callback(one, SCALAR, x))(1.0) == 2
    assert jax.jit(lambda x: cb.pure_callback(two, SCALAR, x))(1.0) == 3


@pytest.mark.parametrize("name_is_stable", [True, False])
def test_one_function_in_calls_with_different_options(name_is_stable):
    function = square if name_is_stable else lambda x: x * x
    one = np.float32(3)
    calls = [
        lambda x: cb.pure_callback(function, SCALAR, x),
        cb.external(function, result=cb.like(0)),
        cb.external(function, result=lambda x: {"a": x}),
        cb.external(lambda x, out: np.square(x, out=out), result=cb.like(0), out=True),
    ]
    programs = [jax.jit(call) for call in calls]
    results = [jax.tree.leaves(program(one)) for program in programs]
    assert [float(result[0]) for result in results] == [9.0] * 4
