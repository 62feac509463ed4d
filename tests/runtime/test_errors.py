"""What a failing callback leaves behind: messages, the exception itself, a usable process."""

import array
import contextlib
import dataclasses
import functools
import gc
import inspect
import io
import logging
import re
import traceback
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import callbax as cb
from callbax._jax.frames import PACKAGE
from callbax._runtime import threads

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)
FLAVOURS = {
    "pure_callback": lambda f, x: cb.pure_callback(f, SCALAR, x),
    "io_callback": lambda f, x: cb.io_callback(f, SCALAR, x),
    "io_callback ordered": lambda f, x: cb.io_callback(f, SCALAR, x, ordered=True),
    "debug.callback": lambda f, x: cb.debug.callback(f, x),
}


@pytest.fixture(autouse=True)
def quiet_log(caplog):
    caplog.set_level(logging.CRITICAL + 1, "callbax")


def failure(function, *args):
    with pytest.raises(Exception) as info:
        jax.block_until_ready(function(*args))
        cb.effects_barrier()
    return info.value


def raises(error):
    def user_function(x):
        raise error

    return user_function


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_message_names_the_callback_its_place_and_the_users_traceback(flavour):
    function = raises(ValueError("nothing to see"))
    error = failure(jax.jit(lambda x: FLAVOURS[flavour](function, x)), 1.0)
    assert isinstance(error, jax.errors.JaxRuntimeError)
    message = str(error)
    line = inspect.getsourcelines(function)[1]
    assert f"callbax.{flavour.split()[0]}: the callback" in message
    assert f"user_function ({__file__}:{line})" in message
    assert "Traceback (most recent call last)" in message
    assert "raise error" in message
    assert "ValueError: nothing to see" in message
    assert "callbax/_" not in message


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_original_exception_gives_back_the_very_object(flavour, kind):
    raised = []

    def user_function(x):
        raised.append(kind("mine"))
        raise raised[-1]

    program = jax.jit(lambda x: FLAVOURS[flavour](user_function, x))
    for _ in range(3):
        original = cb.original_exception(failure(program, 1.0))
        assert original is raised[-1]
        frames = traceback.extract_tb(original.__traceback__)
        assert [frame.name for frame in frames] == ["user_function"]


def test_reraise_raises_the_original_with_jaxs_error_as_its_cause():
    original = ZeroDivisionError("mine")
    with pytest.raises(ZeroDivisionError) as info, cb.reraise():
        cb.pure_callback(raises(original), SCALAR, 1.0).block_until_ready()
    assert info.value is original
    assert isinstance(info.value.__cause__, jax.errors.JaxRuntimeError)


def test_reraise_lets_other_errors_and_results_through():
    with cb.reraise():
        value = cb.pure_callback(np.negative, SCALAR, 1.0)
    assert value == -1
    with pytest.raises(KeyError, match="other"), cb.reraise():
        raise KeyError("other")
    assert cb.original_exception(RuntimeError("unrelated")) is None
    with pytest.raises(TypeError, match="takes the exception that JAX raised, but got .* type str"):
        cb.original_exception("an error")


def test_original_exception_is_found_through_causes():
    original = ValueError("deep")
    jax_error = failure(lambda: cb.pure_callback(raises(original), SCALAR, 1.0))
    try:
        raise RuntimeError("wrapped") from jax_error
    except RuntimeError as outer:
        assert cb.original_exception(outer) is original


def test_the_newest_exceptions_are_kept():
    errors = []
    program = jax.jit(lambda x: cb.pure_callback(lambda x: [][int(x)], SCALAR, x))
    for i in range(80):
        errors.append(failure(program, float(i)))
    assert isinstance(cb.original_exception(errors[-1]), IndexError)
    assert cb.original_exception(errors[0]) is None


@pytest.mark.parametrize(
    ("result", "phrase"),
    [
        ((1.0, 2.0), "Mismatched number of outputs from callback. Expected: 1, Actual: 2"),
        (None, "Mismatched number of outputs from callback. Expected: 1, Actual: 0"),
        (
            np.zeros((2,), np.float32),
            "Incorrect output shape for return value #0: Expected: (), Actual: (2,)",
        ),
        (
            np.int32(1),
            "Incorrect output dtype for return value #0: Expected: float32, Actual: int32",
        ),
        ("text", "Incorrect output dtype for return value #0: Expected: float32, Actual: <U4"),
        (object(), "Incorrect output dtype for return value #0: Expected: float32, Actual: object"),
    ],
)
def test_results_that_do_not_fit(result, phrase):
    def returns_it(x):
        return result

    error = failure(lambda: cb.pure_callback(returns_it, SCALAR, 1.0))
    assert phrase in str(error)
    assert "returns_it (" in str(error)
    assert "result_shape_dtypes" in str(error)
    assert isinstance(cb.original_exception(error), cb.CallbackResultError)
    assert isinstance(cb.original_exception(error), cb.CallbackError)
    assert isinstance(cb.original_exception(error), RuntimeError)


def test_an_array_conversion_that_raises():
    class Hostile:
        def __array__(self, *args, **kwargs):
            raise OSError("no array today")

    error = failure(lambda: cb.pure_callback(lambda x: Hostile(), SCALAR, 1.0))
    assert isinstance(cb.original_exception(error), OSError)


@pytest.mark.parametrize(
    "text", ["", "100 % {} %s", "nul \0 inside", "\ud800 surrogate", "x" * 10**6]
)
def test_odd_messages(text):
    error = failure(lambda: cb.pure_callback(raises(ValueError(text)), SCALAR, 1.0))
    assert isinstance(cb.original_exception(error), ValueError)
    assert cb.original_exception(error).args == (text,)


def test_an_exception_whose_text_raises():
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError("cannot be printed")

    error = failure(lambda: cb.pure_callback(raises(Unprintable()), SCALAR, 1.0))
    assert isinstance(cb.original_exception(error), Unprintable)


def test_failures_are_logged_with_their_traceback(caplog):
    caplog.set_level(logging.ERROR, "callbax")
    failure(lambda: cb.pure_callback(raises(ValueError("for the log")), SCALAR, 1.0))
    (record,) = [r for r in caplog.records if r.name == "callbax"]
    assert record.levelno == logging.ERROR
    assert "callbax.pure_callback failed in" in record.getMessage()
    assert record.exc_info[0] is ValueError


def test_the_process_stays_usable_after_each_failure():
    failing = True

    def callback(x):
        if failing:
            raise ValueError("now and then")
        return x

    for call in FLAVOURS.values():
        program = jax.jit(lambda x, call=call: (call(callback, x), x))
        failing = True
        for _ in range(3):
            failure(program, 1.0)
        failing = False
        assert program(2.0)[1] == 2
        cb.effects_barrier()


def test_a_failing_lane_stops_the_batch():
    seen = []

    def callback(x):
        seen.append(int(x))
        if x == 2:
            raise ValueError("lane 2")
        return x

    error = failure(jax.vmap(lambda x: cb.pure_callback(callback, SCALAR, x)), jnp.arange(5.0))
    assert "lane 2" in str(error)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("options", [{"ordered": True}, {}])
def test_error_after_error_and_the_next_barrier_is_clean(options):
    program = jax.jit(
        lambda a: cb.io_callback(raises(ValueError("x")), SCALAR, (a @ a).sum(), **options)
    )
    for _ in range(3):
        failure(program, jnp.ones((300, 300)))
        cb.effects_barrier()


def test_an_error_that_came_while_another_was_handled_is_not_taken_for_it():
    jax_error = failure(lambda: cb.pure_callback(raises(ValueError("handled")), SCALAR, 1.0))
    with pytest.raises(KeyError, match="other"):
        try:
            raise jax_error
        except jax.errors.JaxRuntimeError:
            with cb.reraise():
                raise KeyError("other")  # noqa: B904


def test_marks_of_other_processes_are_not_this_ones():
    error = failure(lambda: cb.pure_callback(raises(ValueError("mine")), SCALAR, 1.0))
    (token, number) = re.search(r"\[callbax error (\w+)-(\d+)\]", str(error)).groups()
    assert isinstance(cb.original_exception(error), ValueError)
    other = "0" * len(token)
    foreign = jax.errors.JaxRuntimeError(str(error).replace(token, other))
    assert cb.original_exception(foreign) is None
    foreign.__context__ = error
    assert cb.original_exception(foreign) is None
    assert cb.original_exception(RuntimeError(f"[callbax error {number}]")) is None


def held(makes):
    """How many of 12 failures are kept, where each holds what `makes` returns (40 MB)."""

    def callback(x):
        raise makes(x)

    large = jax.ShapeDtypeStruct((10_000_000,), jnp.float32)
    program = jax.jit(lambda: cb.pure_callback(callback, SCALAR, jnp.zeros(large.shape)))
    errors = [failure(program) for _ in range(12)]
    assert cb.original_exception(errors[-1]) is not None
    return sum(cb.original_exception(error) is not None for error in errors)


class Holder:
    def __init__(self, array):
        self.array = array


class Brief(ValueError):
    """Its text has nothing of its arguments: that of 40 MB of bytes has 160 million characters."""

    def __str__(self):
        return "brief"


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "makes",
    [
        ValueError,
        lambda x: ValueError([{"nested": (x[1:], 1)}]),
        lambda x: ValueError(Holder(x)),
        lambda x: ExceptionGroup("group", [ValueError(x)]),
        lambda x: Brief(x.tobytes()),
        lambda x: ValueError(jnp.asarray(x)),
        lambda x: ValueError(memoryview(x)),
    ],
    ids=["arguments", "containers", "objects", "groups", "bytes", "jax arrays", "memoryviews"],
)
def test_large_arrays_of_old_exceptions_are_let_go(makes):
    assert held(makes) <= 8


def test_arrays_in_variables_causes_and_contexts_count():
    def callback(x):
        try:
            raise ValueError(x.copy())
        except ValueError:
            del x
            raise KeyError("last")  # noqa: B904

    program = jax.jit(lambda: cb.pure_callback(callback, SCALAR, jnp.zeros(10_000_000)))
    errors = [failure(program) for _ in range(12)]
    assert sum(cb.original_exception(error) is not None for error in errors) <= 8


def test_what_all_exceptions_share_does_not_count_against_them():
    weights = np.zeros(100_000_000)  # 800 MB, of which no page is touched

    def callback(x):
        assert len(weights) == x

    program = jax.jit(lambda x: cb.pure_callback(callback, SCALAR, x))
    errors = [failure(program, float(i)) for i in range(10)]
    assert all(isinstance(cb.original_exception(error), AssertionError) for error in errors)


def note_of(error):
    return [note for note in error.__notes__ if note.startswith("callbax: in ")]


def test_a_note_says_in_which_call_an_error_came():
    error = failure(lambda: cb.pure_callback(raises(ValueError("x")), SCALAR, jnp.zeros((2, 3))))
    (note,) = note_of(cb.original_exception(error))
    assert note.startswith("callbax: in the call of raises.<locals>.user_function (")
    assert note.endswith("), with arguments float32[2,3]")
    assert note in str(error)


def test_a_note_says_that_there_were_no_arguments():
    def callback():
        raise ValueError

    (note,) = note_of(cb.original_exception(failure(lambda: cb.pure_callback(callback, SCALAR))))
    assert note.endswith(", without arguments")


@pytest.mark.parametrize("how", ["native", "io", "eager debug", "external", "threads", "whole"])
def test_a_note_says_in_which_lane_an_error_came(how):
    def callback(x, y):
        if np.any(x == 2):
            raise ValueError("two")
        return x

    calls = {
        "native": lambda x, y: cb.pure_callback(callback, SCALAR, x, y),
        "io": lambda x, y: cb.io_callback(callback, SCALAR, x, y),
        "eager debug": lambda x, y: cb.debug.callback(callback, x, y),
        "external": cb.external(callback, result=SCALAR),
        "threads": cb.external(callback, result=SCALAR, vmap_method="threads"),
        "whole": cb.external(callback, result=SCALAR, vmap_method="expand_dims"),
    }
    y = jnp.zeros(5, jnp.int32)

    def run():
        return jax.vmap(calls[how], in_axes=(0, None))(jnp.arange(4.0), y)

    if how == "eager debug":
        with pytest.raises(ValueError, match="two") as info:
            run()
        original = info.value
    else:
        original = cb.original_exception(failure(run))
    (note,) = note_of(original)
    name = "test_a_note_says_in_which_lane_an_error_came.<locals>.callback ("
    if how == "whole":
        assert note.startswith(f"callbax: in the call of {name}")
        assert note.endswith(", with arguments float32[4], int32[1,5]")
    else:
        assert note.startswith(f"callbax: in lane 2 of a batch of 4 of {name}")
        assert note.endswith(", with arguments float32[], int32[5]")


@pytest.mark.parametrize("how", ["native", "eager debug", "threads"])
def test_the_lane_of_nested_batches(how):
    """The outermost `vmap` comes first."""

    def callback(x):
        if x == 3:
            raise ValueError
        return np.float32(x)

    calls = {
        "native": lambda x: cb.io_callback(callback, SCALAR, x),
        "eager debug": lambda x: cb.debug.callback(callback, x),
        "threads": cb.external(callback, result=SCALAR, vmap_method="threads"),
    }
    f = jax.vmap(jax.vmap(calls[how]))
    error = failure(f, jnp.arange(6.0).reshape(2, 3))
    (note,) = note_of(error if how == "eager debug" else cb.original_exception(error))
    assert "in lane (1, 0) of a batch of 2 x 3 of " in note


def test_one_exception_object_has_one_note_of_each_callback():
    shared = ValueError("again")
    shared.add_note("the user's")

    def inner(x):
        raise shared

    def outer(x):
        with cb.reraise():
            return np.asarray(cb.pure_callback(inner, SCALAR, jnp.float32(x)))

    for length in (2, 3):
        error = failure(jax.vmap(lambda x: cb.pure_callback(outer, SCALAR, x)), jnp.ones(length))
        assert cb.original_exception(error) is shared
        assert shared.__notes__[0] == "the user's"
        first, second = note_of(shared)
        assert "the call of" in first and ".inner (" in first
        assert f"lane 0 of a batch of {length} of" in second and ".outer (" in second


def test_reraise_gives_back_stop_iteration():
    feed = iter([1.0])
    program = jax.jit(lambda: cb.io_callback(lambda: next(feed), SCALAR, ordered=True))
    assert program() == 1
    with pytest.raises(StopIteration), cb.reraise():
        program()

    @cb.reraise()
    def decorated():
        return program()

    with pytest.raises(StopIteration):
        decorated()


@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
@pytest.mark.parametrize("spec", [(3,), jnp.float32, 1.0, "float32", [SCALAR, 2]], ids=repr)
def test_result_specs_that_are_none(flavour, spec):
    def user_function(x):
        return x

    with pytest.raises(
        TypeError, match="must be a pytree of objects with a shape and a dtype"
    ) as info:
        getattr(cb, flavour)(user_function, spec, 1.0)
    assert "user_function (" in str(info.value)
    assert "jax.ShapeDtypeStruct" in str(info.value)


ROUTES_OF_RESULTS = {
    "traced": lambda f, result: jax.jit(lambda x: cb.pure_callback(f, result, x))(1.0),
    "eager": lambda f, result: cb.pure_callback(f, result, jnp.float32(1)),
    "io": lambda f, result: cb.io_callback(f, result, jnp.float32(1)),
    "external": lambda f, result: cb.external(f, result=result)(1.0),
}


@dataclasses.dataclass(frozen=True)
class Described:  # newer ShapeDtypeStructs refuse None themselves
    shape: tuple
    dtype: type = np.float32


@pytest.mark.parametrize("route", ROUTES_OF_RESULTS)
@pytest.mark.parametrize("size", [None, -1])
def test_a_result_of_unknown_size_is_refused_with_the_callback_s_name(route, size):
    def found(x):
        return x

    with pytest.raises(TypeError, match=r"callback .*found \(.*:\d+\) has the shape \(2, .*known"):
        ROUTES_OF_RESULTS[route](found, Described((2, size)))


@pytest.mark.parametrize("call", [cb.pure_callback, cb.io_callback])
def test_a_description_in_the_place_of_an_argument_is_named(call):
    with pytest.raises(TypeError, match=f"callbax.{call.__name__}: argument 0 of sin cannot be"):
        jax.jit(lambda x: call(np.sin, x, SCALAR))(1.0)


def test_tracebacks_show_no_frames_of_callbax():
    def fails(x):
        raise ValueError("of the callback")

    def user_function(x):
        return cb.pure_callback(fails, x, x)

    for transform in (jax.jit, jax.vmap):
        with pytest.raises(jax.errors.JaxRuntimeError) as info:
            jax.block_until_ready(transform(user_function)(jnp.ones(2)))
        files = {frame.filename for frame in traceback.extract_tb(info.value.__traceback__)}
        assert files == {__file__}


def fails(*args):
    raise ValueError("of the callback")


EAGER_ERRORS = {
    "pure": lambda: cb.pure_callback(fails, SCALAR, 1.0),
    "io": lambda: cb.io_callback(fails, None, 1.0),
    "debug": lambda: cb.debug.callback(fails, 1.0),
    "watch": lambda: cb.debug.watch(fails, 1.0),
    "external": lambda: cb.external(fails, result=SCALAR)(1.0),
    "where": lambda: cb.external(fails, result=SCALAR).call_where(3, 1.0),
    "result": lambda: cb.pure_callback(fails, 3, 1.0),
    "print": lambda: cb.debug.print("{}"),
    "log": lambda: cb.debug.log("{}"),
    "gradient": lambda: cb.debug.on_gradient(1.0, 2),
    "ufunc": lambda: cb.ufunc(np.sin)(1.0, 2.0),
    "tap": lambda: cb.host_callback.id_tap(fails, "x"),
    "call": lambda: cb.host_callback.call(fails, 1.0, result_shape=3.0),
}


@pytest.mark.parametrize("name", EAGER_ERRORS)
def test_tracebacks_of_eager_calls_lead_from_the_users_line_to_the_users_code(name):
    with pytest.raises(Exception) as info:
        EAGER_ERRORS[name]()
    frames = traceback.extract_tb(info.value.__traceback__)
    assert not [frame for frame in frames if frame.filename.startswith(PACKAGE)]
    assert [frame.filename for frame in frames[:2]] == [__file__, __file__]


def test_all_frames_are_shown_if_jax_is_told_so():
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        with pytest.raises(TypeError) as info:
            EAGER_ERRORS["result"]()
    finally:
        jax.config.update("jax_traceback_filtering", before)
    assert "_aval" in [frame.name for frame in traceback.extract_tb(info.value.__traceback__)]


def test_the_log_shows_no_frames_of_callbax(caplog):
    caplog.set_level(logging.ERROR, "callbax")
    for name in ("pure", "io", "debug", "watch", "external"):
        caplog.clear()
        with pytest.raises((ValueError, jax.errors.JaxRuntimeError)):
            EAGER_ERRORS[name]()
        threads.finish_logging()
        [record] = caplog.records
        assert [frame.name for frame in traceback.extract_tb(record.exc_info[2])] == ["fails"], name


def test_a_warning_is_of_the_users_line():
    with pytest.warns(DeprecationWarning, match="vectorized") as warned:
        cb.pure_callback(np.sin, SCALAR, 1.0, vectorized=True)
    assert warned[0].filename == __file__


def test_a_coroutine_is_not_a_result():
    async def coroutine_function():
        return 1.0

    coroutine = coroutine_function()
    error = failure(lambda: cb.pure_callback(lambda x: coroutine, jnp.zeros(3), 1.0))
    coroutine.close()  # it was never awaited, and the exception is kept
    assert "returned a value of type coroutine, which is not an array of numbers" in str(error)
    assert "asyncio.run" in str(error)


def test_a_list_counts_as_several_results():
    error = failure(lambda: cb.pure_callback(lambda x: [1.0, 2.0], jnp.zeros(2), 1.0))
    assert "numpy.asarray makes it one" in str(error)


def test_a_function_without_a_return_statement_is_asked_for_one():
    error = failure(lambda: cb.pure_callback(lambda x: None, SCALAR, 1.0))
    assert "It may lack a return statement." in str(error)


def test_a_python_number_of_another_kind_is_converted_by_what_takes_numbers():
    error = failure(lambda: cb.pure_callback(lambda x: 1, SCALAR, 1.0))
    assert "convert the result with numpy.asarray(..., 'float32')" in str(error)


@pytest.mark.full  # it takes seconds
@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "make",
    [
        lambda: list(map(float, range(500_000))),
        lambda: {str(i): str(i) * 20 for i in range(200_000)},
        lambda: [np.ones(100) for _ in range(20_000)],
        lambda: array.array("d", bytes(1 << 24)),
        lambda: io.BytesIO(bytes(1 << 24)),
        lambda: functools.reduce(lambda held, _: [held], range(12), np.ones(1 << 21)),
    ],
    ids=["list of floats", "dict of strings", "small arrays", "array.array", "BytesIO", "deep"],
)
def test_what_kept_exceptions_hold_is_bounded_whatever_it_is(make):
    held = []

    class Held:
        pass

    def fails(x):
        marker = Held()
        held.append(weakref.ref(marker))
        large = make()
        raise ConnectionError(len(str(type(large))))

    program = jax.jit(lambda x: cb.pure_callback(fails, SCALAR, x))
    for _ in range(24):
        with pytest.raises(jax.errors.JaxRuntimeError):
            program(1.0).block_until_ready()
    gc.collect()
    assert sum(marker() is not None for marker in held) <= 18  # of 16 MB each


def test_reraise_lets_pass_what_is_raised_from_none():
    def fails(x):
        raise KeyError("of the callback")

    with pytest.raises(SystemError, match="mine"), cb.reraise():
        try:
            cb.pure_callback(fails, SCALAR, 1.0).block_until_ready()
        except jax.errors.JaxRuntimeError:
            raise SystemError("mine") from None


def test_reraise_leaves_an_exception_its_own_cause():
    def fails(x):
        raise KeyError("of the callback") from OSError("root")

    with pytest.raises(KeyError) as caught, cb.reraise():
        cb.pure_callback(fails, SCALAR, 1.0).block_until_ready()
    assert str(caught.value.__cause__) == "root"
    assert type(caught.value.__context__) is jax.errors.JaxRuntimeError


EMPTY = jax.ShapeDtypeStruct((3,), jax.dtypes.float0)
COMPILED = {
    "without jit": lambda f, x: f,
    "jit": lambda f, x: jax.jit(f),
    "ahead of time": lambda f, x: jax.jit(f).lower(x).compile(),
    "beside an argument": lambda f, x: jax.jit(lambda x: (f(x), x)),
}


@pytest.mark.parametrize("is_ready", [True, False], ids=["ready", "computing"])
@pytest.mark.parametrize("transform", COMPILED)
@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
@pytest.mark.parametrize("results", [EMPTY, (EMPTY, EMPTY)], ids=["one", "two"])
def test_a_call_whose_results_have_no_data_raises(flavour, results, transform, is_ready):
    """Nobody waits for those, and what fails on a thread of XLA's, or on a GPU, comes with results."""
    busy = jax.jit(lambda x: jax.lax.fori_loop(0, 8, lambda i, x: jnp.sin(x @ x), x)[0, 0])

    def fails(x, empty):
        raise KeyError("boom")

    def call(x):
        return getattr(cb, flavour)(fails, results, x, np.zeros(3, EMPTY.dtype))

    program = COMPILED[transform](call, jnp.float32(1))
    for _ in range(2):
        x = jnp.float32(1) if is_ready else busy(jnp.ones((600, 600)))
        with pytest.raises(Exception) as caught:
            jax.block_until_ready(program(x))
        assert cb.original_exception(caught.value).args == ("boom",)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            cb.effects_barrier()  # on the portable runtime it raises, too
