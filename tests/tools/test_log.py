"""tools.Log: what is logged under each transformation; targets; a full log; a target that fails."""

import csv
import gc
import json
import logging
import sqlite3
import threading
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices
from jax.sharding import NamedSharding, PartitionSpec

import callbax as cb
from callbax import tools
from callbax.tools import _log_rows


class Rows(list):
    """A target that keeps its rows."""

    def __call__(self, row):
        self.append(row)


@pytest.fixture
def rows():
    return Rows()


@pytest.fixture
def log(rows):
    with tools.Log(rows) as log:
        yield log


# -- transformations ---------------------------------------------------------------------------------
def logged(log, function, *args):
    """What a program logs that uses `step(i, x)`, which logs and doubles x."""

    def step(i, x):
        log(i, x=x)
        return 2 * x

    jax.block_until_ready(function(step)(*args))
    log.flush()


def scan(step):
    return lambda x: jax.lax.scan(lambda x, i: (step(i, x), None), x, jnp.arange(3))[0]


def fori_loop(step):
    return lambda x: jax.lax.fori_loop(0, 3, step, x)


def while_loop(step):
    def body(state):
        i, x = state
        return i + 1, step(i, x)

    return lambda x: jax.lax.while_loop(lambda s: s[0] < 3, body, (0, x))[1]


def unrolled(step):
    return lambda x: step(2, step(1, step(0, x)))


def cond(step):
    def steps(x):
        return jax.lax.cond(x > 0, lambda x: step(0, x), lambda x: step(7, x), x)

    return lambda x: step(2, step(1, steps(x)))


def scan_of_checkpoint(step):
    body = jax.checkpoint(lambda x, i: (step(i, x), None))
    return lambda x: jax.lax.scan(body, x, jnp.arange(3))[0]


PROGRAMS = [scan, fori_loop, while_loop, unrolled, cond, scan_of_checkpoint]
THREE = [{"step": i, "x": 2.0**i} for i in range(3)]
ONCE = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x,)),
    "grad": jax.grad,
    "jit of grad": lambda f: jax.jit(jax.grad(f)),
    "grad of checkpoint": lambda f: jax.grad(jax.checkpoint(f)),
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](x),
}


@pytest.mark.parametrize("transformation", ONCE)
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_step_is_a_row(log, rows, program, transformation):
    if program is while_loop and "grad" in transformation:
        pytest.skip("JAX has no reverse mode for while_loop")
    logged(log, lambda step: ONCE[transformation](program(step)), 1.0)
    assert rows == THREE


@pytest.mark.parametrize("program", [scan, fori_loop, while_loop, unrolled])
@pytest.mark.parametrize("transformation", ["jit", "jvp", "grad of checkpoint"])
def test_a_batch_is_a_row_with_a_column_for_each_lane(log, rows, program, transformation):
    if program is while_loop and "grad" in transformation:
        pytest.skip("JAX has no reverse mode for while_loop")
    batch = jnp.array([1.0, 3.0])
    logged(log, lambda step: jax.vmap(ONCE[transformation](program(step))), batch)
    assert rows == [{"step": i, "x[0]": 2.0**i, "x[1]": 3 * 2.0**i} for i in range(3)]


def test_nested_batches(log, rows):
    batch = jnp.arange(6.0).reshape(3, 2)
    logged(log, lambda step: jax.jit(jax.vmap(jax.vmap(lambda x: step(0, x)))), batch)
    lanes = {f"x[{i},{j}]": 2.0 * i + j for i in range(3) for j in range(2)}
    assert rows == [{"step": 0, **lanes}]


def test_what_all_lanes_share_is_one_column(log, rows):
    jax.vmap(lambda x: log(0, x=x, rate=0.5))(jnp.arange(2.0))
    log.flush()
    assert rows == [{"step": 0, "x[0]": 0.0, "x[1]": 1.0, "rate": 0.5}]


def test_lanes_with_steps_of_their_own_are_rows_of_their_own(log, rows):
    jax.vmap(lambda i, x: log(i, x=x, rate=0.5))(jnp.array([4, 2, 4]), jnp.arange(3.0))
    log.flush()
    assert rows == [
        {"step": 2, "x[1]": 1.0, "rate": 0.5},
        {"step": 4, "x[0]": 0.0, "x[2]": 2.0, "rate": 0.5},
    ]


def test_a_step_and_metrics_of_different_axes(log, rows):
    numbers, xs = jnp.arange(2), jnp.arange(3.0)
    jax.vmap(lambda i: jax.vmap(lambda x: log(i, x=x, i=i, both=x + i, w=jnp.ones(1)))(xs))(numbers)
    log.flush()
    shared = {"x[0,0]": 0.0, "x[0,1]": 1.0, "x[0,2]": 2.0, "w": np.ones(1)}
    for i, row in enumerate(rows):
        both = {f"both[{i},{x}]": x + i for x in range(3)}
        assert row == {"step": i, **shared, **both, f"i[{i},0]": i}
    rows.clear()
    jax.vmap(lambda x: jax.vmap(lambda i: log(i, x=x))(numbers))(xs)
    log.flush()
    lanes = {"x[0,0]": 0.0, "x[1,0]": 1.0, "x[2,0]": 2.0}
    assert rows == [{"step": 0, **lanes}, {"step": 1, **lanes}]


def test_lanes_whose_step_is_no_number(log, rows):
    jax.vmap(lambda i, x: log(i, x=x))(jnp.array([jnp.nan, 2.0, jnp.nan]), jnp.arange(3.0))
    log.flush()
    assert rows[0] == {"step": 2.0, "x[1]": 1.0}
    assert np.isnan(rows[1].pop("step")) and rows[1] == {"x[0]": 0.0, "x[2]": 2.0}


def mesh():
    return jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices(8))


def test_each_device_of_shard_map_logs_in_its_order(log, rows):
    spec = PartitionSpec("x")

    def program(x):
        for i in range(3):
            log(i, device=jax.lax.axis_index("x"), x=x[0] + i)
        return x

    jax.jit(jax.shard_map(program, mesh=mesh(), in_specs=spec, out_specs=spec))(jnp.arange(8.0))
    log.flush()
    assert len(rows) == 24
    for device in range(8):
        own = [row for row in rows if row["device"] == device]
        assert own == [{"step": i, "device": device, "x": device + float(i)} for i in range(3)]


def test_a_program_that_the_compiler_distributes_logs_once(log, rows):
    xs = jax.device_put(jnp.arange(8.0), NamedSharding(mesh(), PartitionSpec("x")))
    logged(log, lambda step: jax.jit(lambda xs: scan(step)(xs.sum())), xs)
    assert rows == [{"step": i, "x": 28 * 2.0**i} for i in range(3)]


@pytest.mark.filterwarnings("ignore:.*pmap.*:DeprecationWarning")
def test_each_device_of_pmap_logs(log, rows):
    logged(log, lambda step: jax.pmap(lambda x: step(0, x), devices=devices(8)), jnp.arange(8.0))
    assert sorted(row["x"] for row in rows) == list(range(8))


def test_a_program_is_traced_once(log, rows):
    traced = []

    @jax.jit
    def program(x):
        traced.append(1)
        log(0, x=x)

    for _ in range(3):
        program(1.0)
    log.flush()
    assert len(rows) == 3 and len(traced) == 1


# -- metrics ----------------------------------------------------------------------------------------
def test_metrics_of_many_types(log, rows):
    log(
        3,
        nested={"loss": 1.5, "both": (1, 2)},
        phase="train",
        array=jnp.arange(3),
        true=True,
        complex=1 + 2j,
        half=jnp.bfloat16(0.5),
        small=jnp.array(-3, jnp.int4),
    )
    log.flush()
    [row] = rows
    assert row.pop("array").tolist() == [0, 1, 2]
    assert row == {
        "step": 3,
        "nested/both/0": 1,
        "nested/both/1": 2,
        "nested/loss": 1.5,
        "phase": "train",
        "true": True,
        "complex": 1 + 2j,
        "half": 0.5,
        "small": -3,
    }
    assert type(row["half"]) is float and type(row["true"]) is bool


def test_arrays_of_lanes_stay_arrays(log, rows):
    jax.vmap(lambda w: log(0, w=w))(jnp.arange(4).reshape(2, 2))
    log.flush()
    assert [(name, np.asarray(value).tolist()) for name, value in rows[0].items()] == [
        ("step", 0),
        ("w[0]", [0, 1]),
        ("w[1]", [2, 3]),
    ]


def test_a_batch_without_lanes_is_not_logged(log, rows):
    jax.vmap(lambda x: log(0, x=x, w=jnp.stack([x, x]), one=1))(jnp.zeros(0))
    jax.vmap(lambda i: log(i, x=1))(jnp.zeros(0, int))
    log.flush()
    assert rows == []


@pytest.mark.parametrize("ending", ["csv", "jsonl", "sqlite"])
def test_arrays_without_elements(tmp_path, ending):
    with tools.Log(tmp_path / f"metrics.{ending}") as log:
        jax.jit(lambda x: log(0, x=x))(jnp.zeros((0, 3)))
        jax.vmap(lambda x: log(1, x=x, y=2))(jnp.zeros((2, 0)))
    if ending == "csv":
        assert (tmp_path / "metrics.csv").read_text() == "step,y\n0,\n1,2\n"


def test_what_cannot_be_logged(log):
    with pytest.raises(
        TypeError, match=r"Log\(Rows\): the metric 'x' must be an array, a number or"
    ):
        log(0, x=object())
    with pytest.raises(TypeError, match="'key' is a key array"):
        log(0, key=jax.random.key(0))
    with pytest.raises(TypeError, match="'x' must be .* but is of type ndarray of dtype <U1"):
        log(0, x=np.array(["a"]))
    with pytest.raises(
        TypeError, match=r"Log\(Rows\): the step must be a number, but is of type str"
    ):
        log("0", x=1)
    with pytest.raises(ValueError, match=r"the step must be a scalar, but has shape \(2,\)"):
        log(jnp.arange(2), x=1)
    with pytest.raises(ValueError, match="two columns would be called 'a/b'"):
        log(0, **{"a": {"b": 1}, "a/b": 2})
    for a in (jnp.ones(2), 1.0):  # under vmap, a number has lanes
        with pytest.raises(ValueError, match=r"'a\[0\]' could be an element of 'a', or a lane"):
            log(0, **{"a": a, "a[0]": 2})
    with pytest.raises(TypeError, match="'x' must be .* but is of type ndarray of dtype .*float0"):
        log(0, x=np.zeros((), jax.dtypes.float0))


def test_names_that_only_look_like_elements(log, rows):
    log(0, **{"c": 1.0, "a[0]": 2.0, "[0]": 3.0, "b]": 4.0})
    log.flush()
    assert rows == [{"step": 0, "c": 1.0, "a[0]": 2.0, "[0]": 3.0, "b]": 4.0}]


# -- files and databases -----------------------------------------------------------------------------
def test_csv(tmp_path):
    path = tmp_path / "metrics.csv"
    with tools.Log(path) as log:
        scan(lambda i, x: (log(i, loss=x, phase='a "b", 50%'), x / 3)[1])(1.0)
    with tools.Log(path) as log:  # appends, and knows the columns
        log(3, loss=np.nan, w=jnp.array([1.5, 2.5]))
        log(4, loss=np.inf)
    with open(path, newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["step", "loss", "phase", "w[0]", "w[1]"]
    assert [line[0] for line in lines[1:]] == ["0", "1", "2", "3", "4"]
    assert [line[2] for line in lines[1:]] == ['a "b", 50%'] * 3 + [""] * 2
    assert lines[4][1:] == ["nan", "", "1.5", "2.5"] and lines[5][1:] == ["inf", "", "", ""]
    assert np.float32(lines[2][1]) == np.float32(1) / np.float32(3)
    with tools.Log(path, mode="w") as log:
        log(0, x=1)
    assert path.read_text() == "step,x\n0,1\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name,age\nme,3\n", "has another first column than 'step'"),
        ("step,x,x\n0,1,2\n", "has two columns of one name"),
    ],
)
def test_csv_of_something_else(tmp_path, text, problem):
    path = tmp_path / "other.csv"
    path.write_text(text)
    log = tools.Log(path)
    log(0, x=1)
    with pytest.raises(tools.LogError, match=problem):
        log.flush()
    assert path.read_text() == text
    assert log.discard() == [{"step": 0, "x": 1}]
    log.close()


@pytest.mark.parametrize("text", ["step,x\n0,1\n1,", "step,x\n0,1\n"])
def test_a_file_whose_last_line_was_cut_off(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with tools.Log(path) as log:
        log(5, x=6)
    assert path.read_text().endswith("\n5,6\n")


def test_json_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with tools.Log(str(path)) as log:
        jax.vmap(lambda x: log(0, x=x))(np.array([0.5, 0.25]))
        log(1, x=np.nan, done=True, text='a "b" 5%')
        log(2, x=1e30, text='a "b" 5%', w=np.arange(2), z=1j)
    parsed = [json.loads(line) for line in path.read_text().splitlines()]
    assert np.isnan(parsed[1].pop("x")) and parsed[2].pop("x") == np.float32(1e30)
    assert parsed == [
        {"step": 0, "x[0]": 0.5, "x[1]": 0.25},
        {"step": 1, "done": True, "text": 'a "b" 5%'},
        {"step": 2, "text": 'a "b" 5%', "w": [0, 1], "z": [0.0, 1.0]},
    ]


@pytest.mark.parametrize("ending", ["sqlite", "sqlite3", "db", "SQLite"])
def test_sqlite(tmp_path, ending):
    path = tmp_path / f"metrics.{ending}"
    with tools.Log(path) as log:
        jax.jit(scan(lambda i, x: (log(i, x=x, phase="train"), 2 * x)[1]))(1.0)
        log(3, **{'odd "name"': 2})
    with tools.Log(path) as log:
        log(4, x=0.5, w=np.arange(2))
    with sqlite3.connect(path) as connection:
        found = connection.execute(
            'SELECT step, x, phase, "odd ""name""", "w[1]" FROM log'
        ).fetchall()
    connection.close()
    assert found == [
        (0, 1.0, "train", None, None),
        (1, 2.0, "train", None, None),
        (2, 4.0, "train", None, None),
        (3, None, None, 2, None),
        (4, 0.5, None, None, 1),
    ]
    with tools.Log(path, mode="w") as log:
        log(9, y=1)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT * FROM log").fetchall() == [(9, 1)]
    connection.close()


# -- objects ----------------------------------------------------------------------------------------
class Board:
    """As TensorBoard's SummaryWriter."""

    def __init__(self):
        self.calls = []

    def add_scalar(self, name, value, step):
        self.calls.append((name, value, step))

    def add_text(self, name, text, step):
        self.calls.append((name, text, step))

    def flush(self):
        self.calls.append("flush")


def test_tensorboard():
    board = Board()
    with tools.Log(board) as log:
        log(3, loss=0.5, w=np.arange(2), phase="train")
    assert board.calls == [
        ("loss", 0.5, 3),
        ("w[0]", 0, 3),
        ("w[1]", 1, 3),
        ("phase", "train", 3),
        "flush",
    ]


class Run:
    """As a run of Weights & Biases."""

    name = "happy-run-1"

    def __init__(self):
        self.calls = []

    def log(self, row, step=None):
        self.calls.append((row, step))


def test_weights_and_biases():
    run = Run()
    with tools.Log(run) as log:
        assert repr(log) == "<Log(happy-run-1)>"
        log(3, loss=0.5, w=np.arange(2))
    assert run.calls == [({"loss": 0.5, "w[0]": 0, "w[1]": 1}, 3)]


def test_logger(caplog):
    caplog.set_level(logging.INFO)
    with tools.Log(logging.getLogger("training")) as log:
        log(3, loss=1 / 3, phase="train", w=np.arange(2))
    assert caplog.messages == ["step=3 loss=0.333333 w=[0 1] phase=train"]


def test_a_function_is_called_on_one_thread():
    threads = set()
    with tools.Log(lambda row: threads.add(threading.get_ident())) as log:
        for i in range(3):
            jax.jit(scan(lambda i, x: (log(i, x=x), x)[1]))(1.0)
            log.flush()
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_what_is_no_target(tmp_path):
    with pytest.raises(TypeError, match="a log's target must be a path, .* but is of type int"):
        tools.Log(3)
    with pytest.raises(ValueError, match=r"must end in one of \.csv, .* but is 'metrics\.txt'"):
        tools.Log("metrics.txt")
    with pytest.raises(FileNotFoundError, match="the directory of the log .* does not exist"):
        tools.Log(tmp_path / "none" / "metrics.csv")
    with pytest.raises(ValueError, match="mode must be 'a' or 'w', but is 'x'"):
        tools.Log(print, mode="x")
    with pytest.raises(ValueError, match="when_full must be 'block' or 'drop', but is 'wait'"):
        tools.Log(print, when_full="wait")
    with pytest.raises(ValueError, match="capacity must be at least 1, but is 0"):
        tools.Log(print, capacity=0)
    with pytest.raises(TypeError, match="integer"):
        tools.Log(print, capacity=1.5)


# -- a full log ---------------------------------------------------------------------------------------
def long_loop(log, n=2000):
    return jax.jit(lambda: jax.lax.fori_loop(0, n, lambda i, x: (log(i, x=x), x + 1)[1], 0))


def test_a_full_log_holds_the_program_up(rows):
    most = []

    def slow(row):
        most.append(len(log._writer.rows))
        rows.append(row)
        time.sleep(1e-4)

    with tools.Log(slow, capacity=10) as log:
        long_loop(log, 300)()
    assert [row["step"] for row in rows] == list(range(300))
    assert max(most) <= 11


def test_a_full_log_drops_the_oldest_rows(rows):
    held = threading.Event()

    def slow(row):
        held.wait()
        rows.append(row)

    with tools.Log(slow, capacity=10, when_full="drop") as log:
        log(-1, x=0)
        while log._writer.rows:  # the writer has the first row
            time.sleep(0.01)
        long_loop(log)()
        held.set()
    assert [row["step"] for row in rows] == [-1, *range(1990, 2000)]
    assert log.dropped == 1990


def test_large_rows_make_a_log_full_sooner(rows):
    with tools.Log(rows) as log:
        log(0, x=np.zeros(2**24, np.float32))
        log.flush()
        assert log._writer.limit == 3
        log(1, x=0)
        log.flush()
        assert log._writer.limit == 16384


@pytest.mark.full  # it takes seconds
def test_a_function_may_log_to_its_own_log(rows):
    def also(row):
        rows.append(row)
        if row["step"] < 50:
            log(row["step"] + 1, x=0)
        cb.effects_barrier()

    with tools.Log(also, capacity=1) as log:
        log(0, x=0)
        while len(rows) < 51:
            time.sleep(0.01)
    assert [row["step"] for row in rows] == list(range(51))


def test_targets_may_wait_for_effects():
    seen = []
    done = threading.Event()

    def write(row):
        seen.append(row)
        cb.effects_barrier()

    def program():
        logs = [tools.Log(write) for _ in range(2)]
        for log in logs:
            log(0, x=1)
        cb.effects_barrier()
        for log in logs:
            log.close()
        done.set()

    threading.Thread(target=program, daemon=True).start()
    assert done.wait(60) and len(seen) == 2


def test_jax_in_the_function_of_a_full_log(rows):
    offset = jnp.arange(3.0)

    def with_jax(row):
        rows.append(float((offset + row["x"]).sum()))

    with tools.Log(with_jax, capacity=1) as log:
        long_loop(log, 50)()
    assert rows == [3.0 * (i + 1) for i in range(50)]


@pytest.mark.full  # 40 threads
def test_jax_in_the_function_of_a_log_that_many_programs_wait_for(rows):
    """More than XLA has places for."""
    double = jax.jit(lambda x: 2 * x)
    with tools.Log(lambda row: rows.append(double(row["x"]).item()), capacity=1) as log:
        program = long_loop(log, 20)
        threads = [threading.Thread(target=lambda: program()) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(rows) == sorted([2 * i for i in range(20)] * 40)


# -- a target that fails -----------------------------------------------------------------------------
class Failing(Rows):
    """Fails from one step on, until it is repaired."""

    def __init__(self, step=3):
        super().__init__()
        self.fails_from = step

    def __call__(self, row):
        if row["step"] >= self.fails_from:
            raise OSError("the disk is full")
        self.append(row)


MESSAGE = (
    r"Log\(Failing\) could not write \(OSError: the disk is full\); {} kept: flush\(\) tries again"
)


@pytest.mark.parametrize("raises", [cb.effects_barrier, None])
def test_a_failure_is_raised_by_the_next_barrier_and_no_row_is_lost(raises):
    target = Failing()
    log = tools.Log(target)
    raises = raises or log.flush
    long_loop(log, 5)()
    with pytest.raises(tools.LogError, match=MESSAGE.format("2 rows")) as caught:
        raises()
    assert isinstance(caught.value.__cause__, OSError)
    log(5, x=5)
    with pytest.raises(tools.LogError, match=MESSAGE.format("3 rows")):
        raises()
    target.fails_from = 9
    raises()
    assert [row["step"] for row in target] == list(range(6))
    log.close()


def test_a_barrier_raises_a_failure_once():
    target = Failing(0)
    with pytest.raises(tools.LogError), tools.Log(target) as log:
        log(0, x=1)
    writer = log._writer
    del log
    for _ in range(3):
        cb.effects_barrier()
    target.fails_from = 9
    cb.effects_barrier()
    assert [row["step"] for row in target] == [0]
    assert writer._failure is None


def test_a_failure_that_has_passed_is_raised_all_the_same():
    target = Failing()
    log = tools.Log(target)
    log(3, x=1)
    while log._writer._failure is None:
        time.sleep(0.01)
    target.fails_from = 9
    with pytest.raises(tools.LogError, match="the disk is full.*all rows have been written since"):
        cb.effects_barrier()
    assert [row["step"] for row in target] == [3]
    log.close()


def test_rows_that_cannot_be_made_are_kept(log, rows, monkeypatch):
    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(_log_rows.Columns, "blocks", fail)
        log(0, x=1)
        with pytest.raises(tools.LogError, match="MemoryError.*1 row kept"):
            log.flush()
    log.flush()
    assert rows == [{"step": 0, "x": 1}]


def test_rows_can_be_given_up():
    log = tools.Log(Failing(2))
    long_loop(log, 4)()
    with pytest.raises(tools.LogError, match=MESSAGE.format("2 rows")):
        log.close()
    assert log.discard() == [{"step": 2, "x": 2}, {"step": 3, "x": 3}]
    log.close()


def test_a_full_log_that_cannot_write_fails_the_program():
    target = Failing()
    log = tools.Log(target, capacity=20)
    with pytest.raises(jax.errors.JaxRuntimeError, match="the disk is full") as caught:
        long_loop(log)()
    assert isinstance(cb.original_exception(caught.value), tools.LogError)
    target.fails_from = 10**6
    with pytest.raises(tools.LogError, match="all rows have been written since"):
        log.flush()
    steps = [row["step"] for row in target]
    assert steps == list(range(len(steps))) and 20 < len(steps) < 2000
    log.close()


def test_a_database_that_is_locked(tmp_path, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path: connect(path, timeout=0.01))
    path = tmp_path / "metrics.sqlite"
    log = tools.Log(path)
    log(0, x=0)
    log.flush()
    other = connect(path)
    other.execute("BEGIN EXCLUSIVE")
    log(1, x=1, new=2)
    with pytest.raises(tools.LogError, match="database is locked"):
        log.flush()
    other.rollback()
    log.close()
    assert other.execute("SELECT * FROM log").fetchall() == [(0, 0, None), (1, 1, 2)]
    other.close()


def test_the_programs_own_error_comes_first(rows):
    target = Failing(0)
    with pytest.raises(ValueError, match="mine") as caught, tools.Log(target) as log:
        log(0, x=0)
        raise ValueError("mine")
    assert any("The log failed as well" in note for note in caught.value.__notes__)
    log.discard()


# -- the end ------------------------------------------------------------------------------------------
def test_a_closed_log(rows):
    log = tools.Log(rows)
    program = jax.jit(lambda x: log(0, x=x))
    program(1)
    log.close()
    log.close()
    assert len(rows) == 1
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"Log\(Rows\) is closed"):
        program(1)
    cb.effects_barrier()
    assert len(rows) == 1


def test_a_log_that_nobody_has_any_more_writes_what_is_left_and_ends(rows):
    log = tools.Log(rows)
    writer, gone = log._writer, weakref.ref(log)
    log(0, x=0)
    thread = writer._thread
    del log
    gc.collect()
    jax.clear_caches()
    gc.collect()
    assert gone() is None
    thread.join(30)
    assert not thread.is_alive() and rows == [{"step": 0, "x": 0}] and writer._closed


def test_a_barrier_calls_what_it_was_given():
    calls = []
    end = cb.on_barrier(lambda: calls.append(1))

    def fail():
        raise ValueError("first")

    end_failing = cb.on_barrier(fail)
    with pytest.raises(ValueError, match="first"):
        cb.effects_barrier()
    end_failing()
    cb.effects_barrier()
    end()
    cb.effects_barrier()
    assert calls == [1, 1]
    for give in (cb.on_barrier, cb.on_failure):
        with pytest.raises(TypeError, match=f"callbax.{give.__name__} must be callable"):
            give(3)


def test_a_function_of_a_barrier_may_wait_for_effects():
    calls = []
    end = cb.on_barrier(lambda: (calls.append(1), cb.effects_barrier()))
    cb.effects_barrier()
    end()
    assert calls == [1]
