"""A callback fails in a program on several devices: nothing hangs, and the error surfaces."""

import pytest

FAILING = """
logging.disable(logging.CRITICAL)
from jax.sharding import PartitionSpec as P
mesh = jax.make_mesh((4,), ("i",))
x = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh, P("i")))

def fails_on_one(v):
    if v[0] == 2:
        raise ValueError("device 1 is unwell")
    return v

def surfaced(thunk):
    start = time.monotonic()
    try:
        with cb.reraise():
            jax.block_until_ready(thunk())
            cb.effects_barrier()
    except ValueError as error:
        print("surfaced:", error, "soon" if time.monotonic() - start < 2 else "late")

def works_again():
    seen = []
    jax.jit(lambda v: cb.io_callback(seen.append, None, v, ordered=True))(jnp.float32(5))
    cb.effects_barrier()
    print("then", seen)
"""

PROGRAMS = {
    "io, psum": "jax.lax.psum(cb.io_callback(fails_on_one, v, v), 'i')",
    "ordered io, psum": "jax.lax.psum(cb.io_callback(fails_on_one, v, v, ordered=True), 'i')",
    "pure, psum": "jax.lax.psum(cb.pure_callback(fails_on_one, v, v), 'i')",
    "debug, psum": "(cb.debug.callback(fails_on_one, v), jax.lax.psum(v, 'i'))[1]",
    "io in scan, psum in each step": (
        "jax.lax.scan(lambda c, _: (jax.lax.psum(cb.io_callback(fails_on_one, c, c), 'i') * 0 + c,"
        " None), v, length=5)[0].sum()"
    ),
    "two callbacks, psum between": (
        "cb.io_callback(lambda w: w, v, jax.lax.psum(cb.io_callback(fails_on_one, v, v), 'i'))"
    ),
}

LOOPS = {
    "exception": "cb.ufunc(np.power)(3, v.astype(int) - 2)",
    "error state": "divide_checked(1.0, v - 2)",
}


@pytest.mark.parametrize("finish, when", [("jnp.sum(%s)", "barrier"), ("%s", "result")])
@pytest.mark.parametrize("loop", LOOPS)
def test_failure_of_a_compiled_loop_on_one_device(run_program, loop, finish, when):
    finished = run_program(
        f"""{FAILING}
def divide_checked(a, b):
    with np.errstate(divide="raise"):
        return cb.ufunc(np.divide)(a, b)
program = jax.jit(lambda v: {finish % LOOPS[loop]})
for _ in range(3):
    try:
        jax.block_until_ready(program(x))
        print("no error yet")
        cb.effects_barrier()
    except Exception as error:
        print("surfaced:", type(cb.original_exception(error)).__name__)
""",
        devices=4,
    )
    assert finished.returncode == 0, finished.output
    error = "ValueError" if loop == "exception" else "FloatingPointError"
    assert finished.output.count(f"surfaced: {error}") == 3, finished.output
    assert finished.output.count("no error yet") == (3 if when == "barrier" else 0)


@pytest.mark.parametrize("program", PROGRAMS)
def test_failure_on_one_device_before_a_collective(run_program, program):
    finished = run_program(
        f"""{FAILING}
program = jax.jit(jax.shard_map(lambda v: {PROGRAMS[program]}, mesh=mesh, in_specs=P("i"),
                                out_specs=P(), check_vma=False))
for _ in range(3):
    surfaced(lambda: program(x))
    works_again()
""",
        devices=4,
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.count("surfaced: device 1 is unwell soon") == 3, finished.output
    assert finished.output.count("then [array(5., dtype=float32)]") == 3, finished.output


NO_COLLECTIVES = {
    "pure": "per_device(lambda v: cb.pure_callback(fails_on_one, v, v))",
    "io": "per_device(lambda v: cb.io_callback(fails_on_one, v, v))",
    "ordered io": "per_device(lambda v: cb.io_callback(fails_on_one, v, v, ordered=True))",
    "debug": "per_device(lambda v: (cb.debug.callback(fails_on_one, v), v)[1])",
    "partitioned debug": "lambda v: (cb.debug.callback(fails_on_one, v, partitioned=True), v)[1]",
}


@pytest.mark.parametrize("program", NO_COLLECTIVES)
def test_without_collectives_the_error_surfaces_from_the_result_itself(run_program, program):
    finished = run_program(
        f"""{FAILING}
def per_device(f):
    return jax.shard_map(f, mesh=mesh, in_specs=P("i"), out_specs=P("i"))
program = jax.jit({NO_COLLECTIVES[program]})
for _ in range(3):
    try:
        with cb.reraise():
            jax.block_until_ready(program(x))
    except ValueError as error:
        print("surfaced:", error)
    surfaced(lambda: None)  # the barrier may raise what the result raised
    works_again()
""",
        devices=4,
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.count("surfaced: device 1 is unwell\n") == 3, finished.output
    assert finished.output.count("then [array(5., dtype=float32)]") == 3, finished.output


SHARDED = {
    "pure": "cb.pure_callback(fails, v, v)",
    "pure, its result used": "cb.pure_callback(fails, v, v) + v",
    "io": "cb.io_callback(fails, v, v) * 2 + v.sum()",
    "ordered io": "cb.io_callback(fails, v, v, ordered=True)",
    "debug": "(cb.debug.callback(fails, v), v)[1]",
}


@pytest.mark.parametrize("program", SHARDED)
def test_failure_in_a_sharded_program(run_program, program):
    finished = run_program(
        f"""{FAILING}
def fails(v):
    raise ValueError("unwell")
program = jax.jit(lambda v: {SHARDED[program]})
for _ in range(3):
    surfaced(lambda: program(x))
    works_again()
""",
        devices=4,
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.count("surfaced: unwell soon") == 3, finished.output
    assert finished.output.count("then [array(5., dtype=float32)]") == 3, finished.output


def test_the_failing_devices_results_are_poisoned_and_the_log_has_the_error_at_once(run_program):
    finished = run_program(
        FAILING.replace("logging.disable(logging.CRITICAL)", "")
        + """
program = jax.jit(jax.shard_map(lambda v: (jax.lax.psum(cb.io_callback(fails_on_one, v, v), "i"), v),
                                mesh=mesh, in_specs=P("i"), out_specs=(P(), P("i"))))
total, kept = program(x)
sys.stdout.write(f"total {total} kept {kept}\\n")  # one write: the log goes to the same place
""",
        devices=4,
    )
    assert "total [nan nan] kept [0. 1. 2. 3. 4. 5. 6. 7.]" in finished.output
    assert "callbax.io_callback failed in fails_on_one" in finished.output


def test_after_a_failure_the_run_calls_nothing_more_on_that_device(run_program):
    """In several runs, since XLA numbers them by a hash, which may be negative."""
    finished = run_program(
        FAILING
        + """
later = []
def program(v):
    w = cb.io_callback(fails_on_one, v, v)
    cb.io_callback(lambda v: later.append(v), None, w)
    return jax.lax.psum(w, "i")
def meshes():
    for devices in (jax.devices(), jax.devices()[::-1]):
        yield jax.sharding.Mesh(devices, ("i",), axis_types=mesh.axis_types)
for other in meshes():
    x = jax.device_put(np.asarray(x), jax.NamedSharding(other, P("i")))
    for _ in range(3):
        surfaced(lambda: jax.jit(jax.shard_map(program, mesh=other, in_specs=P("i"), out_specs=P()))(x))
print("nan reached a callback:", bool(np.isnan(later).any()))
""",
        devices=4,
    )
    assert finished.output.count("surfaced: device 1 is unwell") == 6
    assert "nan reached a callback: False" in finished.output


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("place", ["{call}", "scan", "cond"])
@pytest.mark.parametrize("how", ["eager", "jit"])
def test_every_failure_surfaces_as_the_first_does(run_program, devices, place, how):
    in_place = {
        "{call}": "call(v)",
        "scan": "jax.lax.scan(lambda c, _: (call(c), None), v, length=3)[0]",
        "cond": "jax.lax.cond(v > 0, call, lambda v: v, v)",
    }[place]
    finished = run_program(
        f"""
logging.disable(logging.CRITICAL)
failing = True
def callback(v):
    if failing:
        raise KeyError("first and every time")
    return v
def calls():
    yield lambda v: cb.pure_callback(callback, v, v)
    yield lambda v: cb.io_callback(callback, v, v)
    yield lambda v: cb.io_callback(callback, v, v, ordered=True)
for call in calls():
    program = lambda v: {in_place}
    if {how == "jit"}:
        program = jax.jit(program)
    failing = True
    for _ in range(3):
        try:
            with cb.reraise():
                jax.block_until_ready(program(jnp.float32(1)))
        except KeyError as error:
            print("surfaced", error)
    failing = False
    print("next call", program(jnp.float32(1)))
    cb.effects_barrier()
""",
        devices=devices,
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.count("surfaced 'first and every time'") == 9, finished.output
    assert finished.output.count("next call 1.0") == 3
