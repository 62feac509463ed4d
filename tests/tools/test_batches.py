"""tools.Batches: what each transformation takes; sources; the end; errors; restart; close; the thread."""

import contextlib
import contextvars
import dataclasses
import gc
import itertools
import threading
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compile_count, devices
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

import callbax as cb
from callbax import tools

NUMBERS = np.arange(1, 101, dtype=np.float32)  # batch i is the number i + 1


@pytest.fixture(params=[2, 0, 1])
def prefetch(request):
    return request.param


@pytest.fixture
def batches(prefetch):
    with tools.Batches(NUMBERS, prefetch=prefetch) as batches:
        yield batches


def take(batches, count):
    """A jitted program that takes so many; lists."""
    taken, valid = jax.jit(lambda: lax.scan(lambda c, _: (c, batches.next()), 0, length=count)[1])()
    return jax.tree.map(lambda array: array.tolist(), taken), valid.tolist()


def error_of(batches):
    """The source's exception, as the program gets it."""
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        take(batches, 1)
    error = cb.original_exception(caught.value)
    assert error is not None
    return error


def thread_of(batches):
    return batches._prefetcher._thread


def ended(thread):
    thread.join(10)
    return not thread.is_alive()


# -- transformations -------------------------------------------------------------------------------
def scan(batches):
    def step(x, _):
        batch, valid = batches.next()
        return jnp.where(valid, x * batch, -1), None

    return lambda x: lax.scan(step, x, length=3)[0]


def scan_of_checkpoint(batches):
    step = jax.checkpoint(lambda x, _: (x * batches.next()[0], None))
    return lambda x: lax.scan(step, x, length=3)[0]


def fori_loop(batches):
    return lambda x: lax.fori_loop(0, 3, lambda i, x: x * batches.next()[0], x)


def while_loop(batches):
    def body(state):
        i, x = state
        return i + 1, x * batches.next()[0]

    return lambda x: lax.while_loop(lambda s: s[0] < 3, body, (0, x))[1]


def unrolled(batches):
    return lambda x: x * batches.next()[0] * batches.next()[0] * batches.next()[0]


def cond(batches):
    def one(x):
        return lax.cond(x > 0, lambda x: x * batches.next()[0], lambda x: x, x)

    return lambda x: lax.cond(x < 0, lambda x: x * batches.next()[0], lambda x: x, one(one(one(x))))


PROGRAMS = [scan, scan_of_checkpoint, fori_loop, while_loop, unrolled, cond]
# Each gives 1 * 2 * 3 for 1.0, and takes three batches.
THREE = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "vmap": lambda f: lambda x: jax.vmap(f)(jnp.full(4, x))[3],
    "jit of nested vmap": lambda f: (
        lambda x: jax.jit(jax.vmap(jax.vmap(f)))(jnp.full((2, 3), x))[1, 2]
    ),
    "grad": jax.grad,
    "jit of grad": lambda f: jax.jit(jax.grad(f)),
    "vmap of grad": lambda f: lambda x: jax.vmap(jax.grad(f))(jnp.full(4, x))[2],
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x,))[1],
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](x),
    "grad of checkpoint": lambda f: jax.grad(jax.checkpoint(f)),
    "jit of grad of checkpoint": lambda f: jax.jit(jax.grad(jax.checkpoint(f))),
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("transformation", THREE)
@pytest.mark.parametrize("program", PROGRAMS)
def test_three_batches_are_taken_in_order(batches, program, transformation):
    if program is while_loop and ("grad" in transformation or transformation == "linearize"):
        pytest.skip("there is no reverse mode for while_loop: see below")
    if program is cond and "vmap" in transformation:
        pytest.skip("JAX runs both branches: see below")
    function = THREE[transformation](program(batches))
    assert float(function(1.0)) == 6.0
    assert batches.position == 3
    assert float(function(1.0)) == 4.0 * 5.0 * 6.0
    assert batches.position == 6


def test_linearize_of_a_while_loop_keeps_no_batches(batches):
    with pytest.raises(NotImplementedError, match=r"needs what the callback Batches\(ndarray\)"):
        jax.linearize(while_loop(batches), 1.0)
    assert batches.position == 0


def test_a_batched_condition_takes_for_all(batches):
    def branch(x):
        return lax.cond(x > 0, lambda: batches.next()[0], lambda: 10 * batches.next()[0])

    # JAX runs both branches, the one for False first.
    assert jax.jit(jax.vmap(branch))(jnp.array([1.0, -1.0])).tolist() == [2.0, 10.0]
    assert batches.position == 2


def test_a_batched_while_loop_takes_until_the_last_lane_has_ended(batches):
    def count(n):
        return lax.while_loop(lambda x: x < n, lambda x: x + batches.next()[0], 0.0)

    assert jax.jit(jax.vmap(count))(jnp.array([1.0, 4.0])).tolist() == [1.0, 6.0]
    assert batches.position == 3


def mesh():
    return jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices(8))


@pytest.mark.parametrize("check_vma", [True, False])
def test_each_device_of_shard_map_takes_its_own(batches, check_vma):
    spec = PartitionSpec("x")

    def three(x):
        return lax.scan(lambda x, _: (x, batches.next()[0]), x, length=3)[1]

    function = jax.shard_map(three, mesh=mesh(), in_specs=spec, out_specs=spec, check_vma=check_vma)
    taken = np.asarray(jax.jit(function)(jnp.zeros(8))).reshape(8, 3)
    assert (np.diff(taken) > 0).all()
    assert sorted(taken.flat) == list(range(1, 25))
    assert batches.position == 24


def test_gradients_of_shared_weights_are_summed_over_devices(batches):
    def gradient(w):
        return jax.grad(lambda w: w * batches.next()[0])(w)

    whole = PartitionSpec()
    function = jax.shard_map(gradient, mesh=mesh(), in_specs=whole, out_specs=whole)
    assert float(jax.jit(function)(jnp.float32(1))) == 36.0


def test_a_program_that_the_compiler_distributes_takes_once(batches):
    xs = jax.device_put(jnp.ones(8), NamedSharding(mesh(), PartitionSpec("x")))
    assert jax.jit(scan(batches))(xs).tolist() == [6.0] * 8
    assert batches.position == 3


@pytest.mark.filterwarnings("ignore:.*pmap.*:DeprecationWarning")
def test_each_device_of_pmap_takes_its_own(batches):
    taken = jax.pmap(lambda x: x + batches.next()[0], devices=devices(8))(jnp.zeros(8))
    assert sorted(taken.tolist()) == list(range(1, 9))


def test_a_program_is_traced_and_compiled_once(batches):
    traced = []

    @jax.jit
    def program():
        traced.append(1)
        return batches.next()[0] + batches.next()[0]

    with compile_count() as compiled:
        assert [float(program()) for _ in range(3)] == [3.0, 7.0, 11.0]
    assert len(traced) == 1 and len(compiled) <= 2  # what `float` needs is the other
    with compile_count() as compiled:
        [batches.next() for _ in range(5)]
    assert len(compiled) <= 1


# -- sources ---------------------------------------------------------------------------------------
TREE = {"x": np.float32([1, 2]), "y": (np.int32(3), None)}


class DataSet:
    """Has item i, and a length."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, i):
        assert isinstance(i, int)
        return self.batches[i]


class Anew:
    """An iterable that is no sequence."""

    def __init__(self, batches):
        self.batches = batches
        self.begun = 0

    def __iter__(self):
        self.begun += 1
        yield from self.batches


FIVE = [np.float32(i) for i in range(5)]
SOURCES = {
    "list": lambda: FIVE,
    "tuple": lambda: tuple(FIVE),
    "array": lambda: np.arange(5, dtype=np.float32),
    "jax Array": lambda: jnp.arange(5, dtype=jnp.float32),
    "list of jax Arrays": lambda: [jnp.float32(i) for i in range(5)],
    "range": lambda: range(5),
    "data set": lambda: DataSet(FIVE),
    "iterable": lambda: Anew(FIVE),
    "dict view": lambda: dict(enumerate(FIVE)).values(),
    "iterator": lambda: iter(FIVE),
    "generator": lambda: (x for x in FIVE),
    "map": lambda: map(np.float32, range(5)),
}


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("source", SOURCES)
def test_sources(source, prefetch):
    with tools.Batches(SOURCES[source](), prefetch=prefetch) as batches:
        assert take(batches, 3) == ([0, 1, 2], [True] * 3)
        assert take(batches, 4) == ([3, 4, 0, 0], [True, True, False, False])
        assert batches.position == 5
        assert take(batches, 2) == ([0, 0], [False, False])
        assert batches.position == 5


def test_a_batch_is_a_tree(prefetch):
    with tools.Batches([TREE, jax.tree.map(lambda x: 2 * x, TREE)], prefetch=prefetch) as batches:
        first, second, third = (jax.jit(batches.next)() for _ in range(3))
    assert first[0]["y"][1] is None and first[0]["x"].dtype == np.float32
    assert jax.tree.map(lambda x: x.tolist(), second) == ({"x": [2, 4], "y": (6, None)}, True)
    assert jax.tree.map(lambda x: x.tolist(), third) == ({"x": [0, 0], "y": (0, None)}, False)


@pytest.mark.parametrize("dtype", ["bool", "int4", "uint8", "bfloat16", "float16", "complex64"])
def test_dtypes(dtype):
    data = np.arange(6).reshape(3, 2).astype(jnp.dtype(dtype))
    with tools.Batches(data) as batches:
        taken, valid = jax.jit(batches.next)()
        assert taken.dtype == data.dtype and taken.tolist() == data[0].tolist() and valid


def test_wide_numbers_are_narrowed_unless_x64_is_enabled_when_it_is_made(prefetch):
    data = np.array([[2.5, 0.1]])
    with tools.Batches(data, prefetch=prefetch) as batches:
        assert jax.jit(batches.next)()[0].dtype == np.float32
    like = jax.ShapeDtypeStruct((2,), np.float64)
    with jax.enable_x64(True):
        for options in ({}, {"like": like}):
            with tools.Batches(data, prefetch=prefetch, **options) as batches:
                taken = jax.jit(batches.next)()[0]
                assert taken.dtype == np.float64 and taken.tolist() == [2.5, 0.1]
    with tools.Batches(data, like=like, prefetch=prefetch) as batches:
        assert jax.jit(batches.next)()[0].dtype == np.float32


def test_the_other_byte_order(prefetch):
    swapped = np.arange(4.0).reshape(2, 2).astype(np.dtype(float).newbyteorder("S"))
    for like in (None, swapped[0]):
        with tools.Batches(swapped, like=like, prefetch=prefetch) as batches:
            assert take(batches, 2) == (swapped.tolist(), [True, True])


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_mapped_file(tmp_path, prefetch, order):
    shape = (4, 300, 50)
    file = np.memmap(tmp_path / "data", np.float32, "w+", shape=shape, order=order)
    file[:] = np.arange(file.size).reshape(shape)
    file.flush()
    mapped = np.memmap(tmp_path / "data", np.float32, "r", shape=shape, order=order)
    with tools.Batches(mapped, prefetch=prefetch) as batches:
        for i in range(4):
            np.testing.assert_array_equal(jax.jit(batches.next)()[0], file[i])
        read = (
            batches._prefetcher
        )  # what waits is the file's own memory if it lies there in one piece
        batches.restart()
        waiting = read.first()[0]
        assert np.shares_memory(waiting, mapped) == (order == "C")


def test_arrays_wait_without_a_copy(prefetch):
    data = [np.ones(1000, np.float32), np.full(1000, 2, np.float32)]
    with tools.Batches(data, prefetch=prefetch) as batches:
        assert batches._prefetcher.first()[0] is data[0]


def test_a_source_that_reuses_its_array_is_read_when_it_is_taken():
    def reusing():
        array = np.zeros(3, np.float32)
        for i in range(4):
            array[:] = i
            yield array

    with tools.Batches(reusing(), prefetch=0) as batches:
        assert take(batches, 4)[0] == [[i] * 3 for i in range(4)]


def test_the_first_batch_is_not_lost_and_like_reads_nothing():
    read = []

    def numbers():
        for i in range(3):
            read.append(i)
            yield np.float32(i)

    with tools.Batches(numbers(), prefetch=0) as batches:
        assert read == [0]
        assert take(batches, 3)[0] == [0, 1, 2]
    read.clear()
    with tools.Batches(numbers(), like=np.float32(0), prefetch=0) as batches:
        assert read == []
        assert take(batches, 3)[0] == [0, 1, 2]


def test_the_source_sees_the_contextvars_of_the_maker():
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    with tools.Batches(map(lambda i: i * variable.get(), range(1, 3))) as batches:
        assert take(batches, 2)[0] == [7, 14]


def test_the_thread_alone_reads(prefetch):
    with tools.Batches(
        map(lambda i: np.int64(threading.get_ident() % 2**31), range(4)), prefetch=2
    ) as b:
        assert set(take(b, 4)[0]) == {thread_of(b).ident % 2**31}


def test_no_more_than_prefetch_are_read_ahead():
    read = []
    source = map(lambda i: (read.append(i), np.float32(i))[1], itertools.count())
    with tools.Batches(source, prefetch=3) as batches:
        for taken in (0, 2, 4):
            deadline = time.monotonic() + 10
            while len(read) < taken + 3 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.05)
            assert len(read) == taken + 3
            assert batches.position == taken
            take(batches, 2)


# -- what it cannot be -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "source", [3, None, {"a": 1}, "text", lambda: [1], np.array(3), jnp.array(3)]
)
def test_what_is_not_a_source(source):
    with pytest.raises(TypeError, match="a source of batches is"):
        tools.Batches(source)


def test_options_that_are_wrong():
    with pytest.raises(ValueError, match="prefetch=-1 is negative"):
        tools.Batches([1], prefetch=-1)
    with pytest.raises(TypeError, match="integer"):
        tools.Batches([1], prefetch=1.5)
    with pytest.raises(
        TypeError, match=r"Batches\(list\): like=\['a'\] is str, but needs a shape and"
    ):
        tools.Batches([1], like={"a": "text"})


def test_an_empty_source(prefetch):
    for empty in ([], iter(())):
        with pytest.raises(ValueError, match=r"Batches\(.*\) is empty, so say by like="):
            tools.Batches(empty, prefetch=prefetch)
    with tools.Batches([], like=TREE, prefetch=prefetch) as batches:
        assert take(batches, 1)[1] == [False]


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        (np.array(["text"]), "batch 0 of Batches(list) has the dtype <U4"),
        (object(), "batch 0 of Batches(list) has the dtype object"),
        ({"a": np.datetime64("2020")}, "batch 0['a'] of Batches(list) has the dtype datetime64"),
        (np.zeros(2, [("x", int)]), "batch 0 of Batches(list) has the dtype [('x', '<i8')]"),
        (np.zeros(2, np.longdouble), "batch 0 of Batches(list) has the dtype float128"),
        (
            np.zeros(2, jax.dtypes.float0),
            "batch 0 of Batches(list) has the dtype [('float0', 'V')]",
        ),
    ],
)
def test_what_is_not_a_batch(batch, problem, prefetch):
    with pytest.raises(TypeError) as caught:
        tools.Batches([batch], prefetch=prefetch)
    assert problem in str(caught.value)


def test_a_source_must_not_compute_with_jax(prefetch):
    with pytest.raises(
        TypeError, match="batch 0 of .* is a jax Array, but a source must not compute"
    ):
        tools.Batches((jnp.float32(i) for i in range(3)), prefetch=prefetch)


LIKE = {"x": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        (
            {"x": np.zeros(3, np.float32)},
            "batch 1['x'] of Batches(list) is float32[3], but float32[2]",
        ),
        ({"x": np.zeros(2, np.int32)}, "batch 1['x'] of Batches(list) is int32[2], but float32[2]"),
        ({"y": np.zeros(2, np.float32)}, "batch 1 of Batches(list) has the structure"),
    ],
)
def test_a_batch_that_does_not_fit(batch, problem, prefetch):
    with tools.Batches([LIKE, batch], prefetch=prefetch) as batches:
        take(batches, 1)
        error = error_of(batches)
        assert type(error) is ValueError and problem in str(error)
        assert batches.position == 1


def test_the_first_batch_may_contradict_like(prefetch):
    with tools.Batches(NUMBERS, like=LIKE, prefetch=prefetch) as batches:
        assert "batch 0 of Batches(ndarray) has the structure" in str(error_of(batches))


# -- errors of the source --------------------------------------------------------------------------
def test_the_very_exception_surfaces_each_time(prefetch):
    mine = KeyError("mine")

    def numbers():
        yield np.float32(0)
        yield np.float32(1)
        raise mine

    with tools.Batches(numbers(), prefetch=prefetch) as batches:
        assert take(batches, 2)[0] == [0, 1]
        for _ in range(2):  # the generator has ended, but its data has not
            assert error_of(batches) is mine
        assert "callbax: raised where Batches(numbers) read batch 2" in mine.__notes__
        assert batches.position == 2


def test_an_exception_that_takes_no_notes_surfaces(prefetch):
    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        value: int

    def numbers():
        yield np.float32(0)
        raise Frozen(3)

    with tools.Batches(numbers(), prefetch=prefetch) as batches:
        take(batches, 1)
        error = error_of(batches)
    assert error == Frozen(3) and "read batch 1" in error.__notes__[0]


def test_an_exception_in_the_first_batch_is_raised_at_once(prefetch):
    def numbers():
        raise KeyError("mine")
        yield

    with pytest.raises(KeyError, match="mine"):
        tools.Batches(numbers(), prefetch=prefetch)


def test_a_restart_goes_on_after_an_exception(prefetch):
    class Flaky(DataSet):
        fails = True

        def __getitem__(self, i):
            if i == 1 and self.fails:
                raise OSError("the disk is gone")
            return super().__getitem__(i)

    source = Flaky(FIVE)
    with tools.Batches(source, prefetch=prefetch) as batches:
        take(batches, 1)
        assert isinstance(error_of(batches), OSError)
        source.fails = False
        batches.restart(batches.position)
        assert take(batches, 4)[0] == [1, 2, 3, 4]


@pytest.mark.parametrize("stop", [SystemExit, KeyboardInterrupt])
def test_an_interrupt_of_the_source_is_for_one_program(stop):
    def numbers():
        yield np.float32(0)
        raise stop

    with tools.Batches(numbers()) as batches:
        take(batches, 1)
        with pytest.raises((stop, jax.errors.JaxRuntimeError)):
            take(batches, 1)
        error = error_of(batches)
        assert f"batch 1 of Batches(numbers) was interrupted ({stop.__name__})" in str(error)


# -- position and restart --------------------------------------------------------------------------
@pytest.mark.parametrize("source", ["list", "array", "data set", "iterable", "dict view"])
def test_restart(source, prefetch):
    with tools.Batches(SOURCES[source](), prefetch=prefetch) as batches:
        take(batches, 4)
        batches.restart()
        assert batches.position == 0
        assert take(batches, 2)[0] == [0, 1]
        saved = batches.position
        take(batches, 5)
        batches.restart(saved)
        assert batches.position == 2
        assert take(batches, 4) == ([2, 3, 4, 0], [True] * 3 + [False])
        batches.restart(5)
        assert take(batches, 1)[1] == [False]
    with tools.Batches(SOURCES[source](), prefetch=prefetch) as batches:  # another process
        batches.restart(saved)
        assert take(batches, 1)[0] == [2]


def test_restarts_that_are_not_possible(prefetch):
    for source in ("iterator", "generator", "map"):
        with tools.Batches(SOURCES[source](), prefetch=prefetch) as batches:
            with pytest.raises(
                TypeError, match=r"the source of Batches\(.*\) is .*cannot begin anew"
            ):
                batches.restart()
            assert take(batches, 5)[0] == [0, 1, 2, 3, 4]
    with tools.Batches(FIVE, prefetch=prefetch) as batches:
        with pytest.raises(ValueError, match="there is no batch 6: the source has 5 batches"):
            batches.restart(6)
        with pytest.raises(ValueError, match="position=-1 is negative"):
            batches.restart(-1)
        assert take(batches, 1)[0] == [0]
    with tools.Batches(Anew(FIVE), prefetch=prefetch) as batches:
        batches.restart(6)
        assert "there is no batch 6: the source has 5 batches" in str(error_of(batches))


def test_a_read_that_a_restart_overtakes_is_dropped():
    slow = threading.Event()

    class Slow(DataSet):
        def __getitem__(self, i):
            if i == 2:
                slow.wait(10)
            return super().__getitem__(i)

    with tools.Batches(Slow(FIVE), prefetch=4) as batches:
        take(batches, 2)
        batches.restart()
        slow.set()
        assert take(batches, 5)[0] == [0, 1, 2, 3, 4]


def test_many_threads_take_each_batch_once(prefetch):
    with tools.Batches(NUMBERS, prefetch=prefetch) as batches:
        program = jax.jit(lambda: lax.scan(lambda c, _: (c, batches.next()[0]), 0, length=20)[1])
        program.lower().compile()
        taken = []
        threads = [
            threading.Thread(target=lambda: taken.extend(program().tolist())) for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == NUMBERS.tolist()


# -- the end ---------------------------------------------------------------------------------------
def test_use_after_close(prefetch):
    batches = tools.Batches(NUMBERS, prefetch=prefetch)
    program = jax.jit(batches.next)
    program()
    thread = thread_of(batches)
    batches.close()
    batches.close()
    assert thread is None or not thread.is_alive()
    assert batches.position == 1
    match = r"Batches\(ndarray\) is closed, but was asked for another batch"
    with pytest.raises(RuntimeError, match=match):
        batches.next()
    with pytest.raises(RuntimeError, match=match):
        batches.restart()
    with pytest.raises(jax.errors.JaxRuntimeError, match=match):
        program()


def test_a_program_that_waits_when_it_is_closed_ends():
    going = threading.Event()
    source = map(lambda i: (i and going.wait(10), np.float32(i))[1], itertools.count())
    batches = tools.Batches(source)
    program = jax.jit(lambda: (batches.next(), batches.next()))
    threading.Timer(0.2, batches._prefetcher.end).start()
    with pytest.raises(jax.errors.JaxRuntimeError, match="is closed"):
        jax.block_until_ready(program())
    going.set()
    assert ended(thread_of(batches))


def test_an_error_in_the_block_does_not_wait_for_the_source():
    going = threading.Event()
    source = map(lambda i: (i and going.wait(30), np.float32(i))[1], itertools.count())
    start = time.monotonic()
    with contextlib.suppress(KeyError), tools.Batches(source) as batches:
        raise KeyError
    assert time.monotonic() - start < 20
    going.set()
    assert ended(thread_of(batches))


def test_the_thread_ends_with_the_last_program():
    batches = tools.Batches(NUMBERS)
    thread, alive = thread_of(batches), weakref.ref(batches)
    program = jax.jit(batches.next).lower().compile()
    del batches
    jax.clear_caches()
    gc.collect()
    assert float(program()[0]) == 1.0 and alive() is not None
    del program
    jax.clear_caches()
    gc.collect()
    cb.effects_barrier()
    assert alive() is None and ended(thread)


def test_it_says_what_it_is():
    with tools.Batches(NUMBERS) as batches:
        take(batches, 2)
        assert repr(batches) == "<Batches(ndarray), position 2>"
