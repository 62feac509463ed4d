"""JAX inside callbacks never hangs: each row of the table of known hangs, and a few more."""

import textwrap

import pytest

FLAVOURS = {
    "pure": "lambda x: cb.pure_callback(callback, scalar, x)",
    "io": "lambda x: cb.io_callback(callback, scalar, x)",
    "ordered": "lambda x: cb.io_callback(callback, scalar, x, ordered=True)",
}

CALLBACKS = {
    "jitted program that is not cheap": """
        heavy = jax.jit(lambda a: jnp.sum(a @ a @ a))
        def callback(x):
            return np.float32(heavy(np.ones((300, 300), np.float32) * x))
    """,
    "eager jax.numpy": """
        def callback(x):
            return np.float32(jnp.dot(jnp.ones((200, 200)), jnp.ones((200, 200))).sum() + x)
    """,
    "jitted eigenvalues": """
        eig = jax.jit(lambda a: jnp.real(jnp.linalg.eigvals(a)).sum())
        def callback(x):
            return np.float32(eig(np.eye(300, dtype=np.float32) * x))
    """,
    "closure over a committed array": """
        heavy = jax.jit(lambda a: jnp.sum(a @ a @ a))
        def make(weights):
            def callback(x):
                return np.float32(heavy(weights * x))
            return callback
        callback = make(jax.device_put(jnp.eye(300), jax.devices()[0]))
    """,
    "global that is a committed array, in a partial's helper": """
        import functools
        weights = jax.device_put(jnp.eye(300), jax.devices()[0])
        heavy = jax.jit(lambda a: jnp.sum(a @ a @ a))
        def helper(scale, x):
            return heavy(weights * scale * x)
        def inner(scale, x):
            return np.float32(helper(scale, x))
        callback = functools.partial(inner, jax.device_put(jnp.float32(2), jax.devices()[0]))
    """,
    "closure over a dict of lists of committed arrays": """
        heavy = jax.jit(lambda a: jnp.sum(a @ a @ a))
        def make(parameters):
            def callback(x):
                parameters["calls"].append(1)
                return np.float32(heavy(parameters["w"][0] * x))
            return callback
        parameters = {"w": [jax.device_put(jnp.eye(300), jax.devices()[0])], "calls": []}
        callback = make(parameters)
    """,
    "committed array inside an object": """
        class Model:
            def __init__(self):
                self.layers = {"w": [jax.device_put(jnp.eye(300), jax.devices()[0])]}
        model = Model()
        heavy = jax.jit(lambda a: jnp.sum(a @ a @ a))
        def callback(x):
            return np.float32(heavy(model.layers["w"][0] * x))
    """,
}


def in_flight(callback, flavour):
    """48 calls whose inputs are ready, and 40 whose inputs are being computed."""
    return (
        textwrap.dedent(CALLBACKS[callback])
        + f"""
program = asynchronous({FLAVOURS[flavour]})
results = [program(big) for _ in range(48)]
y = big
for _ in range(40):
    y = jnp.sum(y @ y) * 0 + big
    results.append(program(y))
jax.block_until_ready(results)
cb.effects_barrier()
print("all ran", len(results))
"""
    )


@pytest.mark.sampled(8)
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("callback", CALLBACKS)
def test_many_programs_in_flight(run_program, callback, flavour):
    finished = run_program(in_flight(callback, flavour))
    assert finished.returncode == 0, finished.output
    assert "all ran 88" in finished.output


def test_one_thread(run_program):
    finished = run_program(
        """
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        heavy = jax.jit(lambda a: jnp.sum(a @ a @ a))
        def callback(x):
            return np.float32(heavy(np.ones((300, 300), np.float32)))
        program = asynchronous(lambda x: cb.pure_callback(callback, scalar, x))
        print("result", float(program(big)))
        """
    )
    assert finished.returncode == 0, finished.output
    assert "result 8099999744.0" in finished.output


def test_asynchronous_dispatch_disabled(run_program):
    finished = run_program(
        """
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        def callback(x):
            return np.float32(jax.jit(lambda a: jnp.sum(a @ a))(np.ones((300, 300), np.float32)))
        program = asynchronous(lambda x: cb.pure_callback(callback, scalar, x))
        jax.block_until_ready([program(big) for _ in range(40)])
        print("all ran")
        """
    )
    assert "all ran" in finished.output, finished.output


def test_callback_inside_a_callback(run_program):
    finished = run_program(
        """
        def inner(x):
            return np.sin(x)
        def outer(x):
            return np.asarray(asynchronous(lambda v: cb.pure_callback(inner, scalar, v))(
                np.full((300, 300), x)))
        program = asynchronous(lambda x: cb.pure_callback(outer, scalar, x * 0 + 0.5))
        results = [program(big) for _ in range(40)]
        expected = np.sin(np.float32(300**3 * 0.25))
        np.testing.assert_allclose(np.array(results), expected, rtol=1e-5)
        print("all equal")
        """
    )
    assert "all equal" in finished.output, finished.output


def test_failing_jax_call_inside_a_callback(run_program):
    finished = run_program(
        """
        logging.disable(logging.CRITICAL)
        def callback(x):
            return jnp.ones(3) + jnp.ones(4)
        for call in (lambda x: cb.pure_callback(callback, scalar, x),
                     lambda x: cb.io_callback(callback, scalar, x)):
            for _ in range(3):
                try:
                    asynchronous(call)(big).block_until_ready()
                except jax.errors.JaxRuntimeError as error:
                    print(type(cb.original_exception(error)).__name__)
        """
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.count("TypeError") == 6, finished.output


def test_callbacks_of_one_thread_share_thread_local_data(run_program):
    finished = run_program(
        """
        local = threading.local()
        def callback(x):
            local.count = getattr(local, "count", 0) + 1
            return np.float32(local.count)
        program = jax.jit(lambda a: lax.scan(
            lambda c, _: (c, cb.io_callback(callback, scalar, c)), (a @ a).sum(), length=5)[1])
        print("counts", program(big))
        """
    )
    assert "counts [1. 2. 3. 4. 5.]" in finished.output, finished.output


@pytest.mark.full  # a test of endurance
def test_callbacks_nested_to_any_depth(run_program):
    finished = run_program(
        """
        def heavy(y):
            for _ in range(4):
                y = jnp.tanh(y @ y / 300)
            return y
        def make(depth):
            def callback(x):
                return np.float32(1 if depth == 0 else np.asarray(make(depth - 1)(np.asarray(x))) + 1)
            return jax.jit(lambda x: (lambda y: cb.pure_callback(callback, scalar, y)
                                      + heavy(y)[0, 0] * 0)(heavy(x * 0)))
        print("depths", [float(make(depth)(big)) for depth in range(7)])
        """
    )
    assert "depths [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]" in finished.output, finished.output


# -- more callbacks at once than XLA's client has places for programs in flight (32) ---------------------
def test_a_nest_deeper_than_a_client_has_places(run_program):
    finished = run_program(
        """
        sys.setrecursionlimit(10_000)
        def make(depth, most):
            def callback(x):
                if depth == most:
                    return np.float32(depth)
                inner = cb.pure_callback(make(depth + 1, most), scalar, x)
                return np.asarray(jnp.abs(inner))
            return callback
        for most in (3, 20, 70):
            print("depth", float(cb.pure_callback(make(0, most), scalar, np.float32(0))))
        """
    )
    assert finished.output.split("\n")[-4:-1] == ["depth 3.0", "depth 20.0", "depth 70.0"]


AT_ONCE = {
    "inline": "program = jax.jit(lambda x: cb.pure_callback(callback, scalar, x))",
    "with effects": "program = jax.jit(lambda x: cb.io_callback(callback, scalar, x, ordered=True))",
    "nested": """
program = jax.jit(lambda x: cb.pure_callback(lambda x: np.asarray(inner(x)), scalar, x))
inner = jax.jit(lambda x: cb.io_callback(callback, scalar, x))
""",
    "threads": """
lanes = cb.external(callback, result=scalar, vmap_method="threads")
program = jax.jit(lambda x: jax.vmap(lanes)(x + jnp.arange(3.0))[0])
""",
    "executor": """
from concurrent.futures import ThreadPoolExecutor
lanes = cb.external(callback, result=scalar, executor=ThreadPoolExecutor(3))
program = jax.jit(lambda x: jax.vmap(lanes)(x + jnp.arange(2.0))[0])
""",
    "large": """
large = asynchronous(lambda s: cb.pure_callback(callback, scalar, s * 0 + s / 27e6))
program = lambda x: large(jnp.full((300, 300), x)) * 0 + x * 0 + jnp.sin(x)
""",
}


@pytest.mark.parametrize("kind", AT_ONCE)
def test_more_threads_than_a_client_has_places(run_program, kind):
    # Each callback waits for the others, as long as more of them may come.
    finished = run_program(
        f"""
from concurrent.futures import ThreadPoolExecutor as Pool
inside, most = [0], [0]
lock = threading.Lock()
def callback(x):
    with lock:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
    end = time.monotonic() + 3
    while time.monotonic() < end and most[0] < {32 if kind in ("inline", "with effects") else 1}:
        time.sleep(0.01)
    value = np.asarray(jnp.sin(x))
    with lock:
        inside[0] -= 1
    return value
{AT_ONCE[kind]}
with Pool(48) as pool:
    results = list(pool.map(lambda i: float(program(np.float32(i))), range(48)))
np.testing.assert_allclose(results, np.sin(np.arange(48)), atol=1e-5)
print("all ran, at once", most[0])
"""
    )
    assert finished.returncode == 0, finished.output
    assert "all ran" in finished.output
    if kind in ("inline", "with effects"):
        assert "at once 32" in finished.output


@pytest.mark.full  # a test of endurance
def test_more_callbacks_with_committed_arrays_than_a_client_has_places(run_program):
    finished = run_program(
        """
        logging.disable(logging.CRITICAL)
        from concurrent.futures import ThreadPoolExecutor
        weights = jax.device_put(jnp.float32(2), jax.devices()[0])
        inside = [0]
        def callback(x):
            inside[0] += 1
            end = time.monotonic() + 3
            while time.monotonic() < end and inside[0] < 23:
                time.sleep(0.01)
            return np.asarray(jnp.sin(x * weights))
        program = jax.jit(lambda x: cb.pure_callback(callback, scalar, x))
        def use(i):
            try:
                return float(program(np.float32(i)))
            except jax.errors.JaxRuntimeError as error:
                return str(cb.original_exception(error))
        with ThreadPoolExecutor(40) as pool:
            results = list(pool.map(use, range(40)))
        for i, result in enumerate(results):
            if isinstance(result, float):
                assert abs(result - np.sin(np.float32(2 * i))) < 1e-5
            else:
                print(result)
        print("went on", use(1))
        """
    )
    assert finished.returncode == 0, finished.output
    assert "The callback callback (<string>:" in finished.output
    assert "committed to a device, and 23 such callbacks are running already" in finished.output
    assert "went on 0.909" in finished.output


def test_a_client_that_cannot_be_made_is_an_error_that_names_the_callback(run_program):
    finished = run_program(
        """
        from callbax._jax import runtime
        def no_client():
            raise MemoryError("no more threads")
        runtime.make_cpu_device = no_client
        def nest(depth):
            def nested_callback(x):
                return np.asarray(nest(depth - 1)(x)) if depth else x
            return lambda x: cb.pure_callback(nested_callback, scalar, x)
        try:
            nest(12)(1.0).block_until_ready()
        except jax.errors.JaxRuntimeError as error:
            print(error)
        """.replace(
            "asynchronous(lambda x: cb.pure_callback(nest(12), scalar, x))(big)", "nest(12)(1.0)"
        ).replace(
            "        try:",
            """        def nest(depth):
            def nested_callback(x):
                return np.asarray(nest(depth - 1)(x)) if depth else x
            return lambda x: cb.pure_callback(nested_callback, scalar, x)
        try:""",
        )
    )
    assert finished.returncode == 0, finished.output
    assert "nested_callback" in finished.output
    assert "needs a CPU client of its own, the 1th of this process" in finished.output


def test_callbacks_with_arrays_give_the_threads_of_the_pool_back(run_program):
    # Several callbacks of one program at once, each of which needs the pool, on a pool of one thread.
    finished = run_program(
        """
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        size = 1000
        weights = jax.device_put(jnp.eye(size), jax.devices()[0])
        heavy = jax.jit(lambda a: jnp.sum(a @ a))
        def callback(x):
            return np.float32(heavy(weights * (x * 0 + 1)))
        @jax.jit
        def program(a):
            return sum(cb.io_callback(callback, scalar, (a @ (a * k)).sum()) for k in range(4))
        print("sum", float(program(jnp.eye(size))))
        """,
        deadline=120,
    )
    assert finished.returncode == 0, finished.output
    assert "sum 4000.0" in finished.output
