"""One Ctrl-C ends a program whose callback runs long."""

import pytest

CALLBACKS = {
    "in C": "time.sleep(60)",
    "in Python": "while True: pass",
}
CALLS = {
    "pure": "cb.pure_callback(callback, scalar, x)",
    "io": "cb.io_callback(callback, scalar, x)",
    "ordered": "cb.io_callback(callback, scalar, x, ordered=True)",
    "debug": "(cb.debug.callback(callback, x), x)[1]",
}
WAITS = [
    "result.block_until_ready()",
    "np.asarray(result)",
    "float(result)",
    "print(result)",
    "cb.effects_barrier(); time.sleep(60)",
]
# Far above what is measured (0.1 to 0.7 s), for busy machines.
SOON = 5.0


def program(call: str, body: str, wait: str, size: int) -> str:
    return f"""
def callback(x):
    print("ready", flush=True)
    {body}
    return np.float32(1)

result = jax.jit(lambda a: (lambda x: {call})((a @ a).sum()))(jnp.ones(({size}, {size})))
{wait}
print("came to the end")
"""


@pytest.mark.parametrize("size", [2, 300], ids=["calling thread", "XLA's thread"])
@pytest.mark.parametrize("body", CALLBACKS)
@pytest.mark.parametrize("call", CALLS)
def test_interrupt_ends_the_program(run_program, call, body, size):
    finished = run_program(
        program(CALLS[call], CALLBACKS[body], WAITS[0], size), interrupt=True, deadline=20
    )
    assert finished.returncode != 0
    assert "came to the end" not in finished.output
    assert finished.seconds_after_signal < SOON


@pytest.mark.parametrize("wait", WAITS)
def test_wherever_the_main_thread_waits(run_program, wait):
    finished = run_program(
        program(CALLS["pure"], CALLBACKS["in C"], wait, 300), interrupt=True, deadline=20
    )
    assert finished.returncode != 0
    assert "came to the end" not in finished.output
    assert finished.seconds_after_signal < SOON


SHORT = {
    "a C function": "cb.pure_callback(np.sin, scalar, x)",
    "a C function with effects": "cb.io_callback(np.sin, scalar, x)",
    "lanes": "jax.vmap(lambda x: cb.pure_callback(np.sin, scalar, x))(x + jnp.arange(3.0))[0]",
    "a Python function": "cb.pure_callback(lambda x: x, scalar, x)",
    "a compiled loop": "cb.ufunc(np.sin)(x)",
    "a checked compiled loop": "checked(x)",
}


@pytest.mark.parametrize("size", [2, 300], ids=["calling thread", "XLA's thread"])
@pytest.mark.parametrize("call", SHORT.values(), ids=SHORT)
def test_a_long_loop_of_short_calls_is_stopped(run_program, call, size):
    finished = run_program(
        f"""
        def checked(x):
            with np.errstate(divide="raise"):
                return cb.ufunc(np.sin)(x)
        def step(x, _):
            return {call}, None
        @jax.jit
        def program(a):
            return lax.scan(step, (a @ a).sum(), None, length=1_000_000_000)[0]
        program.lower(jnp.ones(({size}, {size}))).compile()
        threading.Timer(0.5, print, ("ready",), dict(flush=True)).start()
        try:
            program(jnp.ones(({size}, {size}))).block_until_ready()
        except (KeyboardInterrupt, jax.errors.JaxRuntimeError):
            time.sleep(0.2)  # where the thread of XLA was interrupted, Python's own comes now
        print("came to the end")
        """,
        interrupt=True,
        deadline=20,
    )
    assert "KeyboardInterrupt" in finished.output
    assert finished.seconds_after_signal < SOON


def test_a_signal_handler_runs_in_a_loop_of_c_functions(run_program):
    finished = run_program(
        """
        import signal
        signal.signal(signal.SIGALRM, lambda *_: (print("handled", flush=True), sys.exit(7)))
        def step(x, _):
            return cb.pure_callback(np.sin, scalar, x), None
        signal.setitimer(signal.ITIMER_REAL, 2)
        jax.jit(lambda x: lax.scan(step, x, None, length=1_000_000_000)[0])(1.0)
        """,
        deadline=30,
    )
    assert "handled" in finished.output, finished.output


def test_code_that_retries_on_errors_is_ended_too(run_program):
    finished = run_program(
        """
        def callback(x):
            print("ready", flush=True)
            time.sleep(60)
            return x
        program = jax.jit(lambda x: cb.pure_callback(callback, scalar, x))
        while True:
            try:
                program(np.float32(1))
            except Exception:
                pass
        """,
        interrupt=True,
        deadline=20,
    )
    assert finished.returncode != 0
    assert "KeyboardInterrupt" in finished.output


def test_a_handler_of_the_users_own_still_runs(run_program):
    finished = run_program(
        """
        import signal
        signal.signal(signal.SIGINT, lambda *_: (print("handled", flush=True), sys.exit(7)))
        def callback(x):
            print("ready", flush=True)
            time.sleep(60)
            return x
        jax.jit(lambda x: cb.io_callback(callback, scalar, x))(np.float32(1))
        """,
        interrupt=True,
        deadline=20,
    )
    assert "handled" in finished.output, finished.output


def test_an_interrupt_in_time_leaves_the_next_call_alone(run_program):
    finished = run_program(
        """
        logging.disable(logging.CRITICAL)
        slow = True
        def callback(x):
            if slow:
                print("ready", flush=True)
                while True:
                    pass
            return x
        program = asynchronous(lambda x: cb.pure_callback(callback, scalar, x))
        try:
            try:
                program(big).block_until_ready()
            except jax.errors.JaxRuntimeError:
                time.sleep(1)  # back in Python, this thread gets its own interrupt
        except KeyboardInterrupt:
            print("interrupted")
        time.sleep(1)
        slow = False
        for _ in range(20):
            program(big).block_until_ready()
        print("went on")
        """,
        interrupt=True,
        deadline=30,
    )
    assert finished.returncode == 0, finished.output
    assert "interrupted" in finished.output
    assert "went on" in finished.output


@pytest.mark.parametrize("hook", ["", "sys.excepthook = lambda *error: print('mine', error[0])"])
def test_an_error_that_nobody_catches_is_shown(run_program, hook):
    finished = run_program(
        f"""
        {hook}
        def callback(x):
            if x:
                print("ready", flush=True)
                time.sleep(60)
            return x
        program = jax.jit(lambda x: cb.pure_callback(callback, scalar, x))
        for x in np.float32([0, 0, 1]):  # from the second on, JAX calls from C++
            program(x)
        """,
        interrupt=True,
        deadline=20,
    )
    assert finished.returncode == 1
    shown = "mine <class 'ValueError'>" if hook else "ValueError: INTERNAL: callbax.pure_callback"
    assert shown in finished.output, finished.output
    assert "lost sys.stderr" not in finished.output
    assert "Error in sys.excepthook" not in finished.output
