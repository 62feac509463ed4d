"""Handlers by frames that no compiler makes: what a program says of its calls is data."""

import contextlib
import json
import threading

import fake_cuda
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from cuda.player import Program, named
from helpers import names_in
from hypothesis import given

import callbax as cb
from callbax import _native

pytestmark = pytest.mark.skipif(fake_cuda.compiler() is None, reason="there is no C++ compiler")

EACH_PLATFORM = pytest.mark.parametrize("platform", ["cpu", "cuda"])
x = np.arange(3, dtype=np.float32)


def double(*arrays):
    return tuple(2 * array for array in arrays) if len(arrays) > 1 else 2 * arrays[0]


def attributes(registration, **others):
    return {"callback": registration.name, "flavour": "pure_callback", **others}


@EACH_PLATFORM
def test_a_call(platform):
    function = named(double, 1)
    program = Program(platform, attributes(function))
    result = np.zeros_like(x)
    for _ in range(3):
        program([x], [result])
        np.testing.assert_array_equal(result, 2 * x)
        result[:] = 0
    program.close()


@EACH_PLATFORM
def test_tokens_and_arrays_without_elements(platform):
    seen = []
    function = named(lambda a, b: seen.append((a.shape, b.tolist())), 2)
    program = Program(platform, attributes(function, no_results=True, ignores_result=True))
    program([None, np.zeros((0, 3), np.float32), x], [None])
    program.close()
    assert seen == [((0, 3), x.tolist())]


@pytest.mark.parametrize("kind", ["callback", "loop"])
def test_a_gpu_without_a_stream(kind):
    if kind == "callback":
        function = named(double, 1)
        program = Program("bare", attributes(function))
        with pytest.raises(RuntimeError, match="XLA has no stream for it"):
            program([x], [x.copy()])
        program.close()
    else:
        with pytest.raises(RuntimeError, match="this program calls the compiled function"):
            Program("bare", {"loop": "nothing"}, kind)


@EACH_PLATFORM
@pytest.mark.parametrize("said", [{}, {"callback": "nothing"}, {"callback": 1}, {"callback": [1]}])
def test_programs_that_do_not_say_what_they_call(platform, said):
    with pytest.raises(RuntimeError, match="callbax: this program calls the host function"):
        Program(platform, said)


@EACH_PLATFORM
@pytest.mark.parametrize("axes", [2, 70])
def test_a_batch_with_more_dimensions_than_its_arrays(platform, axes):
    function = named(double, 1)
    said = {"lanes": [1] * axes, "operand_lanes": [-1]}
    program = Program(platform, attributes(function, **said))
    with pytest.raises(RuntimeError, match="of a batch, with more dimensions than its arrays have"):
        program([x], [x.copy()])
    program.close()


def test_detached_calls_outlive_their_programs(driver):
    seen = []
    function = named(lambda a: seen.append(a.tolist()), 1)
    said = attributes(function, no_results=True, ignores_result=True, detached=True)
    driver.fake_delay(20_000, 20_000)
    for i in range(5):
        program = Program("cuda", said)
        program([x + i], [])
        program.close()
    assert _native.await_detached(60)
    assert seen == [(x + i).tolist() for i in range(5)]


def test_threads_with_a_device_each():
    function = named(double, 1)
    program = Program("cuda", attributes(function))
    wrong = []

    def work(device):
        array = np.full(3, float(device), np.float32)
        for _ in range(100):
            result = np.zeros_like(array)
            program([array], [result], device)
            if (result != 2 * array).any():
                wrong.append((device, result))

    threads = [threading.Thread(target=work, args=(device,)) for device in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    program.close()
    assert wrong == []
    assert _native.cuda_statistics()["held_bytes"] == 0


FLAGS = (
    *("canonicalize", "shared_run", "no_results", "ignores_result", "unheard", "deferred"),
    *("detached", "on_device", "widened", "views", "out", "needs_pool", "fence"),
)
numbers = st.integers(-3, 5) | st.integers(-(2**63), 2**63 - 1)
lists = st.lists(numbers, max_size=4) | st.lists(numbers, min_size=60, max_size=70)
attribute = st.booleans() | numbers | lists | st.text(max_size=5) | st.floats()
said_otherwise = st.fixed_dictionaries(
    {},
    optional={
        **{flag: st.booleans() for flag in FLAGS},
        **dict.fromkeys(("lanes", "operand_lanes", "empty"), lists),
        "casting": st.sampled_from(["", "no", "unsafe", "same_kind", "other"]),
        "configuration": st.text(max_size=5),
    },
)
arrays = st.builds(
    lambda shape, dtype: np.ones(shape, dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(["float32", "bool", "int64", "complex64", "float16"]),
)


def play(platform, said, operands, results, kind="callback"):
    """Whatever the program says, this ends, with nothing left over."""
    try:
        with contextlib.closing(Program(platform, said, kind)) as program:
            program(operands, results)
    except RuntimeError as error:
        assert error.args[1].startswith("callbax"), error
    _native.await_detached(60)
    with contextlib.suppress(Exception):
        cb.effects_barrier()  # raises failures that nothing else has heard of


@EACH_PLATFORM
@given(
    said=said_otherwise,
    wrong=st.dictionaries(
        st.sampled_from((*FLAGS, "lanes", "empty", "casting")), attribute, max_size=2
    ),
    operands=st.lists(arrays | st.none(), max_size=3),
    results=st.lists(arrays | st.none(), max_size=3),
)
def test_whatever_a_program_says_is_a_call_or_an_error(platform, said, wrong, operands, results):
    function = named(double, sum(array is not None for array in operands))
    play(platform, attributes(function, **said) | wrong, operands, results)


@pytest.fixture(scope="module")
def hypot():
    """The name of a loop in programs; one of them is kept, and with it the loop."""
    program = jax.jit(cb.ufunc(np.hypot)).lower(x, x)
    (name,) = names_in(program.as_text())
    compiled = program.compile()
    yield json.dumps(name)
    np.testing.assert_array_equal(compiled(x, x), np.hypot(x, x))


@EACH_PLATFORM
@given(
    said=st.dictionaries(
        st.sampled_from(("errors", "serial", "widened", "shared_run")), attribute, max_size=3
    ),
    operands=st.lists(arrays, max_size=3),
    results=st.lists(arrays, max_size=2),
)
def test_so_it_is_of_loops(platform, hypot, said, operands, results):
    play(platform, {"loop": hypot, **said}, operands, results, "loop")
