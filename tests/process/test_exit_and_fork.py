"""Leaving while callbacks are in flight, and forking."""

import pytest

pytestmark = pytest.mark.cold

EFFECTFUL = {
    "io": "lambda x: cb.io_callback(slow, scalar, x)",
    "ordered io": "lambda x: cb.io_callback(slow, scalar, x, ordered=True)",
    "debug": "lambda x: (cb.debug.callback(slow, x), x)[1]",
    "print": "lambda x: (cb.debug.print('done {}', x), x)[1]",
}
SLOW = """
def slow(x):
    time.sleep(0.5)
    print("done", end=" ")
    return np.float32(1)
"""


@pytest.mark.parametrize("call", EFFECTFUL)
def test_effects_in_flight_finish(run_program, call):
    finished = run_program(
        f"{SLOW}\nprogram = asynchronous({EFFECTFUL[call]})\nfor _ in range(3): program(big)"
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.count("done") == 3


def test_exit_code_is_kept(run_program):
    finished = run_program(f"{SLOW}\nasynchronous({EFFECTFUL['io']})(big)\nsys.exit(3)")
    assert finished.returncode == 3
    assert "done" in finished.output


@pytest.mark.parametrize("daemon", [False, True])
@pytest.mark.parametrize("call", ["io", "ordered io", "debug"])
def test_effects_of_other_threads_finish(run_program, call, daemon):
    finished = run_program(
        f"{SLOW}\nprogram = asynchronous({EFFECTFUL[call]})\n"
        f"threading.Thread(target=program, args=(big,), daemon={daemon}).start()\ntime.sleep(0.8)"
    )
    assert finished.returncode == 0, finished.output
    assert "done" in finished.output


@pytest.mark.full  # it takes seconds
def test_pure_callbacks_in_flight_do_no_harm(run_program):
    finished = run_program(
        f"""{SLOW}
program = asynchronous(lambda x: cb.pure_callback(slow, scalar, x))
pending = [program(big) for _ in range(40)]
time.sleep(0.2)
"""
    )
    assert finished.returncode == 0, finished.output


def test_a_thread_of_the_pool_that_is_in_jax_is_waited_for(run_program):
    """Python ends daemon threads where they want the GIL again, which C++ code takes for an abort."""
    finished = run_program(
        """
from callbax._jax import runtime

entered = threading.Event()
make = runtime.make_cpu_device

def make_many():
    entered.set()
    return [make() for _ in range(10)][0]

runtime.make_cpu_device = make_many

def lane(x):
    entered.wait(20)  # the other lane's thread is in JAX when this one fails, and the program ends
    raise ValueError("failed")

f = cb.external(lane, result=scalar, vmap_method="threads")
try:
    jax.block_until_ready(jax.jit(jax.vmap(f))(np.zeros(2, np.float32)))
except Exception as error:
    print("ValueError: failed" in str(error))
"""
    )
    assert finished.returncode == 0, finished.output
    assert "True" in finished.output


def test_use_in_an_atexit_function(run_program):
    finished = run_program(
        """
        import atexit
        program = asynchronous(lambda x: cb.pure_callback(np.sqrt, scalar, x))
        program(big)
        atexit.register(lambda: print("at exit", float(program(big))))
        """
    )
    assert finished.returncode == 0, finished.output
    assert "at exit 5196.1" in finished.output


def test_an_error_that_nobody_asked_for_is_shown_at_exit(run_program):
    finished = run_program(
        """
        logging.disable(logging.CRITICAL)
        from jax.sharding import PartitionSpec as P
        mesh = jax.make_mesh((4,), ("i",))
        x = jax.device_put(jnp.arange(4.0), jax.NamedSharding(mesh, P("i")))
        def callback(x):
            raise ValueError("lost otherwise")
        jax.jit(jax.shard_map(lambda x: cb.io_callback(callback, x, x), mesh=mesh,
                              in_specs=P("i"), out_specs=P("i")))(x)
        """,
        devices=4,
    )
    assert "lost otherwise" in finished.output


FORK = """
import warnings
warnings.simplefilter("ignore")  # JAX's own warning about fork
child = os.fork()
if child == 0:
    try:
        print("child got", use())
    except RuntimeError as error:
        print("child raised", error)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
print("parent got", use())
"""


@pytest.mark.parametrize(
    "use",
    [
        "program = asynchronous(lambda x: cb.pure_callback(np.sqrt, scalar, x))\n"
        "def use(): return float(program(big))",
        "program = jax.jit(lambda x: cb.pure_callback(np.sqrt, scalar, x))\n"
        "def use(): return float(program(np.float32(27e6)))",
        "program = asynchronous(lambda x: cb.io_callback(np.sqrt, scalar, x, ordered=True))\n"
        "def use(): return float(program(big))",
        "def use(): return float(cb.pure_callback(np.sqrt, scalar, np.float32(27e6)))",
        "def use(): return float(cb.pure_callback(lambda x: np.sqrt(x), scalar, np.float32(27e6)))",
        "program = asynchronous(cb.ufunc(np.sqrt))\ndef use(): return float(program(big))",
    ],
    ids=["asynchronous", "inline", "ordered", "eager", "compiled in the child", "loop"],
)
def test_fork_gives_a_clear_error_in_the_child(run_program, use):
    finished = run_program(f"{use}\nuse()\n{FORK}")
    assert finished.returncode == 0, finished.output
    assert "child raised callbax does not work in a forked child" in finished.output
    assert "parent got 5196.1" in finished.output


@pytest.mark.parametrize(
    "use",
    [
        "def use(): return float(asynchronous(lambda x: cb.pure_callback(np.sqrt, scalar, x))(ones()))",
        "def use(): return float(cb.io_callback(np.sqrt, scalar, np.float32(27e6), ordered=True))",
        "def use(): return float(asynchronous(cb.ufunc(np.sqrt))(ones()))",
    ],
    ids=["asynchronous", "ordered", "loop"],
)
def test_callbacks_work_in_a_child_that_was_forked_before_jax_started(run_before_jax, use):
    finished = run_before_jax(f"def ones(): return jnp.ones((300, 300))\n{use}\n{FORK}")
    assert finished.returncode == 0, finished.output
    assert "child got 5196.1" in finished.output
    assert "parent got 5196.1" in finished.output


def test_a_child_that_was_forked_early_starts_the_threads_that_it_needs(run_before_jax):
    finished = run_before_jax(
        """
        import signal
        logging.basicConfig(level=logging.ERROR, stream=sys.stdout)
        from callbax import _native
        from callbax._runtime import threads
        _native.watch_interrupts()  # as a program does that is compiled
        threads._writer = threading.Thread(target=threads._write_all, daemon=True)
        threads._writer.start()
        def fails(x):
            raise ValueError("in the child")
        def use():
            ones = jnp.ones((300, 300))
            try:
                asynchronous(lambda x: cb.pure_callback(fails, scalar, x))(ones).block_until_ready()
            except jax.errors.JaxRuntimeError as error:
                print("raised", repr(cb.original_exception(error)))
            cb.effects_barrier()
            def forever(x):
                os.kill(os.getpid(), signal.SIGINT)
                while True:
                    pass
            try:
                try:
                    asynchronous(lambda x: cb.pure_callback(forever, scalar, x))(ones).block_until_ready()
                except jax.errors.JaxRuntimeError:
                    time.sleep(1)  # back in Python, this thread gets its own interrupt
            except KeyboardInterrupt:
                print("interrupted")
        child = os.fork()
        if child == 0:
            use()
            sys.stdout.flush()
            os._exit(0)
        print("child ended with", os.waitpid(child, 0)[1])
        """
    )
    assert "callbax.pure_callback failed in fails" in finished.output, finished.output
    assert "raised ValueError('in the child')" in finished.output, finished.output
    assert "interrupted" in finished.output, finished.output
    assert "child ended with 0" in finished.output, finished.output


@pytest.mark.full  # it takes seconds
def test_workers_of_a_fork_server_that_has_imported_callbax(tmp_path, run_program):
    script = tmp_path / "script.py"
    script.write_text(
        """
import multiprocessing
import jax, numpy as np
import callbax

def root(i):
    scalar = jax.ShapeDtypeStruct((), np.float32)
    return float(jax.jit(lambda x: callbax.pure_callback(np.sqrt, scalar, x))(np.float32(i)))

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["callbax"])
    with context.Pool(2) as pool:
        print("came", pool.map_async(root, [0, 1, 4]).get(timeout=50))
"""
    )
    finished = run_program(f"import subprocess\nsubprocess.run([sys.executable, {str(script)!r}])")
    assert "came [0.0, 1.0, 2.0]" in finished.output, finished.output


def test_a_forked_child_can_use_jax_itself_as_far_as_jax_allows(run_program):
    finished = run_program(
        f"""
cb.pure_callback(np.sqrt, scalar, np.float32(4))
program = jax.jit(lambda x: x + 1)
def use(): return float(program(np.float32(1)))
use()
{FORK}
"""
    )
    assert "child got 2.0" in finished.output, finished.output


STREAMS = {
    "None": "sys.NAME = None",
    "closed": "sys.NAME.close()",
    "descriptor closed": "os.close(NUMBER)",
    "reader gone": "reading, writing = os.pipe(); os.close(reading); os.dup2(writing, NUMBER)\n"
    "sys.NAME.write('left over')",
    "writing raises": "class Broken:\n"
    "    def write(self, text): raise SystemExit('from the stream')\n"
    "    def flush(self): raise ValueError('from the stream')\n"
    "sys.NAME = Broken()",
    "missing": "del sys.NAME",
}
WAITED_FOR = """
import pathlib
begun = threading.Event()

def slow(x):
    begun.set()
    time.sleep(1)
    pathlib.Path(PATH).write_text("ended")
    return np.float32(1)

def fails(x):
    raise ValueError("surfaces at exit")

def sum_over_devices():
    # Its error is left to the end: it surfaces from no call.
    mesh = jax.make_mesh((2,), ("i",))
    x = jax.device_put(jnp.arange(2.0), jax.NamedSharding(mesh, jax.P("i")))
    f = lambda v: lax.psum(cb.pure_callback(fails, v, v), "i")
    jax.jit(jax.shard_map(f, in_specs=jax.P("i"), out_specs=jax.P(), mesh=mesh))(x).block_until_ready()
"""
LEAVE = {
    "end": ("", 0),
    "exit code": ("sys.exit(3)", 3),
    "exception": ("raise KeyError('unhandled')", 1),
}


@pytest.mark.parametrize(
    ("stream", "name", "leave"),
    [(stream, name, "end") for stream in STREAMS for name in ("stdout", "stderr")]
    + [("closed", "stdout", "exit code"), ("None", "stderr", "exception")],
)
def test_running_callbacks_are_waited_for_wherever_output_goes(
    run_program, tmp_path, stream, name, leave
):
    path = tmp_path / "ended"
    last, code = LEAVE[leave]
    number = {"stdout": 1, "stderr": 2}[name]
    finished = run_program(
        f"PATH = {str(path)!r}\n{WAITED_FOR}\n"
        "sum_over_devices()\n"
        "asynchronous(lambda x: cb.pure_callback(slow, scalar, x))(big)\nbegun.wait(20)\n"
        + STREAMS[stream].replace("NAME", name).replace("NUMBER", str(number))
        + f"\n{last}\n",
        environment={"PYTHONUNBUFFERED": ""},
        devices=2,
    )
    # With 120 Python itself says that it could not flush.
    assert finished.returncode in ((code, 120) if stream != "None" else (code,)), finished.output
    assert path.read_text() == "ended"


@pytest.mark.parametrize("daemon", [False, True])
def test_callbacks_of_threads_are_waited_for_without_stdout(run_program, tmp_path, daemon):
    path = tmp_path / "ended"
    finished = run_program(
        f"PATH = {str(path)!r}\n{WAITED_FOR.replace('sleep(1)', 'sleep(0.5)')}\n"
        "program = jax.jit(lambda x: cb.pure_callback(slow, scalar, x))\n"
        f"threading.Thread(target=program, args=(1.0,), daemon={daemon}).start()\n"
        "begun.wait(20)\nsys.stdout = sys.stderr = None\n"
    )
    assert finished.returncode == 0, finished.output
    assert path.read_text() == "ended"


def test_a_forked_childs_errors_are_its_own(run_program):
    finished = run_program(
        """
        logging.disable(logging.CRITICAL)
        import re, warnings
        warnings.simplefilter("ignore")  # JAX's own warning about fork
        def fails(x):
            raise ValueError("the parent's")
        try:
            cb.pure_callback(fails, scalar, 1.0).block_until_ready()
        except jax.errors.JaxRuntimeError as error:
            parents = error
        from callbax._runtime import failures
        before = failures._process
        child = os.fork()
        if child == 0:
            print("still known", cb.original_exception(parents), flush=True)
            print("same token", failures._process == before, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        """
    )
    assert "still known the parent's" in finished.output, finished.output
    assert "same token False" in finished.output


def test_a_forked_child_gives_objects_keys_of_its_own(run_program):
    finished = run_program(
        """
        from callbax._runtime import residuals

        def key():
            began = residuals.run_begins()
            made = residuals.keep("f", "object", (), ()).tolist()
            residuals.run_ends(began)
            return made

        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.write(write, str(key()).encode())
            os._exit(0)
        os.waitpid(child, 0)
        print(os.read(read, 1000).decode() != str(key()), residuals.count())
        """
    )
    assert finished.output.splitlines()[-1:] == ["True 0"], finished.output
