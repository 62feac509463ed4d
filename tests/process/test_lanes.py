"""Lanes over threads and executors when a program is interrupted, ends or forks."""

import pytest

PROGRAM = """
@cb.external(result=scalar, vmap_method="threads")
def lane(x):
    {body}
    return np.float32(1)

@jax.jit
def program(a):
    return jax.vmap(lane)((a @ a)[0, :2])
"""
BODIES = {
    "in C": 'print("ready", flush=True); time.sleep(60)',
    "in Python": 'print("ready", flush=True)\n    while True: pass',
}
SOON = 5.0


@pytest.mark.parametrize("size", [2, 300], ids=["calling thread", "XLA's thread"])
@pytest.mark.parametrize("body", BODIES)
def test_interrupt_ends_the_program(run_program, body, size):
    finished = run_program(
        PROGRAM.format(body=BODIES[body])
        + f"program(jnp.ones(({size}, {size}))).block_until_ready()\nprint('came to the end')",
        interrupt=True,
        deadline=30,
    )
    assert finished.returncode != 0
    assert "came to the end" not in finished.output
    assert finished.seconds_after_signal < SOON


def test_an_interrupt_in_time_leaves_the_next_call_alone(run_program):
    finished = run_program(
        """
        logging.disable(logging.CRITICAL)
        slow = True
        @cb.external(result=cb.like(0), vmap_method="threads")
        def lane(x):
            if slow:
                print("ready", flush=True)
                while slow:
                    time.sleep(0.01)
            return x
        program = jax.jit(jax.vmap(lane))
        x = np.arange(20, dtype=np.float32)
        try:
            program(x).block_until_ready()
        except KeyboardInterrupt:
            print("interrupted")
        time.sleep(1)
        slow = False
        for _ in range(20):
            assert (program(x) == x).all()
        print("went on")
        """,
        interrupt=True,
        deadline=30,
    )
    assert finished.returncode == 0, finished.output
    assert "interrupted" in finished.output
    assert "went on" in finished.output


@pytest.mark.full  # it takes seconds
def test_interrupt_while_an_executor_works(run_program):
    finished = run_program(
        """
        from concurrent.futures import ThreadPoolExecutor
        executor = ThreadPoolExecutor(1)
        def lane(x):
            print("ready", flush=True)
            time.sleep(5)
            ended.append(x)
            return x
        ended = []
        f = cb.external(lane, result=cb.like(0), executor=executor)
        try:
            jax.vmap(f)(np.arange(20, dtype=np.float32)).block_until_ready()
        except BaseException as error:
            assert not ended, "waited for the lane"
            print("interrupted by", "KeyboardInterrupt" in str(error) + type(error).__name__)
        """,
        interrupt=True,
        deadline=30,
    )
    assert "interrupted by True" in finished.output, finished.output
    assert finished.output.count("ready") == 1  # no other lane has begun


def test_effects_of_lanes_in_flight_finish(run_program):
    finished = run_program(
        """
        @cb.external(result=None, effects="io", vmap_method="threads")
        def lane(x):
            time.sleep(0.2)
            print("done", end=" ")
        jax.jit(lambda a: jax.vmap(lane)((a @ a)[0, :6]))(big)
        """
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.count("done") == 6


def test_pure_lanes_in_flight_do_no_harm(run_program):
    finished = run_program(
        PROGRAM.format(body="time.sleep(0.2)")
        + "pending = [program(big) for _ in range(10)]\ntime.sleep(0.1)"
    )
    assert finished.returncode == 0, finished.output


def test_fork_gives_a_clear_error_in_the_child(run_program):
    finished = run_program(
        PROGRAM.format(body="pass")
        + """
import warnings
warnings.simplefilter("ignore")  # JAX's own warning about fork
print(program(big))
child = os.fork()
if child == 0:
    try:
        print("child got", program(big))
    except RuntimeError as error:
        print("child raised", error)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
print("parent got", program(big))
"""
    )
    assert finished.returncode == 0, finished.output
    assert "child raised callbax does not work in a forked child" in finished.output
    assert "parent got [1. 1.]" in finished.output


def test_a_thread_pool_of_one_core_makes_progress(run_program):
    finished = run_program(
        """
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        inner = cb.external(lambda x: x + 1, result=cb.like(0), vmap_method="threads")
        f = cb.external(lambda x: np.asarray(jax.vmap(inner)(x)), result=cb.like(0),
                        vmap_method="threads")
        print(jax.jit(jax.vmap(f))(np.zeros((3, 3), np.float32)).sum())
        """
    )
    assert finished.returncode == 0, finished.output
    assert "9.0" in finished.output


def test_main_of_a_program_that_spawns_workers(run_program, tmp_path):
    """The module that is run as a program is found by the workers, and not run again."""
    script = tmp_path / "program.py"
    script.write_text(
        """
import multiprocessing, numpy as np
from concurrent.futures import ProcessPoolExecutor
import jax, callbax as cb

@cb.external(result=cb.like(0), executor=lambda: ProcessPoolExecutor(
    1, mp_context=multiprocessing.get_context("spawn")))
def triple(x):
    return 3 * x

if __name__ == "__main__":
    print("sum", jax.vmap(triple)(np.arange(5.0)).sum())
"""
    )
    finished = run_program(
        f"""
        import subprocess
        run = subprocess.run([sys.executable, {str(script)!r}], capture_output=True, text=True)
        print(run.stdout, run.stderr)
        sys.exit(run.returncode)
        """
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.count("sum 30.0") == 1


def test_workers_that_cannot_import_the_function_say_so(run_program):
    """A program given with `python -c` has no file that a worker could import."""
    finished = run_program(
        """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        logging.disable(logging.CRITICAL)
        def lane(x):
            return x
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
            f = cb.external(lane, result=cb.like(0), executor=executor)
            for _ in range(2):  # the worker lives on
                try:
                    jax.vmap(f)(np.ones(3, np.float32)).block_until_ready()
                except Exception as error:
                    print("said:", cb.original_exception(error))
        """
    )
    assert finished.returncode == 0, finished.output
    said = "said: lane 0 of a batch of 3 of lane (<string>"
    assert finished.output.count(said) == 2, finished.output
    assert "could not get hold of the function" in finished.output


def test_a_pool_of_forked_workers(run_program):
    """Not recommended, but lanes of plain NumPy work."""
    finished = run_program(
        """
        import multiprocessing, warnings
        from concurrent.futures import ProcessPoolExecutor
        warnings.simplefilter("ignore")  # JAX's own warning about fork
        def lane(x):
            return x + 1
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            f = cb.external(lane, result=cb.like(0), executor=executor)
            print(jax.vmap(f)(np.ones(3, np.float32)))
        """
    )
    assert "[2. 2. 2.]" in finished.output, finished.output
