"""cb.statistics and cb.record_calls: what calls cost; names in JAX's profiles; nothing when off."""

import glob
import gzip
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from portable_differences import IS_PORTABLE

import callbax as cb
from callbax import _native

X = np.arange(4, dtype=np.float32)
SECONDS = 0.01


def doubled(x):
    return 2 * x


def slow(x):
    time.sleep(SECONDS)  # lets go of the GIL, but it is the function's time
    return x


def failing(x):
    raise ValueError("no")


def call(function):
    return lambda x: cb.pure_callback(function, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


sine = cb.external(np.sin, result="broadcast")
sine.def_host_vjp(lambda primals, result, ct: (np.cos(primals[0]) * ct,))


def looped(loop):
    step = call(doubled)
    return {
        "scan": lambda x: jax.lax.scan(lambda c, _: (step(c), None), x, length=5)[0],
        "fori_loop": lambda x: jax.lax.fori_loop(0, 5, lambda _, c: step(c), x),
        "while_loop": lambda x: jax.lax.while_loop(lambda c: c[0] < 30, step, x + 1),
    }[loop]


MESH = Mesh(np.array(devices(8)), ("i",))
# (program, its argument, calls, bytes in) of `doubled`; XLA's calls if they differ
PROGRAMS = {
    "jit": (call(doubled), X, 1, 16),
    "vmap": (jax.vmap(call(doubled)), X, 4, 16),
    "nested vmap": (jax.vmap(jax.vmap(call(doubled))), X.reshape(2, 2), 4, 16),
    "scan": (looped("scan"), X, 5, 80),
    "fori_loop": (looped("fori_loop"), X, 5, 80),
    "while_loop": (looped("while_loop"), X, 5, 80),
    "cond": (lambda x: jax.lax.cond(x[0] < 1, call(doubled), jnp.sin, x), X, 1, 16),
    "checkpoint": (jax.checkpoint(call(doubled)), X, 1, 16),
    "shard_map": (
        jax.shard_map(call(doubled), mesh=MESH, in_specs=P("i"), out_specs=P("i")),
        np.zeros(8, np.float32),
        8,
        32,
    ),
    "io_callback": (lambda x: cb.io_callback(doubled, X, x), X, 1, 16),
    "ordered": (lambda x: cb.io_callback(doubled, X, x, ordered=True), X, 1, 16),
    "debug": (lambda x: cb.debug.callback(doubled, x), X, 1, 16),
    "threads": (
        jax.vmap(cb.external(doubled, result=cb.like(0), vmap_method="threads")),
        X,
        1,  # of all lanes, which the pool calls
        16,
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_calls_and_bytes(name):
    program, argument, calls, bytes_in = PROGRAMS[name]
    run = jax.jit(program)
    jax.block_until_ready(run(argument))
    cb.effects_barrier()
    with cb.statistics() as statistics, cb.record_calls() as recording:
        jax.block_until_ready(run(argument))
        cb.effects_barrier()
    (found,) = statistics
    assert found.name.startswith("doubled (")
    assert (found.calls, found.bytes_in, found.errors) == (calls, bytes_in, 0)
    assert found.bytes_out == (0 if name == "debug" else bytes_in)
    assert found.seconds > 0 and found.waiting >= 0
    records = recording.calls
    assert sum(record.calls for record in records) == calls
    assert sum(record.bytes_in for record in records) == bytes_in
    assert {record.name for record in records} == {found.name}
    assert sum(record.seconds for record in records) == pytest.approx(found.seconds)
    if not IS_PORTABLE:
        assert len({record.run for record in records}) == 1


@pytest.mark.skipif(not hasattr(jax, "pmap"), reason="a JAX without pmap")
def test_pmap():
    run = jax.pmap(call(doubled))
    jax.block_until_ready(run(np.zeros((8, 1), np.float32)))
    with cb.statistics() as statistics:
        jax.block_until_ready(run(np.zeros((8, 1), np.float32)))
    assert [one.calls for one in statistics] == [8]


def test_derivatives_count_by_their_own_name():
    both = jax.jit(lambda x: (jax.grad(sine)(x), jax.jvp(sine, (x,), (x,))[1]))
    jax.block_until_ready(both(1.0))
    with cb.statistics() as statistics:
        jax.block_until_ready(both(1.0))
    names = [one.name for one in statistics]
    assert any(name.startswith("sin") for name in names)
    assert any("host vjp rule" in name for name in names)


def test_times_and_the_order_of_costs():
    costly, cheap = jax.jit(call(slow)), jax.jit(call(doubled))
    jax.block_until_ready([costly(X), cheap(X)])
    with cb.statistics() as statistics, cb.record_calls() as recording:
        before = time.monotonic()
        costly(X).block_until_ready()
        cheap(X).block_until_ready()
        after = time.monotonic()
        assert [one.calls for one in statistics] == [1, 1]  # so far
    assert [one.name.partition(" ")[0] for one in statistics] == ["slow", "doubled"]
    assert statistics.callbacks[0].seconds >= SECONDS
    first, second = recording.calls
    assert before <= first.begin <= first.begin + SECONDS <= first.end <= second.begin
    assert second.end <= after
    lines = str(statistics).splitlines()
    assert lines[0].split() == "callback calls seconds waiting bytes in bytes out errors".split()
    assert lines[1].startswith("slow (") and len({len(line) for line in lines}) == 1


def test_waiting_for_the_gil():
    run = jax.jit(call(slow))
    run(X).block_until_ready()
    stop = threading.Event()

    def spin():
        while not stop.is_set():
            sum(range(1000))

    spinning = threading.Thread(target=spin)
    with cb.statistics() as statistics:
        spinning.start()
        try:
            for _ in range(20):
                run(X).block_until_ready()
        finally:
            stop.set()
            spinning.join()
    (found,) = statistics
    assert found.waiting > 0


def test_errors_are_counted():
    run = jax.jit(call(failing))
    with cb.statistics() as statistics, cb.record_calls() as recording:
        for _ in range(3):
            with pytest.raises(Exception, match="no"):
                run(X).block_until_ready()
    assert [(one.calls, one.errors) for one in statistics] == [(3, 3)]
    assert [record.failed for record in recording.calls] == [True] * 3


def test_blocks_are_independent_of_each_other():
    run = jax.jit(call(doubled))

    def runs(count):
        for _ in range(count):
            run(X).block_until_ready()

    runs(1)
    with cb.statistics() as outer:
        runs(1)
        with cb.statistics() as inner, cb.record_calls(limit=1) as small:
            runs(2)
        with cb.record_calls() as recording:
            runs(3)
        runs(1)
    runs(5)
    assert [[one.calls for one in found] for found in (outer, inner)] == [[7], [2]]
    assert (len(small.calls), small.lost) == (1, 1)
    assert (len(recording.calls), recording.lost) == (3, 0)
    with cb.statistics() as again:
        runs(1)
    assert [one.calls for one in again] == [1]
    assert list(cb.statistics()) == []


def test_threads_count_together():
    run = jax.jit(call(doubled))
    run(X).block_until_ready()

    def work():
        for _ in range(50):
            run(X).block_until_ready()

    with cb.statistics() as statistics, cb.record_calls() as recording:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [one.calls for one in statistics] == [200]
    assert len(recording.calls) == 200


def test_nothing_is_kept_when_nobody_watches():
    with cb.statistics(), cb.record_calls():
        jax.jit(call(doubled))(X).block_until_ready()
    jax.jit(call(doubled))(X).block_until_ready()
    assert _native.call_totals(False) == []
    assert _native.take_records() == ([], 0)


def test_a_block_that_raises_ends():
    with pytest.raises(KeyError), cb.statistics() as statistics:
        jax.jit(call(doubled))(X).block_until_ready()
        raise KeyError
    assert [one.calls for one in statistics] == [1]
    assert _native.call_totals(False) == []


def test_calls_show_under_their_names_in_profiles(tmp_path):
    run, fails = jax.jit(call(doubled)), jax.jit(call(failing))
    with jax.profiler.trace(str(tmp_path), create_perfetto_trace=True):
        run(X).block_until_ready()
        with pytest.raises(Exception, match="no"):
            fails(X).block_until_ready()
    (path,) = glob.glob(f"{tmp_path}/**/perfetto_trace.json.gz", recursive=True)
    with gzip.open(path) as file:
        names = [event.get("name", "") for event in json.load(file)["traceEvents"]]
    assert sum(name.startswith("doubled (") for name in names) == 1
    assert sum(name.startswith("failing (") for name in names) == 1
    from callbax._runtime import observation

    assert not any(observation._watchers.values())


def test_an_interpreter_shows_them():
    with cb.statistics() as statistics, cb.record_calls() as recording:
        jax.jit(lambda x: cb.pure_callback(np.sin, x, x))(jnp.float32(1)).block_until_ready()
    assert repr(statistics) == str(statistics) and "sin" in repr(statistics)
    assert repr(recording) == "<callbax.Recording of 1 calls, 0 lost>"


@pytest.mark.parametrize(
    ("limit", "error"), [(-1, ValueError), (1.5, TypeError), (None, TypeError), ("3", TypeError)]
)
def test_a_limit_that_is_none_leaves_nothing_behind(limit, error):
    run = jax.jit(call(doubled))
    with pytest.raises(error):
        cb.record_calls(limit)
    for most in (np.int64(2), 2**70):
        with cb.record_calls(most) as recording:
            run(X).block_until_ready()
        assert len(recording.calls) == 1


@pytest.mark.parametrize("make", [cb.statistics, cb.record_calls])
def test_one_object_is_used_once_at_a_time(make):
    run, counts = jax.jit(call(doubled)), make()
    with counts:
        with pytest.raises(RuntimeError, match=f"already: {make.__name__}\\(\\) makes "), counts:
            pass
        run(X).block_until_ready()
    found = counts.calls if make is cb.record_calls else list(counts)
    assert len(found) == 1
    with counts:
        run(X).block_until_ready()


@pytest.mark.parametrize("make", [cb.statistics, cb.record_calls])
def test_a_block_that_has_not_begun_cannot_end(make):
    """Else the others would miss what they count."""
    one = make()
    with pytest.raises(RuntimeError, match="begun, or it has ended"):
        one.__exit__(None, None, None)
    with one:
        pass
    with pytest.raises(RuntimeError, match="begun, or it has ended"):
        one.__exit__(None, None, None)
    with cb.statistics() as statistics, cb.record_calls() as recording:
        jax.jit(lambda x: cb.pure_callback(np.sin, x, x))(np.float32(1)).block_until_ready()
    assert [found.calls for found in statistics] == [1]
    assert len(recording.calls) == 1
