"""tools.Batches at the end of a process, under Ctrl-C, and in a forked child: nothing hangs."""

import pytest

PROGRAM = """
import itertools
from callbax import tools

def numbers(seconds=0):
    for i in itertools.count():
        yield np.float32(i)
        time.sleep(seconds)

def endless(batches):
    return jax.jit(lambda: lax.while_loop(lambda x: x >= 0, lambda x: x + batches.next()[0], 0.0))()
"""
ENDS = {
    "a full queue": "jax.block_until_ready(tools.Batches(numbers()).next())",
    "a source that does not return": "tools.Batches(numbers(1000)).next()",
    "nothing was taken": "batches = tools.Batches(numbers())",
    "kept by a program": "program = jax.jit(tools.Batches(numbers()).next); program()",
    "an exception": "batches = tools.Batches(numbers()); batches.next(); raise ValueError('mine')",
    "an exception in a callback": """
batches = tools.Batches(numbers())
def fail(x):
    raise ValueError('mine')
jax.jit(lambda: cb.io_callback(fail, None, batches.next()[0]))()
""",
    "a program in another thread": """
batches = tools.Batches(numbers())
threading.Thread(target=endless, args=(batches,), daemon=True).start()
time.sleep(0.5)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # that it was closed is logged
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_process_ends(run_program, end):
    finished = run_program(PROGRAM + ENDS[end], deadline=60)
    assert (finished.returncode == 0) == ("exception" not in end), finished.output
    assert ("mine" in finished.output) == ("exception" in end), finished.output
    assert "Fatal" not in finished.output


INTERRUPTED = {
    "taking": "numbers()",
    "waiting": "(x if i < 3 else time.sleep(1000) for i, x in enumerate(numbers()))",
}


@pytest.mark.parametrize("prefetch", [2, 0])
@pytest.mark.parametrize("what", INTERRUPTED)
def test_an_interrupt(run_program, what, prefetch):
    finished = run_program(
        PROGRAM
        + f"""
batches = tools.Batches({INTERRUPTED[what]}, prefetch={prefetch})
print("ready", flush=True)
endless(batches)
""",
        interrupt=True,
    )
    assert finished.returncode != 0
    assert "KeyboardInterrupt" in finished.output or finished.returncode == -2, finished.output
    assert finished.seconds_after_signal < 30


def test_a_program_goes_on_after_an_interrupt(run_program):
    finished = run_program(
        PROGRAM
        + """
batches = tools.Batches(range(10**9))
print("ready", flush=True)
try:
    endless(batches)
except KeyboardInterrupt:
    pass
position = batches.position
batch, valid = batches.next()
print(position > 0, int(batch) == position, bool(valid))
""",
        interrupt=True,
    )
    assert "True True True" in finished.output, finished.output


def test_a_forked_child_begins_anew(run_before_jax):
    finished = run_before_jax(
        PROGRAM
        + """
lists = tools.Batches(range(5), like=np.int32(0))
generated = tools.Batches(numbers(), like=np.float32(0))
time.sleep(0.2)
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    print("parent:", [int(lists.next()[0]) for _ in range(3)], float(generated.next()[0]))
else:
    logging.disable()
    for batches in (lists, generated):
        try:
            jax.block_until_ready(batches.next())
        except jax.errors.JaxRuntimeError as error:
            print("child:", cb.original_exception(error))
    lists.restart(3)
    print("child:", int(lists.next()[0]), threading.active_count())
    sys.stdout.flush()
    os._exit(0)
"""
    )
    assert finished.returncode == 0, finished.output
    for name in ("range", "numbers"):
        assert (
            f"child: Batches({name}) was made before this process was forked, and its batches go to the "
            "parent. In the child, restart(0) begins anew, or make another Batches"
            in finished.output
        )
    assert "child: 3 2\n" in finished.output
    assert "parent: [0, 1, 2] 0.0\n" in finished.output
