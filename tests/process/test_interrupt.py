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
            program(big).block_until_ready()
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
