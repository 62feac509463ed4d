"""tools.timeline: a trace that Perfetto reads, under every transformation."""

import json
import re
import threading

import jax
import numpy as np
import pytest
from helpers import devices
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from portable_differences import IS_PORTABLE

import callbax as cb
from callbax import tools

X = np.arange(4, dtype=np.float32)


def doubled(x):
    return 2 * x


def call(x):
    return cb.pure_callback(doubled, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def chain(x):
    return jax.lax.scan(lambda c, _: (call(c), None), x, length=3)[0]


sine = cb.external(np.sin, result="broadcast")
sine.def_host_vjp(lambda primals, result, ct: (np.cos(primals[0]) * ct,))
MESH = Mesh(np.array(devices(8)), ("i",))

# (program, argument, boxes, calls of the function)
PROGRAMS = {
    "jit": (call, X, 1, 1),
    "vmap": (jax.vmap(call), X, 1, 4),
    "nested vmap": (jax.vmap(jax.vmap(call)), X.reshape(2, 2), 1, 4),
    "scan": (chain, X, 3, 3),
    "vmap of scan": (jax.vmap(chain), X, 3, 12),
    "fori_loop": (lambda x: jax.lax.fori_loop(0, 3, lambda _, c: call(c), x), X, 3, 3),
    "while_loop": (lambda x: jax.lax.while_loop(lambda c: c[0] < 8, call, x + 1), X, 3, 3),
    "cond": (lambda x: jax.lax.cond(x[0] < 1, call, lambda x: x, x), X, 1, 1),
    "grad": (jax.grad(lambda x: sine(x).sum()), X, 2, 2),
    "jvp": (lambda x: jax.jvp(sine, (x,), (x,)), X[:1], 2, 2),
    "checkpoint": (jax.grad(jax.checkpoint(lambda x: sine(x).sum())), X, None, None),
    "shard_map": (
        jax.shard_map(call, mesh=MESH, in_specs=P("i"), out_specs=P("i")),
        np.zeros(8, np.float32),
        8,
        8,
    ),
}
if hasattr(jax, "pmap"):
    PROGRAMS["pmap"] = (jax.pmap(call), np.zeros((8, 1), np.float32), 8, 8)


def trace_of(path):
    events = json.loads(path.read_text())["traceEvents"]
    boxes = [event for event in events if event["ph"] == "X" and event["cat"] != "GIL"]
    return events, boxes


@pytest.mark.parametrize("name", PROGRAMS)
def test_boxes_of_programs(name, tmp_path):
    program, argument, count, calls = PROGRAMS[name]
    run = program if name == "pmap" else jax.jit(program)
    jax.block_until_ready(run(argument))
    path = tmp_path / "trace.json"
    with tools.timeline(path) as recording:
        jax.block_until_ready(run(argument))
    events, boxes = trace_of(path)
    assert len(boxes) == len(recording.calls) > 0
    if count is not None:
        assert len(boxes) == count
        assert sum(box["args"]["calls"] for box in boxes) == calls
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    for box in boxes:
        assert (box["pid"], box["tid"]) in named
        assert box["dur"] >= box["args"]["microseconds in Python"] > 0
    # The program's run, from its first callback to its last.
    begin, end = ([e["ts"] for e in events if e["ph"] == phase] for phase in "be")
    assert bool(begin) == (name in ("shard_map", "pmap") and not IS_PORTABLE)
    if begin:
        assert begin == [min(box["ts"] for box in boxes)]
        assert end[0] >= max(box["ts"] + box["dur"] for box in boxes) - 1e-3


def test_runs_on_several_devices_are_told_apart(tmp_path):
    program, argument, *_ = PROGRAMS["shard_map"]
    run = jax.jit(program)
    jax.block_until_ready(run(argument))
    with tools.timeline(tmp_path / "trace.json"):
        for _ in range(2):
            jax.block_until_ready(run(argument))
    events, boxes = trace_of(tmp_path / "trace.json")
    assert len(boxes) == 16
    begun, ended = ([e["id"] for e in events if e["ph"] == phase] for phase in "be")
    assert begun == ended and len(set(begun)) == (0 if IS_PORTABLE else 2)


def test_threads_have_their_names(tmp_path):
    run = jax.jit(lambda x: cb.debug.callback(doubled, x, ordered=True))
    run(X)
    with tools.timeline(tmp_path / "trace.json"):
        run(X)
        cb.effects_barrier()
    events, boxes = trace_of(tmp_path / "trace.json")
    names = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert len(boxes) == len(names) == 1
    assert names[0] == threading.current_thread().name or re.fullmatch(
        r"thread \d+ of XLA", names[0]
    )


def test_errors_and_a_block_that_raises(tmp_path):
    def failing(x):
        raise ValueError("no")

    run = jax.jit(lambda x: cb.pure_callback(failing, x, x))
    path = tmp_path / "trace.json"
    with pytest.raises(Exception, match="no"), tools.timeline(path):
        run(X).block_until_ready()
    _, (box,) = trace_of(path)
    assert box["args"]["failed"] and box["name"].startswith("test_errors_and_a_block")


def test_limits_and_files_that_cannot_be_written(tmp_path):
    run = jax.jit(chain)
    with pytest.warns(tools.TimelineWarning, match=r"has the first 2 calls and lacks 1; .*limit="):
        with tools.timeline(tmp_path / "trace.json", limit=2):
            run(X).block_until_ready()
    assert len(trace_of(tmp_path / "trace.json")[1]) == 2
    with pytest.raises(FileNotFoundError), tools.timeline(tmp_path / "none" / "trace.json"):
        raise AssertionError("the block has begun")
    directory = tmp_path / "gone"
    directory.mkdir()
    with pytest.warns(tools.TimelineWarning, match="could not be written"):
        with tools.timeline(directory / "trace.json"):
            run(X).block_until_ready()
            (directory / "trace.json").unlink()
            directory.rmdir()


def test_the_file_is_where_it_was_when_the_block_began(tmp_path, monkeypatch):
    run = jax.jit(chain)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with tools.timeline("trace.json"):
        run(X).block_until_ready()
        monkeypatch.chdir("elsewhere")
    assert len(trace_of(tmp_path / "trace.json")[1]) == 3
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_is_refused_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="limit=-1"), tools.timeline(tmp_path / "trace.json", -1):
        raise AssertionError("the block has begun")
    assert not list(tmp_path.iterdir())
