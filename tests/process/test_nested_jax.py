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


def in_flight(callback, flavour, *, pending):
    """48 calls whose inputs are ready and, if `pending`, 40 whose inputs are being computed."""
    return (
        textwrap.dedent(CALLBACKS[callback])
        + f"""
program = asynchronous({FLAVOURS[flavour]})
results = [program(big) for _ in range(48)]
y = big
for _ in range({40 if pending else 0}):
    y = jnp.sum(y @ y) * 0 + big
    results.append(program(y))
jax.block_until_ready(results)
cb.effects_barrier()
print("all ran", len(results))
"""
    )


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("callback", [name for name in CALLBACKS if "committed" not in name])
def test_many_programs_in_flight(run_program, callback, flavour):
    finished = run_program(in_flight(callback, flavour, pending=True))
    assert finished.returncode == 0, finished.output
    assert "all ran 88" in finished.output


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("callback", [name for name in CALLBACKS if "committed" in name])
def test_many_programs_in_flight_whose_callback_holds_committed_arrays(
    run_program, callback, flavour
):
    # With inputs that are being computed, arrays inside objects may still get stuck (see _nested.py).
    pending = "object" not in callback
    finished = run_program(in_flight(callback, flavour, pending=pending))
    assert finished.returncode == 0, finished.output
    assert f"all ran {88 if pending else 48}" in finished.output


def test_what_may_still_get_stuck_says_so(run_program):
    finished = run_program(
        """
        weights = jnp.eye(3)
        def callback(x):
            weights.shape
            if isinstance(threading.current_thread(), threading._DummyThread):
                time.sleep(11)  # as a callback that waits for JAX for ever would
            return np.float32(1)
        program = asynchronous(lambda x: cb.pure_callback(callback, scalar, x))
        program(big).block_until_ready()
        y = big
        for _ in range(20):
            y = y @ big * 0 + big
        program(y).block_until_ready()
        """
    )
    assert finished.returncode == 0, finished.output
    assert "has run for 10 s. It holds jax Arrays" in finished.output


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
