"""Running one program through `jax.*` and through `callbax.*`, and comparing what is observed.

A program is a function of a library and a recorder:

    def program(library, record):
        return jax.jit(lambda x: library.pure_callback(record, x, x))(2.0)

    outcome = both(program)          # fails unless both libraries did the same
    assert outcome.calls == [2.0]    # and this says what that should have been
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental import io_callback

import callbax


@dataclasses.dataclass(frozen=True)
class Library:
    """The callbacks of one of the two libraries."""

    name: str
    pure_callback: Callable[..., Any]
    io_callback: Callable[..., Any]
    debug: Any
    effects_barrier: Callable[[], None]
    around: Callable[[], Any] = contextlib.nullcontext

    def __str__(self) -> str:
        return self.name


JAX = Library("jax", jax.pure_callback, io_callback, jax.debug, jax.effects_barrier)
CALLBAX = Library(
    "callbax", callbax.pure_callback, callbax.io_callback, callbax.debug, callbax.effects_barrier
)
# JAX's own functions on callbax's runtime. With this variable set, tests of what both libraries do run
# these in place of callbax's.
INSTALLED = dataclasses.replace(JAX, around=callbax.installed)
LIBRARIES = (JAX, INSTALLED if os.environ.get("CALLBAX_PARITY") == "installed" else CALLBAX)

EACH_LIBRARY = pytest.mark.parametrize("library", LIBRARIES, ids=str)
EAGER_AND_JIT = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])


def output(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The words that a program has printed, if it ended well."""
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def xla_flags(devices: int) -> str:
    """What XLA reads in another process: as here, but with so many devices of the CPU."""
    return re.sub(r"(?<=host_platform_device_count=)\d+", str(devices), os.environ["XLA_FLAGS"])


def devices(count: int) -> list[jax.Device]:
    """The first devices. A machine with fewer skips the test, or the file."""
    if jax.device_count() < count:
        pytest.skip(f"needs {count} devices", allow_module_level=True)
    return jax.devices()[:count]


def skip_unless_jax_has(dtype: Any) -> None:
    """Skips the test where JAX's own callbacks do not take and give arrays of this type."""
    if not _makes_the_round_trip(np.dtype(dtype)):
        pytest.skip(f"JAX's callbacks do not do {np.dtype(dtype)} on {jax.default_backend()}")


@functools.cache
def _makes_the_round_trip(dtype: np.dtype) -> bool:
    """On GPUs, JAX's callbacks take packed values, of 2 and 4 bits, for bytes."""
    x = np.ones(5, dtype)
    seen = []

    def look(x: Any) -> Any:
        seen.append(np.asarray(x).tobytes())
        return x

    try:
        with jax.enable_x64(True):
            result = jax.jit(lambda x: jax.pure_callback(look, x, x))(x)
            return [*seen, np.asarray(result).tobytes()] == [x.tobytes()] * 2
    except Exception:  # noqa: BLE001 - however JAX says so
        return False


Program = Callable[[Library, "Recorder"], Any]


def names_in(text: str) -> list[dict[str, Any]]:
    """The names of callbacks and loops in the text of a program."""
    found = re.findall(r'(?:callback|loop) = "([^"]*)"', text)
    return [json.loads(name.replace(r"\22", '"').replace(r"\\", "\\")) for name in found]


class Recorder:
    """A callback that remembers the values it was called with, as Python numbers and lists.

    JAX's callbacks get jax Arrays and callbax's get NumPy arrays; here they look the same.
    """

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, *args: Any) -> Any:
        """Records the arguments and returns the first."""
        self.seen(*args)
        return np.asarray(args[0])

    def seen(self, *args: Any, **kwargs: Any) -> None:
        """Records the arguments and returns nothing."""
        values = [plain(arg) for arg in args]
        if kwargs:
            values.append({name: plain(value) for name, value in kwargs.items()})
        self.calls.append(values[0] if len(values) == 1 else tuple(values))

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with each call recorded and with NumPy arrays as its arguments."""

        def recorded(*args: Any, **kwargs: Any) -> Any:
            self.seen(*args, **kwargs)
            args, kwargs = jax.tree.map(np.asarray, (args, kwargs))
            return function(*args, **kwargs)

        return recorded


def plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return np.asarray(value).tolist()
    if isinstance(value, (tuple, list)):
        return type(value)(plain(item) for item in value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


@dataclasses.dataclass
class Outcome:
    """What could be observed of one run of a program."""

    value: Any
    calls: list[Any]
    printed: list[str]
    error: BaseException | None

    @property
    def sorted_calls(self) -> list[Any]:
        return sorted(self.calls, key=repr)


def run(library: Library, program: Program) -> Outcome:
    """Runs the program to its end, the callbacks' too, and catches what it raises."""
    record = Recorder()
    stdout = io.StringIO()
    value, error = None, None
    with contextlib.redirect_stdout(stdout), library.around():
        try:
            value = program(library, record)
            jax.block_until_ready([x for x in jax.tree.leaves(value) if isinstance(x, jax.Array)])
            library.effects_barrier()
        except pytest.skip.Exception:
            raise
        except BaseException as caught:  # noqa: BLE001 (SystemExit is an outcome too)
            error = caught
            _forget_failed_programs()
    return Outcome(value, record.calls, stdout.getvalue().splitlines(), error)


def both(program: Program, *, any_order: bool = False) -> Outcome:
    """Runs the program with each library; both must succeed and be seen to do the same.

    Args:
      any_order: the order of calls and of printed lines is free.

    Returns:
      callbax's outcome.
    """
    theirs, ours = (_succeed(run(library, program)) for library in LIBRARIES)
    assert_same(theirs.value, ours.value)
    _assert_same_sequence(theirs.calls, ours.calls, any_order)
    _assert_same_sequence(theirs.printed, ours.printed, any_order)
    return ours


def both_in_any_order(program: Program) -> Outcome:
    return both(program, any_order=True)


def both_raise(program: Program, error: type[BaseException], phrase: str = "") -> Outcome:
    """Runs the program with each library; both must raise just this type, with the phrase.

    In the phrase, {library} stands for the name of the library.
    """
    outcomes = [run(library, program) for library in LIBRARIES]
    for library, outcome in zip(LIBRARIES, outcomes, strict=True):
        assert outcome.error is not None, f"{library} raised nothing"
        assert type(outcome.error) is error, f"{library} raised {outcome.error!r}"
        expected = phrase.replace("{library}", library.name)
        assert expected in str(outcome.error), f"{library} raised {outcome.error!r}"
    theirs, ours = outcomes
    _assert_same_sequence(theirs.calls, ours.calls, any_order=False)
    return ours


def assert_same(expected: Any, actual: Any) -> None:
    """Two results have the same structure, shapes, dtypes and values (rounding aside)."""
    expected_leaves, expected_tree = jax.tree.flatten(expected)
    actual_leaves, actual_tree = jax.tree.flatten(actual)
    assert expected_tree == actual_tree
    for left, right in zip(expected_leaves, actual_leaves, strict=True):
        if not isinstance(left, (np.ndarray, np.generic, jax.Array)):
            assert left == right
            continue
        left, right = _host_array(left), _host_array(right)
        assert left.dtype == right.dtype
        if left.dtype.kind in "fc":
            np.testing.assert_allclose(left, right, rtol=1e-6, strict=True)
        else:
            np.testing.assert_array_equal(left, right, strict=True)


@contextlib.contextmanager
def compile_count() -> Iterator[list[str]]:
    """Collects one entry for each program that XLA compiles inside the block."""
    compiled: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _succeed(outcome: Outcome) -> Outcome:
    if outcome.error is not None:
        raise outcome.error
    return outcome


def _assert_same_sequence(theirs: list[Any], ours: list[Any], any_order: bool) -> None:
    if any_order:
        theirs, ours = sorted(theirs, key=repr), sorted(ours, key=repr)
    assert theirs == ours


def _forget_failed_programs() -> None:
    """JAX's barrier raises the error of a failed program again and again; callbax's forgets it."""
    with contextlib.suppress(Exception):
        callbax.effects_barrier()


def _host_array(array: Any) -> np.ndarray:
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array)


def finish(program: Callable[..., Any], *args: Any) -> Any:
    """What the program returns, when it and its callbacks have ended."""
    result = jax.block_until_ready(program(*args))
    callbax.effects_barrier()
    return result


def error_of(program: Callable[..., Any], *args: Any) -> BaseException:
    """The exception that a callback of the program raised."""
    with pytest.raises(Exception) as caught:
        finish(program, *args)
    callbax.effects_barrier()  # nothing is left over
    error = callbax.original_exception(caught.value)
    assert error is not None, caught.value
    return error
