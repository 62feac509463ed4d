"""The caller's settings hold in callbacks on other threads, and each program has its own."""

import pytest

SETUP = """
import contextvars, warnings
from concurrent.futures import ThreadPoolExecutor
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
user = contextvars.ContextVar("user", default="nobody")

def settings():
    '''What a callback sees.'''
    third = jnp.asarray(np.float64(1)) / 3
    return user.get(), np.geterr()["divide"], third.dtype.name, jax.config.jax_debug_nans

def on_xlas_thread():
    return isinstance(threading.current_thread(), threading._DummyThread)

def strict(function):
    '''Runs it in other settings than the process has.'''
    def inside():
        user.set("strict")
        with np.errstate(divide="raise"), jax.enable_x64(True), jax.debug_nans(True):
            function()
    contextvars.copy_context().run(inside)

STRICT = ("strict", "raise", "float64", True)
PLAIN = ("nobody", "warn", "float32", False)
"""


def test_on_xlas_threads_each_program_has_the_settings_of_its_trace(run_program):
    finished = run_program(
        f"""{SETUP}
seen = {{}}
def make(name):
    def callback(x):
        if on_xlas_thread():
            seen.setdefault(name, set()).add(settings())
        return np.float32(0)
    program = asynchronous(lambda x: cb.pure_callback(callback, scalar, x))
    return program.lower(big).compile()  # not traced again for other settings

programs = [make("plain")]
strict(lambda: programs.append(make("strict")))
def named():
    user.set("named")
    programs.append(make("named"))
contextvars.copy_context().run(named)
# In turn, on the same few threads, from a thread without settings.
for _ in range(20):
    for program in programs:
        program(big).block_until_ready()
print(seen == {{"plain": {{PLAIN}}, "strict": {{STRICT}}, "named": {{("named", *PLAIN[1:])}}}}, seen)
"""
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.startswith("True"), finished.output


LANES = {
    "threads": 'vmap_method="threads"',
    "thread executor": "executor=ThreadPoolExecutor(2)",
    "sequential": 'vmap_method="sequential"',
}


@pytest.mark.parametrize("options", LANES.values(), ids=LANES)
def test_in_lanes(run_program, options):
    finished = run_program(
        f"""{SETUP}
seen = set()
def lane(x):
    seen.add(settings())
    return np.float32(0)
lanes = jax.jit(jax.vmap(cb.external(lane, result=scalar, {options})))
def run():
    for _ in range(5):
        lanes(jnp.ones(6)).block_until_ready()
strict(run)
print(seen == {{STRICT}}, seen)
seen.clear()
run()  # traced again for these settings; the threads of the pool keep nothing of the others
print(seen == {{PLAIN}}, seen)
"""
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.count("True {") == 2, finished.output


def test_settings_inside_of_the_traced_function(run_program):
    finished = run_program(
        f"""{SETUP}
seen = set()
def callback(x):
    if on_xlas_thread():
        seen.add(settings()[2])
    return np.float32(0)
@jax.jit
def program(a):
    with jax.enable_x64(True):
        return cb.pure_callback(callback, scalar, (a @ a).sum())
for _ in range(20):
    program(big).block_until_ready()
print(seen)
"""
    )
    assert "{'float64'}" in finished.output, finished.output


def test_a_callback_inside_of_a_callback_has_its_callers_settings(run_program):
    finished = run_program(
        f"""{SETUP}
seen = set()
def inner_callback(x):
    seen.add(user.get())
    return np.float32(0)
inner = jax.jit(lambda x: cb.pure_callback(inner_callback, scalar, x))
inner(1.0)  # traced with nobody
seen.clear()
def callback(x):
    user.set("callback")
    return np.asarray(inner(x))
program = asynchronous(lambda x: cb.pure_callback(callback, scalar, x))
for _ in range(5):
    program(big).block_until_ready()
print(seen)
"""
    )
    assert "{'callback'}" in finished.output, finished.output


def test_programs_without_settings_of_their_own_are_the_same_text(run_program):
    finished = run_program(
        """
        call = lambda x: cb.pure_callback(np.sin, scalar, x)
        plain = jax.jit(call).lower(1.0).as_text()
        with jax.debug_nans(True), jax.default_device(jax.devices()[0]):
            other = jax.jit(call).lower(1.0).as_text()
        print("configuration" in plain, '{\\\\22jax_debug_nans\\\\22: true}' in other)
        """
    )
    assert "False True" in finished.output, finished.output


def test_contexts_that_are_equal_are_kept_once():
    import contextvars

    from callbax._runtime import surroundings

    variable = contextvars.ContextVar("variable")

    def same_twice():
        variable.set([])
        assert surroundings.context() is surroundings.context()
        before = surroundings.context()
        variable.set([])
        assert surroundings.context() is not before

    contextvars.copy_context().run(same_twice)


TRACED = {"trace": "settrace", "profile": "setprofile"}


@pytest.mark.parametrize("early", [True, False], ids=["before the first callback", "later"])
@pytest.mark.parametrize("function", TRACED.values(), ids=TRACED)
def test_tracing_tools_see_callbacks_on_xlas_threads(run_program, function, early):
    finished = run_program(
        f"""{SETUP}
calls = set()
def trace(frame, event, argument):
    if event == "call" and on_xlas_thread():
        calls.add(frame.f_code.co_name)
def use(callback):
    for _ in range(5):
        asynchronous(lambda x: cb.pure_callback(callback, scalar, x))(big).block_until_ready()
def before(x):
    return np.float32(0)
def during(x):
    return np.float32(0)
def after(x):
    return np.float32(0)
if not {early}:
    use(before)
threading.{function}(trace)
use(during)
threading.{function}(None)
use(after)
print(calls & {{"before", "during", "after"}})
"""
    )
    assert finished.output.endswith("{'during'}\n"), finished.output
