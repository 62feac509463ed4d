"""What bars show, in which order and how often, under each transformation."""

import contextlib
import functools
import io
import logging

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import callbax as cb
from callbax import tools
from callbax.tools import _displays, _format, _runs, _ticks
from callbax.tools._bars import Bars, bars


@pytest.fixture
def events(monkeypatch):
    """Each step and each end of a run, as it happens; nothing is written."""
    seen = []
    monkeypatch.setattr(_runs, "TICK_SECONDS", 0.0)  # a call at each step
    tick, end = _runs.Run.tick, Bars.end

    def noted_tick(run, done):
        seen.append((run.progress.title(run.device), done))
        return tick(run, done)

    def noted_end(self, run):
        end(self, run)
        seen.append((run.progress.title(run.device), run.state, run.done, _format.metrics(run)))

    monkeypatch.setattr(_runs.Run, "tick", noted_tick)
    monkeypatch.setattr(Bars, "end", noted_end)
    monkeypatch.setitem(_displays.DISPLAYS, "text", _displays.Silent)
    bars._displays.pop("text", None)
    yield seen
    bars.stop()
    bars._displays.pop("text", None)


BAR = tools.Progress(label="a", display="text")


def step(x):
    y = jnp.sin(x)
    BAR.step(m=x)
    return y


def scan(x, progress=BAR):
    return tools.scan(lambda c, _: (step(c), None), x, length=3, progress=progress)[0]


def fori(x):
    return tools.fori_loop(2, 5, lambda i, c: step(c), x, progress=BAR)


def until(x):
    return tools.while_loop(
        lambda s: s[0] < 3, lambda s: (s[0] + 1, step(s[1])), (0, x), progress=BAR
    )[1]


def plain(x):
    for _ in range(3):
        x = jnp.sin(x)
    return x


def run_of(metric, label="a"):
    """The events of one run: three steps, and the end."""
    return [(label, 0), (label, 1), (label, 2), (label, "done", 3, metric)]


ONE = "m=0.7456"  # sin(sin(1))


def lanes():
    return jnp.arange(3.0)


def mesh():
    return Mesh(np.array(devices(8)), ("d",))


def sharded(f):
    return jax.jit(jax.shard_map(f, mesh=mesh(), in_specs=P("d"), out_specs=P("d")))


# name: (the program of a loop, its argument, how many runs, the metric at the end of each)
CASES = {
    "eager": (lambda f: f, 1.0, 1, ONE),
    "jit": (jax.jit, 1.0, 1, ONE),
    "vmap": (lambda f: jax.jit(jax.vmap(f)), lanes, 1, "m=0.5116 [0, 0.7891]"),
    "nested vmap": (
        lambda f: jax.jit(jax.vmap(jax.vmap(f))),
        lambda: jnp.arange(6.0).reshape(2, 3),
        1,
        None,
    ),
    "in scan": (
        lambda f: jax.jit(lambda x: lax.scan(lambda c, _: (f(1.0), None), x, length=2)[0]),
        1.0,
        2,
        ONE,
    ),
    "in fori_loop": (
        lambda f: jax.jit(lambda x: lax.fori_loop(0, 2, lambda i, c: f(1.0), x)),
        1.0,
        2,
        ONE,
    ),
    "in while_loop": (
        lambda f: jax.jit(
            lambda x: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, f(1.0)), (0, x))[1]
        ),
        1.0,
        2,
        ONE,
    ),
    "in cond": (lambda f: jax.jit(lambda x: lax.cond(x > 0, f, lambda x: x, x)), 1.0, 1, ONE),
    "in the other branch": (
        lambda f: jax.jit(lambda x: lax.cond(x > 0, f, lambda x: x, x)),
        -1.0,
        0,
        ONE,
    ),
    "jvp": (lambda f: jax.jit(lambda x: jax.jvp(f, (x,), (1.0,))[1]), 1.0, 1, ONE),
    "linearize": (lambda f: lambda x: jax.linearize(f, x)[1](1.0), 1.0, 1, ONE),
    "grad": (lambda f: jax.jit(jax.grad(f)), 1.0, 1, ONE),
    "eager grad": (jax.grad, 1.0, 1, ONE),
    "vmap of grad": (lambda f: jax.jit(jax.vmap(jax.grad(f))), lanes, 1, "m=0.5116 [0, 0.7891]"),
    "grad of vmap": (
        lambda f: jax.jit(jax.grad(lambda x: jax.vmap(f)(x).sum())),
        lanes,
        1,
        "m=0.5116 [0, 0.7891]",
    ),
    "checkpoint": (lambda f: jax.jit(jax.grad(jax.checkpoint(f))), 1.0, 1, ONE),
    "checkpoint of jit": (lambda f: jax.jit(jax.grad(jax.checkpoint(jax.jit(f)))), 1.0, 1, ONE),
    "hessian": (lambda f: jax.jit(jax.hessian(f)), 1.0, 1, ONE),
    "shard_map": (lambda f: sharded(lambda x: f(x[0])[None]), lambda: jnp.ones(8), 1, ONE),
    "pmap": (lambda f: (devices(8), jax.pmap(f))[1], lambda: jnp.ones(8), 1, ONE),
}
NO_REVERSE = (
    "grad",
    "eager grad",
    "vmap of grad",
    "grad of vmap",
    "checkpoint",
    "checkpoint of jit",
    "hessian",
)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("loop", [scan, fori, until], ids=["scan", "fori_loop", "while_loop"])
def test_a_run_is_one_bar(events, loop, name):
    transform, argument, runs, metric = CASES[name]
    if loop is until and name in NO_REVERSE:
        pytest.skip("JAX differentiates no while_loop in reverse")
    argument = argument() if callable(argument) else argument
    for _ in range(2):  # each call of the program has bars of its own
        result = transform(loop)(argument)
        cb.effects_barrier()
        shown = events[:]
        events.clear()
        if metric is None:
            shown = [event[:3] for event in shown]
            metric_of = [event[:3] for event in run_of(metric)]
        else:
            metric_of = run_of(metric)
        assert shown == metric_of * runs
        assert np.allclose(result, transform(plain)(argument), atol=1e-6)


def test_each_device_may_have_a_bar_of_its_own(events):
    bar = tools.Progress(label="a", display="text", devices="each")
    sharded(lambda x: scan(x[0], bar)[None])(jnp.ones(8))
    cb.effects_barrier()
    for device in range(8):
        assert [e for e in events if e[0] == f"a [{device}]"] == run_of("", f"a [{device}]")


def test_lanes_that_end_at_different_steps(events):
    count = lambda n: tools.while_loop(lambda i: i < n, lambda i: i + 1, 0, progress=BAR)  # noqa: E731
    assert jax.jit(jax.vmap(count))(jnp.array([1, 3, 2])).tolist() == [1, 3, 2]
    assert events == run_of("")
    events.clear()
    count = lambda n: tools.fori_loop(0, n, lambda i, x: x + i, 0, progress=BAR)  # noqa: E731
    assert jax.jit(jax.vmap(count))(jnp.array([1, 3, 2])).tolist() == [0, 3, 1]
    assert events == run_of("")


def test_loops_in_loops(events):
    def outer(x, _):
        inner = tools.scan(
            lambda c, _: (jnp.sin(c), None),
            x,
            length=2,
            progress=tools.Progress(label="b", display="text"),
        )
        return inner[0], None

    jax.jit(lambda x: tools.scan(outer, x, length=2, progress=BAR)[0])(1.0)
    inner = [("b", 0), ("b", 1), ("b", "done", 2, "")]
    assert [event for event in events if event[0] == "b"] == inner * 2
    assert [event for event in events if event[0] == "a"] == [
        ("a", 0),
        ("a", 1),
        ("a", "done", 2, ""),
    ]
    assert events[-1] == ("a", "done", 2, "")


def test_a_jitted_function_with_a_loop_may_be_used_again(events):
    @jax.jit
    def inner(x):
        BAR.step(m=x)
        return tools.fori_loop(
            0, 1, lambda i, c: c + 1, x, progress=tools.Progress(label="b", display="text")
        )

    jax.jit(lambda x: tools.scan(lambda c, _: (inner(c), None), x, length=2, progress=BAR)[0])(1.0)
    jax.jit(lambda x: tools.scan(lambda c, y: (inner(c), y), x, jnp.arange(3), progress=BAR)[0])(
        1.0
    )
    assert [event for event in events if event[1] == "done"].count(("b", "done", 1, "")) == 5
    inner(1.0)
    assert events[-1] == ("b", "done", 1, "")


@pytest.mark.parametrize("loop", [lambda f: f, jax.jit])
def test_map(events, loop):
    xs = jnp.arange(7.0)
    assert (
        loop(lambda xs: tools.map(jnp.sin, xs, progress=BAR))(xs).tolist() == jnp.sin(xs).tolist()
    )
    assert events[-1] == ("a", "done", 7, "")
    for size, batches in ((3, 2), (7, 1), (2, 3)):
        batched = loop(lambda xs: tools.map(jnp.sin, xs, batch_size=size, progress=BAR))(xs)
        assert np.allclose(batched, jnp.sin(xs))
        assert events[-1] == ("a", "done", batches, "")
    events.clear()
    assert np.allclose(tools.map(jnp.sin, xs, batch_size=9, progress=BAR), jnp.sin(xs))
    assert events == []


def test_edges(events):
    assert tools.fori_loop(5, 2, lambda i, x: x + 1, 0, progress=BAR) == 0
    assert events == [("a", "done", 0, "")]
    carry, ys = tools.scan(
        lambda c, x: (c, x), (), jnp.arange(3), reverse=True, unroll=2, progress=BAR
    )
    assert ys.tolist() == [0, 1, 2]
    with jax.disable_jit():
        assert tools.while_loop(lambda x: x < 3, lambda x: x + 1, 0, progress=BAR) == 3
    assert events[-1] == ("a", "done", 3, "")


def test_what_is_left_out_changes_nothing(events):
    hidden = tools.Progress(label="a", display="none")
    text = (
        str(jax.make_jaxpr(lambda x: scan(x, None))(1.0)),
        str(jax.make_jaxpr(lambda x: scan(x, hidden))(1.0)),
    )
    assert text[0] == text[1]
    hidden.step(m=1)
    assert events == []


def test_jax_refuses_in_words_about_the_users_state():
    wrong = lambda c, x: (c, c, x)  # noqa: E731
    changing = lambda c, x: ((c[0], c[1].astype(int)), None)  # noqa: E731
    for body, init in ((wrong, 0.0), (changing, (1.0, jnp.ones(2)))):
        with pytest.raises(Exception) as theirs:
            lax.scan(body, init, length=3)
        with pytest.raises(type(theirs.value)) as ours:
            tools.scan(body, init, length=3, progress=BAR)
        assert str(ours.value) == str(theirs.value)
    with pytest.raises(ValueError, match="scan got values with different leading axis sizes"):
        tools.scan(lambda c, x: (c, None), 0.0, (jnp.ones(2), jnp.ones(3)), progress=BAR)


def test_a_loop_that_jax_refuses_has_no_bar(events):
    before = list(bars._runs)
    for loop in (
        lambda: tools.scan(lambda c, _: ((c, c), None), 1.0, length=3, progress=BAR),
        lambda: tools.fori_loop(0, 3, lambda i, c: (c, c), 1.0, progress=BAR),
        lambda: tools.while_loop(lambda c: c, lambda c: c, 1.0, progress=BAR),
    ):
        with pytest.raises(TypeError):
            loop()
        assert list(bars._runs) == before and not bars.innermost
    BAR.step()  # counts, since there is no loop around it
    BAR.close()
    assert events == [("a", 1), ("a", "done", 1, "")]


def test_what_a_loop_does_it_does_once(events):
    done = []

    def fail(x):
        cb.debug.callback(done.append, x)
        return tools.raise_if(x, x > 1, ValueError, x)

    with jax.disable_jit(), pytest.raises(ValueError):
        tools.fori_loop(0, 9, lambda i, x: fail(x + 1.0), 0.0, progress=BAR)
    assert done == [1.0, 2.0]
    assert events[-1] == ("a", 1) and not bars.innermost
    done.clear()
    with pytest.raises(ValueError):  # of the batch that is left over, which runs by itself
        tools.map(fail, jnp.arange(3.0), batch_size=2, progress=BAR)
    assert sorted(done) == [0.0, 1.0, 2.0]


def test_lengths_that_are_no_python_integers(events):
    assert tools.scan(lambda c, _: (c + 1, None), 0, length=3.0, progress=BAR)[0] == 3
    assert events[-1] == ("a", "done", 3, "")
    (size,) = jax.export.symbolic_shape("n")
    program = jax.jit(lambda x: tools.scan(lambda c, x: (c + x, None), 0.0, x, progress=BAR)[0])
    with pytest.warns(cb.ExportWarning):
        exported = jax.export.export(program, disabled_checks=cb.EXPORT_CHECKS)(
            jax.ShapeDtypeStruct((size,), np.float32)
        )
    assert exported.call(np.ones(4, np.float32)) == 4
    cb.effects_barrier()
    assert events[-1] == ("a", "done", 4, "")


def test_arguments():
    for error, message, make in (
        (
            ValueError,
            "display='lights' is not one of 'auto', 'rich'",
            lambda: tools.Progress(display="lights"),
        ),
        (TypeError, "total=2.5 is not an integer", lambda: tools.Progress(2.5)),
        (ValueError, "total=-1 is negative", lambda: tools.Progress(-1)),
        (TypeError, "label=3 is not a string", lambda: tools.Progress(label=3)),
        (
            ValueError,
            "devices='all' is not 'first' or 'each'",
            lambda: tools.Progress(devices="all"),
        ),
        (
            TypeError,
            "progress=3 is not a label, nor a Progress, nor True",
            lambda: tools.map(jnp.sin, jnp.ones(2), progress=3),
        ),
        (
            TypeError,
            r"the metric m is of type float32\[2\], but a real scalar",
            lambda: BAR.step(m=jnp.ones(2)),
        ),
        (TypeError, "the metric m is not a number", lambda: BAR.step(m="high")),
        (TypeError, r"the metric m is of type complex64\[\]", lambda: BAR.step(m=jnp.complex64(1))),
    ):
        with pytest.raises(error, match=message):
            make()


def test_a_display_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(_displays, "_is_installed", lambda name: False)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"needs rich, which is not installed: pip install 'callbax\[progress\]'",
    ):
        tools.Progress(display="rich")
    assert _displays.resolve("auto") == "text"


def test_steps_without_a_loop_of_tools_count(events):
    bar = tools.Progress(3, "c", display="text")

    @jax.jit
    def train(x):
        bar.step(loss=x)
        return x / 2

    x = 1.0
    for _ in range(4):
        x = train(x)
    assert events == [("c", 1), ("c", 2), ("c", 3), ("c", "done", 3, "loss=0.25"), ("c", 1)]
    bar.close()
    assert events[-1] == ("c", "done", 1, "loss=0.125")
    with tools.Progress(label="d", display="text") as bar:
        jax.jit(lambda x: lax.scan(lambda c, _: (bar.step(), (c, None))[1], x, length=2)[0])(1.0)
        jax.jit(jax.vmap(lambda x: bar.step(m=x)))(jnp.arange(3))
    assert events[-2:] == [("d", 3), ("d", "done", 3, "m=1 [0, 2]")]


def test_a_failure_ends_bars_and_the_next_step_of_another_program_brings_them_back(events):
    other = bars.open(BAR.key, BAR, 9)
    bars.begin(other)

    def fails(i):
        if i == 2:
            raise KeyError("lost")

    def body(i, x):
        cb.debug.callback(fails, i)
        return x

    with pytest.raises(jax.errors.JaxRuntimeError, match="lost"):
        jax.jit(lambda x: tools.fori_loop(0, 5, body, x, progress=BAR))(1.0)
    assert other.state == "stopped"
    assert not any(rows for rows in bars._rows.values())
    bars.begin(other)
    assert other.state == "running"
    bars.end(other)


class BrokenHandler(logging.Handler):
    def emit(self, record):
        raise ValueError("I/O operation on closed file")


@pytest.mark.parametrize("log_fails", [False, True])
def test_a_display_that_fails_is_given_up(caplog, log_fails):
    handler = BrokenHandler() if log_fails else logging.NullHandler()
    logging.getLogger("callbax.tools").addHandler(handler)

    class Broken:
        def show(self, rows):
            raise OSError("no such terminal")

        def close(self):
            raise OSError("still none")

    displays = bars._displays.copy()
    bars._displays["text"] = Broken()
    try:
        for _ in range(2):
            assert scan(1.0) == plain(1.0)
    finally:
        bars._displays.clear()
        bars._displays.update(displays)
        bars._broken.clear()
        logging.getLogger("callbax.tools").removeHandler(handler)
    if log_fails:
        return
    assert [record.getMessage() for record in caplog.records] == [
        "The progress display 'text' has failed, and is off from now on: OSError: no such terminal"
    ]


def test_a_stream_that_nobody_reads_ends_the_bars_alone(caplog):
    pytest.importorskip("rich")

    class Unread(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    bar = tools.Progress(label="a", display="rich")
    try:
        with contextlib.redirect_stderr(Unread()):
            loop = tools.scan(lambda x, _: (jnp.sin(x), None), 1.0, length=3, progress=bar)
            assert loop[0] == plain(1.0)
    finally:
        bars._displays.pop("rich", None)
        bars._broken.clear()
    assert "'rich' has failed, and is off from now on: BrokenPipeError" in caplog.text


def test_lines_of_text(capsys, monkeypatch):
    bars._displays.pop("text", None)
    scan(1.0)
    line = capsys.readouterr().err
    assert line.startswith("a:  100%  3/3  0:00  ") and line.endswith("it/s  m=0.7456\n")
    monkeypatch.setattr(_displays, "_FIRST_LINE", 0.0)
    run = bars.open(BAR.key, BAR, 4)
    bars.begin(run)
    run.tick(1)
    bars.paint()
    bars.end(run)
    assert "a:  25%  1/4  0:00<0:00  " in capsys.readouterr().err
    with contextlib.redirect_stderr(None):
        scan(1.0)
    closed = io.StringIO()
    closed.close()
    with contextlib.redirect_stderr(closed):
        scan(1.0)
    bars._broken.clear()


def test_numbers_as_text():
    assert [_format.duration(s) for s in (0, 61, 3661)] == ["0:00", "1:01", "1:01:01"]
    run = bars.open(BAR.key, BAR, None)
    for speed, text in (
        (0.5, "2 s/it"),
        (12.3, "12.3 it/s"),
        (45678, "45.7k it/s"),
        (2e6, "2M it/s"),
    ):
        run.started, run.ended, run.done = 1.0, 1.0 + 1000 / speed, 1000
        assert _format.rate(run) == text
    assert _format.count(run) == "1000 steps"
    assert _format.number(np.array([1.0, 1.0])) == "1"
    assert _format.number(np.bool_(True)) == "True"
    assert _format.number(jnp.bfloat16(1.5)) == "1.5"
    bars.end(run)


# -- numbers at their limits --------------------------------------------------------------------------
def test_totals_of_any_size_and_type(events):
    bar = tools.Progress(np.int64(2**40), "b", display="text")
    assert bar == tools.Progress(2**40, "b", display="text")
    loop = functools.partial(tools.fori_loop, body_fun=lambda i, x: x + 1, init_val=0)
    opened = []
    with pytest.MonkeyPatch.context() as patch:
        end = Bars.end
        patch.setattr(Bars, "end", lambda self, run: (opened.append(run.total), end(self, run)))
        tools.while_loop(lambda x: x < 3, lambda x: x + 1, 0, progress=bar)
        for lower, upper in ((5, 3), (-100, 100)):
            for dtype in (jnp.int8, jnp.int32):
                loop(dtype(lower), dtype(upper), progress=BAR)
        loop(jnp.uint32(5), jnp.uint32(3), progress=BAR)
        jax.vmap(lambda n: loop(jnp.int8(-9), n, progress=BAR))(jnp.array([3, 127], jnp.int8))
        with jax.enable_x64(True):
            loop(2**40, 2**40 + 5, progress=BAR)
            jax.jit(lambda n: loop(n, n + 7, progress=BAR))(2**40)
    assert opened == [2**40, 0, 0, 200, 200, 0, 136, 5, 7]


def test_more_steps_than_fit_into_32_bits():
    run = bars.open(BAR.key, BAR, None)
    number = np.array(run.number)
    run.done = 2**31 - 3  # the program has been told to call at one of the next 64 steps
    following = _ticks.tick.function(number, np.array(2**31 - 1, np.int32))
    assert run.done == 2**31 - 1
    for _ in range(3):
        # As the program compares: modulo 2**32.
        steps, following = np.int32(following), _ticks.tick.function(number, np.asarray(following))
        with np.errstate(over="ignore"):
            assert 0 < np.int32(following) - steps <= 64
    assert 2**31 + 2 <= run.done <= 2**31 + 3 * 64
    _ticks.end_run.function(number, following, np.array([5, -(2**31) + 500], np.int32))
    assert run.done == 2**31 + 500 and run.state == "done"
    nobody = _ticks.tick.function(np.array(0), np.array(2**31 - 1, np.int32))
    assert np.asarray(nobody) == -2


@pytest.mark.parametrize("batched", ["state", "length", "metric"])
def test_a_batch_without_lanes(events, caplog, batched):
    def program(x):
        if batched == "metric":
            return BAR.step(m=x)
        length = jnp.int32(x) if batched == "length" else 2
        return tools.fori_loop(0, length, lambda i, c: step(c), x, progress=BAR)

    jax.jit(jax.vmap(program))(jnp.zeros(0))
    BAR.close()
    assert [event[:2] for event in events[-1:]] == ([] if batched == "length" else [("a", "done")])
    assert not caplog.records


def test_text_stays_in_its_line():
    bar = tools.Progress(label="two\nlines", display="text")
    run = bars.open(bar.key, bar, None)
    run.metrics = {"a\nb": 1}
    run.done = 1
    assert _format.line(run) == "two lines:  1 step  0:00  a b=1"
    bars.stop()


def test_a_run_that_has_ended_beside_others_has_one_last_line(capsys):
    bars._displays.pop("text", None)
    other = bars.open(BAR.key, BAR, None)
    bars.begin(other)
    scan(1.0, tools.Progress(label="ended", display="text"))
    for _ in range(3):
        bars.paint()
    bars.stop()
    bars.begin(other)
    bars.paint()
    bars.end(other)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines].count("ended") == 1
    assert ["stopped" in line for line in lines].count(True) == 1
    assert lines[-1].startswith("a:") and "stopped" not in lines[-1]


def test_a_run_that_another_failure_has_stopped_before_its_first_step_has_a_time():
    run = bars.open(BAR.key, BAR, 3)
    bars.stop()
    bars.begin(run)
    run.tick(3)
    bars.end(run)
    assert run.elapsed > 0 and run.rate is not None


def test_map_in_batches_of_any_size(events):
    xs = jnp.arange(5.0)
    for size in (0, 1, 2, 5, 7):
        ours = tools.map(jnp.sin, xs, batch_size=size, progress=BAR)
        np.testing.assert_array_equal(ours, lax.map(jnp.sin, xs, batch_size=size))


@pytest.mark.parametrize("shown", [True, False])
def test_true_is_a_bar_without_a_label_and_false_is_none(capsys, shown):
    result = tools.map(lambda x: 2 * x, jnp.arange(3.0), progress=shown)
    cb.effects_barrier()
    assert ("100%  3/3" in capsys.readouterr().err) is shown
    assert np.array_equal(result, [0, 2, 4])
