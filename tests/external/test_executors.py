"""executor=: lanes over the user's executors."""

import concurrent.futures
import gc
import multiprocessing
import pickle
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import loky
import numpy as np
import pytest
import simulators

import callbax as cb
from callbax._jax.frames import PACKAGE

x = np.arange(8, dtype=np.float32)
# On JAX's fast path, some of its versions raise the one for the other.
FAILURE = (jax.errors.JaxRuntimeError, ValueError)
scalar = jax.ShapeDtypeStruct((), np.float32)


def new_processes(workers=2):
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module")
def processes():
    with new_processes() as executor:
        yield executor


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(3) as executor:
        yield executor


@pytest.fixture(scope="module")
def loky_processes():
    executor = loky.ProcessPoolExecutor(2)
    yield executor
    executor.shutdown()


@pytest.fixture(params=["threads", "processes", "loky_processes"])
def executor(request):
    return request.getfixturevalue(request.param)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("effects", ["none", "io"])
def test_agrees_with_a_loop(executor, effects):
    f = cb.external(simulators.scaled, result=cb.like(0), executor=executor, effects=effects)
    weights = np.arange(6, dtype=np.float32).reshape(3, 2)
    loop = np.array([[a + w.sum() + 2 for a in x] for w in weights])
    np.testing.assert_array_equal(jax.jit(f)(x[1], weights[1]), loop[1, 1])
    over_x = jax.vmap(f, (0, None))
    np.testing.assert_array_equal(jax.jit(over_x)(x, weights[2]), loop[2])
    np.testing.assert_array_equal(jax.jit(jax.vmap(over_x, (None, 0)))(x, weights), loop)
    over_weights = jax.vmap(jax.vmap(f, (None, 0)), (0, None))
    np.testing.assert_array_equal(over_weights(x, weights), loop.T)


def test_statics_and_trees(executor):
    f = cb.external(simulators.scaled, result=cb.like(0), executor=executor)
    call = jax.vmap(lambda a: f(a, a, "multiply", tree={"factor": a + 1, "unused": None}))
    np.testing.assert_array_equal(call(x), x * (x + 1))


def test_settings_of_the_caller_hold_in_lanes(executor):
    third = cb.external(simulators.third, result=cb.like(0), executor=executor)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(jax.vmap(third)(np.ones(4)), np.full(4, 1 / 3))
    np.testing.assert_array_equal(jax.vmap(third)(np.ones(4)), np.full(4, np.float32(1) / 3))


def test_out(executor):
    f = cb.external(simulators.write_into, result=cb.like(0), executor=executor, out=True)
    np.testing.assert_array_equal(jax.jit(jax.vmap(f))(x), 3 * x)


def test_arrays_of_jax(executor):
    f = cb.external(simulators.on_jax, result=cb.like(0), executor=executor, arrays="jax")
    np.testing.assert_array_equal(jax.jit(jax.vmap(f))(x), x + 1)


def test_live_lanes_only(executor):
    f = cb.external(simulators.fragile, result=cb.like(0), executor=executor)
    actual = jax.jit(jax.vmap(lambda x: f.call_where(x < 5, x, otherwise=-1)))(x)
    np.testing.assert_array_equal(actual, [0, 1, 2, 3, 4, -1, -1, -1])


def test_a_function_behind_its_external_is_found(executor):
    simulators.hidden.executor = executor
    np.testing.assert_array_equal(jax.jit(jax.vmap(simulators.hidden))(x), x + 1)


def test_single_calls_go_to_the_executor_too(processes):
    f = cb.external(
        simulators.process_number, result=jax.ShapeDtypeStruct((), np.int32), executor=processes
    )
    children = {child.pid for child in multiprocessing.active_children()}
    assert int(jax.jit(f)(x)) in children
    assert set(np.asarray(jax.vmap(f)(x)).tolist()) <= children


def test_workers_do_not_start_xla():
    with new_processes(1) as executor:
        started = cb.external(
            simulators.backends_started,
            result=jax.ShapeDtypeStruct((), np.bool_),
            executor=executor,
        )
        assert not np.asarray(jax.vmap(started)(x)).any()


def test_lambdas_and_closures(processes, loky_processes, threads):
    offset = np.float32(3)
    for executor in (loky_processes, threads):
        f = cb.external(lambda x: x + offset, result=cb.like(0), executor=executor)
        np.testing.assert_array_equal(jax.vmap(f)(x), x + 3)
    f = cb.external(lambda x: x + offset, result=cb.like(0), executor=processes)
    with pytest.raises(FAILURE) as caught:
        jax.vmap(f)(x).block_until_ready()
    error = cb.original_exception(caught.value)
    assert isinstance(error, cb.ExecutorError)
    for part in (
        "lanes 0 to 7 of a batch of 8 of ",
        "test_executors.py",
        "ProcessPoolExecutor",
        "cannot be pickled",
        "Define it with `def` at the top level of a module",
    ):
        assert part in str(error)
    assert error.__cause__.__cause__ is None  # what could not be pickled, and no error in between
    assert PACKAGE not in str(caught.value)


def test_external_functions_that_lanes_call_go_along(loky_processes):
    inner = cb.external(lambda x: x + 1, result=cb.like(0), executor=loky_processes)
    f = cb.external(
        lambda x: np.asarray(jax.vmap(inner)(x)), result=cb.like(0), executor=loky_processes
    )
    np.testing.assert_array_equal(jax.vmap(f)(x.reshape(2, 4)), x.reshape(2, 4) + 1)


def test_static_arguments_that_cannot_be_pickled(processes):
    f = cb.external(simulators.scaled, result=cb.like(0), executor=processes)
    with pytest.raises(FAILURE, match="static argument of scaled .* pickled"):
        jax.vmap(lambda x: f(x, x, how=lambda: None))(x).block_until_ready()


def test_the_first_failing_lane_is_named(executor):
    f = cb.external(simulators.fragile, result=cb.like(0), executor=executor)
    with pytest.raises(FAILURE) as caught:
        jax.vmap(f)(x).block_until_ready()
    assert "5.0 is too large" in str(caught.value)
    assert "in lane 5 of a batch of 8 of fragile" in str(caught.value)
    assert "simulators.py" in str(caught.value)
    assert str(caught.value).count("raise Unfortunate") == 1 and PACKAGE not in str(caught.value)
    f = cb.external(simulators.polite, result=cb.like(0), executor=executor)
    with pytest.raises(simulators.Polite, match="no 0.0"), cb.reraise():
        jax.block_until_ready(jax.vmap(jax.vmap(f))(x.reshape(2, 4)))


def test_wrong_results_name_the_lane(executor):
    f = cb.external(simulators.square, result=scalar, executor=executor)
    with pytest.raises(FAILURE, match=r"Actual: \(2,\)") as caught:
        jax.vmap(f)(x.reshape(4, 2)).block_until_ready()
    assert "in lane 0 of a batch of 4 of square" in str(caught.value)


def test_an_exception_that_refuses_all_comes_from_a_process(processes):
    f = cb.external(simulators.fails_stubbornly, result=cb.like(0), executor=processes)
    with pytest.raises(FAILURE, match="in lane 0 of a batch of 8 of fails_stubbornly") as caught:
        jax.vmap(f)(x).block_until_ready()
    original = cb.original_exception(caught.value)
    assert str(original) == "Stubborn: important"
    assert "in the worker process" in original.__notes__[0]
    squares = cb.external(simulators.square, result=cb.like(0), executor=processes)
    np.testing.assert_array_equal(jax.vmap(squares)(x), x**2)  # the pool is whole


def test_results_that_cannot_be_pickled(processes):
    f = cb.external(simulators.unpicklable_result, result=cb.like(0), executor=processes)
    with pytest.raises(FAILURE, match="did not come back.*(ickle|local object)"):
        jax.vmap(f)(x).block_until_ready()


@pytest.mark.full  # it takes seconds
@pytest.mark.timeout(60)  # it must not wait for the worker for ever
@pytest.mark.parametrize(
    "make", [new_processes, lambda: loky.ProcessPoolExecutor(2)], ids=["", "loky"]
)
def test_a_worker_that_is_killed(make):
    f = cb.external(simulators.dies_at_three, result=cb.like(0), executor=make())
    program = jax.jit(jax.vmap(f))
    np.testing.assert_array_equal(program(x + 10), x + 10)  # the workers have started
    with pytest.raises(FAILURE) as caught:
        program(x).block_until_ready()
    error = cb.original_exception(caught.value)
    assert isinstance(error, cb.ExecutorError)
    assert isinstance(error.__cause__, concurrent.futures.BrokenExecutor)
    for part in ("of a batch of 8 of dies_at_three", "simulators.py", "died", "assign a fresh one"):
        assert part in str(error)
    with pytest.raises(FAILURE, match="takes no work"):
        program(x + 10).block_until_ready()
    f.executor.shutdown()
    with make() as fresh:
        f.executor = fresh
        assert f.executor is fresh
        np.testing.assert_array_equal(program(x + 10), x + 10)


@pytest.mark.full  # it takes seconds
def test_a_factory_makes_a_fresh_executor_after_a_death():
    made = []

    def factory():
        made.append(new_processes(1))
        return made[-1]

    f = cb.external(simulators.dies_at_three, result=cb.like(0), executor=factory)
    assert made == []
    with pytest.raises(FAILURE, match="the next call uses a fresh executor"):
        jax.vmap(f)(x).block_until_ready()
    np.testing.assert_array_equal(jax.vmap(f)(x + 10), x + 10)
    made[-1].shutdown()
    np.testing.assert_array_equal(jax.vmap(f)(x + 10), x + 10)
    assert len(made) == 3
    made[-1].shutdown()


def test_an_executor_that_is_shut_down():
    executor = ThreadPoolExecutor(1)
    f = cb.external(simulators.square, result=cb.like(0), executor=executor)
    np.testing.assert_array_equal(jax.vmap(f)(x), x * x)
    executor.shutdown()
    with pytest.raises(FAILURE) as caught:
        jax.vmap(f)(x).block_until_ready()
    error = cb.original_exception(caught.value)
    assert isinstance(error, cb.ExecutorError)
    for part in ("lanes 0 to 7 of a batch of 8 of square", "ThreadPoolExecutor", "shut down"):
        assert part in str(error)


def test_an_executor_that_is_shut_down_meanwhile():
    executor = ThreadPoolExecutor(1)
    began, go_on = threading.Event(), threading.Event()

    def slow(x):
        began.set()
        go_on.wait(20)
        return x

    f = cb.external(slow, result=cb.like(0), executor=executor)
    failure = []

    def call():
        try:
            jax.vmap(f)(x).block_until_ready()
        except FAILURE as error:
            failure.append(str(error))

    caller = threading.Thread(target=call)
    caller.start()
    assert began.wait(20)
    while executor._work_queue.qsize() < 3:  # of four chunks
        time.sleep(0.01)
    executor.shutdown(wait=False, cancel_futures=True)
    go_on.set()
    caller.join(20)
    assert len(failure) == 1
    assert "lanes 2 to 3 of a batch of 8 of " in failure[0] and "cancelled them" in failure[0]


def test_after_a_failure_the_later_chunks_do_not_run():
    ran = []

    def fails(x):
        ran.append(float(x))
        raise ValueError("no")

    with ThreadPoolExecutor(1) as executor:
        f = cb.external(fails, result=cb.like(0), executor=executor)
        with pytest.raises(FAILURE, match="in lane 0 of a batch of 400"):
            jax.vmap(f)(np.arange(400, dtype=np.float32)).block_until_ready()
    assert len(ran) <= 4  # one for each chunk at most


def test_calls_within_calls_on_one_executor():
    """All threads of the executor wait for calls inside; those must not wait for a free thread."""
    with ThreadPoolExecutor(2) as executor:
        inner = cb.external(lambda x: x + 1, result=cb.like(0), executor=executor)
        middle = cb.external(
            lambda x: np.asarray(jax.jit(jax.vmap(inner))(x)).sum(),
            result=scalar,
            executor=executor,
        )
        f = jax.jit(jax.vmap(middle))
        grid = np.arange(32, dtype=np.float32).reshape(8, 4)
        for _ in range(5):
            np.testing.assert_array_equal(f(grid), grid.sum(1) + 4)


def test_jax_work_with_arrays_that_the_function_holds(threads):
    weights = jnp.eye(300)

    @cb.external(result=scalar, executor=threads)
    def f(x):
        return np.asarray((weights @ weights * x).sum())

    program = jax.jit(lambda a: jax.vmap(f)((a @ a)[:4, 0]))
    pending = [program(jnp.full((300, 300), i, jnp.float32)) for i in range(40)]
    for i, result in enumerate(pending):
        np.testing.assert_allclose(result, np.full(4, 300.0 * 300 * i * i), rtol=1e-5)


def test_lanes_are_sent_in_chunks():
    submitted = []

    class Recording(ThreadPoolExecutor):
        def submit(self, *args, **kwargs):
            submitted.append(args)
            return super().submit(*args, **kwargs)

    with Recording(2) as executor:
        f = cb.external(simulators.square, result=cb.like(0), executor=executor)
        a = np.arange(1000, dtype=np.float32)
        np.testing.assert_array_equal(jax.vmap(f)(a), a * a)
        assert len(submitted) == 8
        np.testing.assert_array_equal(jax.vmap(f)(x[:3]), x[:3] ** 2)
        assert len(submitted) == 11


def test_self_test():
    with ThreadPoolExecutor(2) as executor:
        f = cb.external(simulators.square, result=cb.like(0), executor=executor)
        f.defjvps(lambda t, ans, x: 2 * t * x)
        assert cb.check(f, x, print_table=False).ok


def test_nothing_is_sent_twice():
    """An argument that lanes share is one array in each chunk."""
    f = cb.external(simulators.scaled, result=cb.like(0), executor=lambda: None)
    sizes = []

    class Measuring(ThreadPoolExecutor):
        def submit(self, task, chunk):
            sizes.append(len(pickle.dumps(chunk)))
            return super().submit(task, chunk)

    with Measuring(1) as executor:
        f.executor = executor
        shared = np.zeros(10_000, np.float32)
        jax.block_until_ready(jax.vmap(f, (0, None))(np.zeros(64, np.float32), shared))
    assert sum(sizes) < 5 * shared.nbytes


def test_equality_and_replacement_do_not_retrace(threads):
    f = cb.external(simulators.square, result=cb.like(0), executor=threads)
    traced = []

    @jax.jit
    def program(x):
        traced.append(1)
        return jax.vmap(f)(x)

    program(x)
    with ThreadPoolExecutor(1, "another") as another:
        f.executor = another
        np.testing.assert_array_equal(program(x), x * x)
        assert any(t.name.startswith("another") for t in threading.enumerate())
    assert len(traced) == 1


def test_executors_are_let_go():
    class Watched(ThreadPoolExecutor):
        living = 0

        def __init__(self, *args):
            super().__init__(*args)
            Watched.living += 1

        def __del__(self):
            Watched.living -= 1

    def use():
        with Watched(1) as executor:
            f = cb.external(lambda x: x, result=cb.like(0), executor=executor)
            jax.block_until_ready(jax.jit(jax.vmap(f))(x))

    for _ in range(3):
        use()
    jax.clear_caches()
    gc.collect()
    assert Watched.living <= 1


def test_bad_executors():
    with pytest.raises(
        TypeError, match=r"square .*executor= must be a concurrent.futures.Executor"
    ):
        cb.external(simulators.square, result=cb.like(0), executor="processes")
    with pytest.raises(TypeError, match=r"got <class .*ThreadPoolExecutor'>"):
        cb.external(simulators.square, result=cb.like(0), executor=ThreadPoolExecutor)
    with pytest.raises(ValueError, match=r"executor= and vmap_method='threads'"):
        cb.external(
            simulators.square, result=cb.like(0), executor=lambda: None, vmap_method="threads"
        )
    f = cb.external(simulators.square, result=cb.like(0), executor=lambda: None)
    with pytest.raises(FAILURE, match=r"the factory executor= returned must be"):
        jax.vmap(f)(x).block_until_ready()
    f = cb.external(simulators.square, result=cb.like(0))
    with pytest.raises(AttributeError, match=r"square .*was made without executor="):
        f.executor = ThreadPoolExecutor(1)
