"""A call of a program with effects, or with jax Arrays in its callback, returns when all is done.

Inputs that are still being computed are waited for.
"""

import pytest

SETUP = """
logging.disable(logging.CRITICAL)
busy = jax.jit(lambda x: lax.fori_loop(0, 8, lambda i, x: jnp.sin(x @ x), x)[0, 0])

def computing():
    '''A scalar that is still being computed.'''
    return busy(jnp.ones((600, 600)))

def ready():
    return jnp.float32(1)

weights = jnp.ones(3)
"""

EFFECTS = {
    "io": "cb.io_callback(callback, scalar, x)",
    "ordered": "cb.io_callback(callback, scalar, x, ordered=True)",
    "debug": "(cb.debug.callback(callback, x), x)[1]",
}
WITHOUT_RESULTS = {
    "io without results": "cb.io_callback(lambda x: [callback(x)][1:] or None, None, x)",
    "debug without results": "cb.debug.callback(callback, x)",
}
WITH_ARRAYS = {
    "io with arrays": "cb.io_callback(lambda x: (weights, callback(x))[1], scalar, x)",
    "pure with arrays": "cb.pure_callback(lambda x: (weights, callback(x))[1], scalar, x)",
    "lanes with arrays": """jax.vmap(cb.external(
        lambda x: (weights, callback(x))[1], result=scalar, vmap_method="threads"))(x[None])""",
}
WAIT = [
    (name, call, argument)
    for name, call in (EFFECTS | WITHOUT_RESULTS | WITH_ARRAYS).items()
    for argument in ("ready()", "computing()")
]
EACH_WAITING_CALL = pytest.mark.parametrize(
    ("call", "argument"), [row[1:] for row in WAIT], ids=[f"{row[0]}, {row[2]}" for row in WAIT]
)


@EACH_WAITING_CALL
def test_effects_have_happened(run_program, call, argument):
    finished = run_program(
        f"""{SETUP}
happened = []
def callback(x):
    time.sleep(0.05)
    happened.append(1)
    return np.float32(0)
program = jax.jit(lambda x: {call})
counts = []
for _ in range(5):
    program({argument})
    counts.append(len(happened))
print(counts)
"""
    )
    assert "[1, 2, 3, 4, 5]" in finished.output, finished.output


@EACH_WAITING_CALL
def test_an_error_comes_from_the_call_and_the_barrier_is_clean(run_program, call, argument):
    finished = run_program(
        f"""{SETUP}
def callback(x):
    raise ValueError("refused")
program = jax.jit(lambda x: {call})
for _ in range(3):
    x = {argument}
    try:
        program(x)
        print("nothing raised")
    except jax.errors.JaxRuntimeError as error:
        print("raised", cb.original_exception(error))
    cb.effects_barrier()
"""
    )
    assert finished.returncode == 0, finished.output
    assert finished.output == "raised refused\n" * 3


@pytest.mark.parametrize("call", EFFECTS | WITHOUT_RESULTS)
def test_calls_that_wait_after_calls_that_need_not(run_program, call):
    """XLA runs some on this thread, others on its own; what one has left tells nothing of the next."""
    finished = run_program(
        f"""{SETUP}
happened = []
fails = False
def callback(x):
    time.sleep(0.02)
    if fails:
        raise ValueError("refused")
    happened.append(1)
    return np.float32(0)
def make():
    return jax.jit(lambda x: {(EFFECTS | WITHOUT_RESULTS)[call]})
first, second = make(), make()
twice = jax.jit(lambda x: (first(x), second(x)))
nested = jax.jit(lambda x: cb.io_callback(lambda x: (first(np.float32(x)), callback(x))[1], scalar, x))
expected = 0
def come(program, argument, count):
    global expected
    program(argument)
    expected += count
    assert len(happened) == expected, (len(happened), expected)
for _ in range(2):
    for argument in ready, computing, ready, computing:
        come(first, argument(), 1)
        come(second, computing(), 1)
        come(twice, argument(), 2)
        come(nested, ready(), 2)
        come(first, computing(), 1)
        come(first.lower(argument()).compile(), computing(), 1)
    for argument in ready, computing:
        fails = True
        try:
            twice(argument())
        except (ValueError, jax.errors.JaxRuntimeError):
            fails = False
        come(first, computing(), 1)
        come(twice, computing(), 2)
print("all", not fails)
"""
    )
    assert "all True" in finished.output, finished.output


def test_inputs_from_inside_of_a_callback(run_program):
    finished = run_program(
        f"""{SETUP}
happened = []
def slow(x):
    time.sleep(0.02)
    happened.append(1)
    return np.float32(0)
program = jax.jit(lambda x: cb.io_callback(slow, scalar, x))
counts = []
def callback(x):
    for _ in range(5):
        value = jnp.float32(7) + x  # of another client than that of the thread
        thread = threading.Thread(target=program, args=(value,))
        thread.start()
        thread.join()
        counts.append(len(happened))
    return np.float32(0)
asynchronous(lambda x: cb.pure_callback(callback, scalar, x))(big).block_until_ready()
print(counts)
"""
    )
    assert "[1, 2, 3, 4, 5]" in finished.output, finished.output


def test_an_input_that_fails(run_program):
    finished = run_program(
        f"""{SETUP}
def fails(x):
    raise KeyError("first")
first = asynchronous(lambda x: cb.pure_callback(fails, scalar, x))
second = jax.jit(lambda x: cb.io_callback(lambda x: print("not called"), None, x))
try:
    second(first(big))
    cb.effects_barrier()
except jax.errors.JaxRuntimeError as error:
    print("raised", repr(cb.original_exception(error)))
cb.effects_barrier()
"""
    )
    assert finished.output == "raised KeyError('first')\n", finished.output


def test_functions_are_called_as_they_are(run_program):
    finished = run_program(
        f"""{SETUP}
def weighted(x):
    weighted.calls += 1
    return (weights * x).sum()
weighted.calls = 0
def callback(x):
    weighted(x)
    return np.float32(weighted.calls)
program = jax.jit(lambda x: cb.pure_callback(callback, scalar, x))
print([float(program(x)) for x in (1.0, computing(), computing())])
"""
    )
    assert "[1.0, 2.0, 3.0]" in finished.output, finished.output


def test_order_of_programs_on_other_devices(run_program):
    finished = run_program(
        f"""{SETUP}
from jax.sharding import PartitionSpec as P
seen = []
def program(i):
    mesh = jax.sharding.Mesh(jax.devices()[i : i + 2], ("i",))
    sharding = jax.NamedSharding(mesh, P("i"))
    def callback(x):
        time.sleep(0.01)
        seen.append(i)
    call = jax.jit(lambda x: cb.io_callback(callback, None, x, ordered=True))
    return lambda: call(jax.device_put(np.arange(2.0), sharding))
programs = [program(i) for i in (0, 1, 2, 1)]
for _ in range(3):
    for call in programs:
        before = len(seen)
        call()
        assert len(seen) == before + 1
print(seen)
""",
        devices=4,
    )
    assert str([0, 1, 2, 1] * 3) in finished.output, finished.output


ONE_DEVICE = f"""{SETUP}
seen = []
def program(library, label, result=scalar, **options):
    def callback(x):
        time.sleep(0.001)
        seen.append(label)
        return None if result is None else x
    return jax.jit(lambda x: library(callback, result, x, **options))
"""


@pytest.mark.parametrize("argument", ["ready()", "computing()"])
@pytest.mark.parametrize("result", ["scalar", "None"])
def test_one_order_with_jaxs_own_callbacks(run_program, result, argument):
    """Programs of callbax's alone, which JAX calls from C++, and JAX's, which it calls from Python."""
    finished = run_program(
        f"""{ONE_DEVICE}
from jax.experimental import io_callback
labels = ["0", "J", "1", "2", "J", "3", "4", "5"]
libraries = {{True: io_callback, False: cb.io_callback}}
programs = {{
    label: program(libraries[label == "J"], label, {result}, ordered=True) for label in labels
}}
for _ in range(4):
    for label in labels:
        programs[label]({argument})
cb.effects_barrier()
jax.effects_barrier()
print(seen == 4 * labels, "".join(seen))
"""
    )
    assert finished.returncode == 0 and "True 0J12J345" in finished.output, finished.output


@pytest.mark.cold
def test_each_thread_has_its_order_and_its_barrier(run_program, full):
    finished = run_program(
        f"""{SETUP}
times = {300 if full else 100}
def work(k):
    for ordered, result in ((False, scalar), (True, scalar), (True, None), (False, None)):
        seen = []
        def callback(x):
            seen.append(int(x))
            return None if result is None else x
        call = jax.jit(lambda x: cb.io_callback(callback, result, x, ordered=ordered))
        for i in range(times):
            call(np.float32(i) if i % 50 else computing() * 0 + i)
        cb.effects_barrier()
        if seen != list(range(times)):
            wrong.append((k, ordered, result, len(seen), seen[:10]))
wrong = []
threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("wrong:", wrong)
""",
        deadline=120,
    )
    assert "wrong: []" in finished.output, finished.output


CALLS = EFFECTS | WITHOUT_RESULTS


@pytest.mark.parametrize("ahead", [False, True], ids=["jit", "compiled ahead of time"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calls_after_the_first_two_stay_out_of_python(run_program, call, ahead):
    """JAX calls back when it has no fast path for what it is called with."""
    finished = run_program(
        f"""{SETUP}
from callbax._jax import calls
from jax._src import pjit, stages
def counted(function):
    def count(*args, **kwargs):
        slow.append(1)
        return function(*args, **kwargs)
    return count
slow, happened = [], []
def callback(x):
    happened.append(1)
    return np.float32(0)
stages.Compiled.call = staticmethod(counted(stages.Compiled.call))
pjit._run_python_pjit = counted(pjit._run_python_pjit)
program = jax.jit(lambda x: {call})
x = jnp.float32(1)
if {ahead}:
    program = program.lower(x).compile()
for _ in range(2):
    program(x)  # the first is JAX's; the second may compile what it waits for
slow.clear()
for _ in range(8):
    program(x)
cb.effects_barrier()
print("trial:", repr(calls.trial()), "slow:", len(slow), "happened:", len(happened))
"""
    )
    assert "trial: '' slow: 0 happened: 10" in finished.output, finished.output


def test_where_jax_is_not_as_expected_its_own_way_stays(monkeypatch):
    from callbax._jax import runtime

    assert runtime.waits_for_inputs

    class Other:
        __slots__ = ()

        def __init__(self, in_handler):
            pass

    made = Other.__init__
    monkeypatch.setattr(runtime.pxla, "ExecuteReplicated", Other)
    assert not runtime._wait_for_inputs()
    assert Other.__init__ is made


def test_a_call_that_failed_after_its_callback_says_nothing_of_the_next(run_program):
    finished = run_program(
        """
        log = []
        def note(x):
            if x == 13:
                raise ValueError("thirteen")
            log.append(float(x))
            return x
        root = cb.ufunc(np.sqrt)
        with np.errstate(invalid="raise"):
            program = jax.jit(lambda x: root(cb.io_callback(note, scalar, x)))
            program(jnp.float32(1))
        slow = jax.jit(lambda a: lax.fori_loop(0, 60, lambda i, a: jnp.tanh(a @ a), a)[0, 0])
        zeros = jnp.zeros((700, 700))
        slow(zeros).block_until_ready()
        def fails(value):
            try:
                program(value)
            except (ValueError, jax.errors.JaxRuntimeError):
                return True
        assert not fails(jnp.float32(1))
        assert fails(jnp.float32(-1))  # the root fails, after the callback
        log.clear()
        program(slow(zeros))
        assert log == [0.0]
        assert fails(jnp.float32(-1))
        assert fails(slow(zeros) + 13)
        print("done")
        """
    )
    assert "done\n" in finished.output, finished.output


@pytest.mark.sampled(1)
def test_errors_surface_at_their_call_while_other_threads_hold_the_gil(run_program):
    finished = run_program(
        """
        sys.setswitchinterval(1e-5)
        def fail(x):
            if x == 13:
                raise ValueError("thirteen")
        def work(x):
            steps = 1 + (x * 0).astype(int)
            return lax.fori_loop(0, steps, lambda i, a: a + 0 * a @ a, jnp.ones((64, 64)) * x)[0, 0]
        def spin():
            while True:
                sum(range(1000))
        for _ in range(2):
            threading.Thread(target=spin, daemon=True).start()
        @jax.jit
        def program(x):
            cb.debug.callback(fail, work(x), ordered=True)
        for _ in range(2):
            program(jnp.float32(1))
        failed = 0
        for _ in range(100):
            try:
                program(jnp.float32(13))
            except Exception:
                failed += 1
            cb.effects_barrier()
        print("failed:", failed)
        """
    )
    assert "failed: 100\n" in finished.output
