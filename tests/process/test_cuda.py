"""Ctrl-C and exit where the handler for NVIDIA GPUs calls, over a stand-in for the driver."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import fake_cuda
import pytest
from process.conftest import PREAMBLE

pytestmark = [
    pytest.mark.cold,
    pytest.mark.skipif(fake_cuda.compiler() is None, reason="there is no C++ compiler"),
]

TESTS = Path(__file__).resolve().parents[1]
ON_FAKE_CUDA = f"""
import atexit, sys
sys.path.insert(0, {str(TESTS)!r})
import fake_cuda
atexit.register(lambda: print("freed", driver.fake_calls(b"cuMemFreeHost")))
fake_cuda.run_all_programs_so()
driver = fake_cuda.library()
{PREAMBLE}
"""


@pytest.fixture
def run_on_cuda(run_program):
    fake_cuda.library()  # built once, for all
    return functools.partial(run_program, preamble=ON_FAKE_CUDA)


INTERRUPTED = """
def callback(x):
    print("ready")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("the callback is interrupted")
        raise
    return x

program = jax.jit(lambda x: {call})
try:
    jax.block_until_ready(program(jnp.ones(1000)))
    print("came to the end")
except KeyboardInterrupt as error:
    print("the program is interrupted")
print(jax.jit(lambda x: cb.pure_callback(np.sin, x, x))(0.0))
"""
CALLS = {
    "pure": "cb.pure_callback(callback, x, x)",
    "ordered": "cb.io_callback(callback, x, x, ordered=True)",
    "debug": "cb.debug.callback(callback, x)",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("runtime", ["run_program", "run_on_cuda"])
def test_ctrl_c_reaches_the_callback_and_then_the_program(request, runtime, call):
    run = request.getfixturevalue(runtime)
    finished = run(INTERRUPTED.format(call=CALLS[call]), interrupt=True)
    assert finished.returncode == 0, finished.output
    assert "the callback is interrupted\n" in finished.output
    assert "the program is interrupted\n0.0" in finished.output


def test_ctrl_c_while_the_operands_are_on_their_way(run_on_cuda):
    finished = run_on_cuda(
        """
        program = jax.jit(lambda x: cb.io_callback(lambda x: x, x, x))  # on the calling thread
        program(jnp.ones(1000)).block_until_ready()
        driver.fake_delay(2_000_000, 0)
        print("ready")
        try:
            try:
                program(jnp.ones(1000)).block_until_ready()
            except Exception:
                pass
            for _ in range(600):
                time.sleep(0.1)
        except KeyboardInterrupt:
            print("interrupted")
        """,
        interrupt=True,
    )
    assert finished.returncode == 0, finished.output
    assert "interrupted" in finished.output


SLOW = """
def slow(x):
    print("begun")
    time.sleep(0.5)
    print("done")
"""


@pytest.mark.parametrize("ordered", [False, True])
def test_effects_in_flight_finish_and_nothing_is_freed(run_on_cuda, ordered):
    finished = run_on_cuda(
        f"""{SLOW}
program = asynchronous(lambda x: cb.io_callback(slow, None, x, ordered={ordered}))
for _ in range(3): program(big)
"""
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.count("done") == 3
    assert finished.output.endswith("freed 0\n")


def test_exit_while_a_daemon_thread_is_in_a_callback(run_on_cuda):
    finished = run_on_cuda(
        f"""{SLOW}
program = jax.jit(lambda x: cb.io_callback(slow, None, x))
threading.Thread(target=program, args=(jnp.ones(1000),), daemon=True).start()
time.sleep(0.3)
"""
    )
    assert finished.returncode == 0, finished.output
    assert "done" in finished.output and finished.output.endswith("freed 0\n")


def test_exit_while_a_daemon_thread_is_in_a_callback_that_does_not_end(run_on_cuda):
    finished = run_on_cuda(
        """
        begun = threading.Event()

        def callback(x):
            begun.set()
            time.sleep(60)

        program = jax.jit(lambda x: cb.io_callback(callback, None, x))
        threading.Thread(target=program, args=(jnp.ones(1000),), daemon=True).start()
        begun.wait()
        """
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.endswith("freed 0\n")


def test_where_the_driver_has_ended_a_call_fails_quietly(run_on_cuda):
    finished = run_on_cuda(
        """
        def callback(x):
            driver.fake_fail(b"cuMemcpyHtoDAsync_v2", 1, 4)
            return x

        try:
            jax.jit(lambda x: cb.pure_callback(callback, x, x))(jnp.ones(1000)).block_until_ready()
        except jax.errors.JaxRuntimeError as error:
            print(error)
        """
    )
    assert finished.returncode == 0, finished.output
    assert "the process is ending, and CUDA's driver has ended" in finished.output


@pytest.mark.full  # it compiles the stand-in once more
def test_the_stand_in_leaves_nothing_behind(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "CALLBAX_LIBCUDA": ""}
    program = f"""
import os, sys
sys.path.insert(0, {str(TESTS)!r})
import fake_cuda
fake_cuda.library()
child = os.fork()
if child == 0:
    sys.exit()
os.waitpid(child, 0)
print(os.path.exists(os.environ["CALLBAX_LIBCUDA"]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "True\n", done.stderr
    assert not list(tmp_path.glob("callbax-*"))


# -- effects that programs do not wait for ---------------------------------------------------------
DETACHED = """
from callbax._runtime import detached
detached._PLATFORMS = ("cpu",)

def slow(x):
    time.sleep(0.2)
    print("done", x.item(0))
"""


@pytest.fixture
def run_detached(run_on_cuda):
    def run(source, **environment):
        variables = {"CALLBAX_DETACHED": "1", **environment}
        program = DETACHED + textwrap.dedent(source)
        return run_on_cuda(program, environment=variables)

    return run


def test_exit_waits_for_detached_calls_and_shows_what_failed(run_detached):
    finished = run_detached(
        """
        def fail(x):
            raise KeyError("lost")

        for i in range(3):
            jax.jit(lambda x: cb.io_callback(slow, None, x, ordered=True))(i)
        jax.jit(lambda x: cb.debug.callback(fail, x))(1.0)
        print("the end of the program")
        """
    )
    assert finished.returncode == 0, finished.output
    lines = finished.output.splitlines()
    assert [line for line in lines if line.startswith(("the end", "done"))] == [
        "the end of the program",
        "done 0",
        "done 1",
        "done 2",
    ]
    assert "callbax: an error surfaced only at exit: " in finished.output
    assert "KeyError: 'lost'" in finished.output


def test_exit_by_ctrl_c_does_not_wait_for_many_detached_calls(run_detached):
    finished = run_detached(
        """
        program = jax.jit(lambda x: cb.io_callback(slow, None, x))
        for i in range(1000):
            program(i)
        raise KeyboardInterrupt
        """
    )
    assert finished.returncode == -signal.SIGINT, finished.output
    assert finished.output.count("done") < 20


def test_a_forked_child_does_not_wait_for_detached_calls_of_its_parent(run_detached):
    finished = run_detached(
        """
        import warnings
        warnings.simplefilter("ignore")
        program = jax.jit(lambda x: cb.io_callback(slow, None, x))
        for i in range(3):
            program(i)
        child = os.fork()
        if child == 0:
            detached.wait()
            print("child")
            os._exit(0)
        os.waitpid(child, 0)
        """
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.index("child") < finished.output.index("done 2")


def test_detached_calls_hold_half_of_the_page_locked_memory_at_most(run_detached):
    finished = run_detached(
        """
        program = jax.jit(lambda x: cb.io_callback(lambda x: time.sleep(0.01), None, x))
        most = 0
        for i in range(40):
            program(jnp.ones(8 << 10))
            most = max(most, cb._native.cuda_statistics()["held_bytes"])
        cb.effects_barrier()
        print(most, cb._native.cuda_statistics()["ordinary_blocks"])
        """,
        CALLBAX_PINNED_LIMIT=str(256 << 10),
    )
    assert finished.returncode == 0, finished.output
    most, ordinary = map(int, finished.output.splitlines()[0].split())
    assert 64 << 10 <= most <= 128 << 10 and ordinary == 0
