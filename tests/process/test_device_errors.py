"""Errors on several devices: each surfaces once, from the program that has failed, and poison is NaN."""

import pytest

SETUP = """
logging.disable(logging.CRITICAL)
from jax.sharding import PartitionSpec as P
mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
split = jax.NamedSharding(mesh, P("i"))
x = jax.device_put(jnp.arange(4.0), split)

def fails(v):
    raise ValueError("unwell")

def fails_on_two(v):
    if v.ravel()[0] == 2:
        raise ValueError("unwell")
    return v

def came(program, *args):
    '''Where errors surface: in the call, in waiting for the result, in two barriers.'''
    places = []
    def attempt(place, action):
        try:
            return action()
        except jax.errors.JaxRuntimeError as error:
            assert isinstance(cb.original_exception(error), ValueError), error
            places.append(place)
    result = attempt("call", lambda: program(*args))
    attempt("result", lambda: jax.block_until_ready(result))
    attempt("barrier", cb.effects_barrier)
    attempt("next barrier", cb.effects_barrier)
    return places
"""

CALLS = {
    "pure": "cb.pure_callback(FAILS, v, v)",
    "io": "cb.io_callback(FAILS, v, v)",
    "ordered io": "cb.io_callback(FAILS, v, v, ordered=True)",
    "io without result": "(cb.io_callback(lambda w: (FAILS(w), None)[1], None, v), v)[1]",
    "debug": "(cb.debug.callback(FAILS, v), v)[1]",
    "partitioned debug": "(cb.debug.callback(FAILS, v, partitioned=True), v)[1]",
    "loop": "cb.ufunc(np.power)(3, v.astype(int) - 3)",
}
PLACES = {
    "shard_map": (
        "jax.jit(jax.shard_map(lambda v: BODY, mesh=mesh, in_specs=P('i'), out_specs=P('i')))"
    ),
    "shard_map, collective": (
        "jax.jit(jax.shard_map(lambda v: BODY + jax.lax.psum(v, 'i'), mesh=mesh, in_specs=P('i'),"
        " out_specs=P('i')))"
    ),
    "jit": "jax.jit(lambda v: BODY)",
    "jit, collective": "jax.jit(lambda v: (BODY).sum() + v)",
    "pmap": "jax.pmap(lambda v: BODY)",
    "pmap, collective": "jax.pmap(lambda v: BODY + jax.lax.psum(v, 'i'), axis_name='i')",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("function", ["fails", "fails_on_two"])
def test_each_error_surfaces_once(run_program, place, function):
    """Whether one device fails or all of them do."""
    skipped = {"partitioned debug"} if "jit" not in place else set()
    skipped |= {"loop"} if function == "fails" else set()
    whole = place.startswith("jit")  # one call with the whole array, whose first element is not 2
    program = PLACES[place]
    lines = [
        f"print({name!r}, came({program.replace('BODY', call.replace('FAILS', function))}, x))"
        for name, call in CALLS.items()
        if name not in skipped
    ]
    if whole and function == "fails_on_two":
        lines = [line for line in lines if "'loop'" in line or "'partitioned debug'" in line]
    finished = run_program(SETUP + "\n".join(lines), devices=4, deadline=120)
    assert finished.returncode == 0, finished.output
    printed = [line for line in finished.output.splitlines() if line.endswith("]")]
    assert len(printed) == len(lines), finished.output
    assert all(line.count("'") == 2 for line in printed), finished.output


def test_effects_on_several_devices_have_happened_when_the_call_returns(run_program):
    finished = run_program(
        SETUP
        + """
seen = []
def slow(v):
    time.sleep(0.05)
    seen.append(float(v.ravel()[0]))
    return v
for call in (lambda v: cb.io_callback(slow, v, v), lambda v: cb.io_callback(slow, v, v, ordered=True),
             lambda v: (cb.debug.callback(slow, v), v)[1]):
    program = jax.jit(jax.shard_map(call, mesh=mesh, in_specs=P("i"), out_specs=P("i")))
    seen.clear()
    program(x)
    print(sorted(seen))
""",
        devices=4,
    )
    assert finished.output.count("[0.0, 1.0, 2.0, 3.0]") == 3, finished.output


FOLDER = """
def all_reduce_psum(x):
    '''A function whose names, file and metadata speak of collectives.'''
    with jax.named_scope("all-gather(collective-permute)"):
        return cb.pure_callback(fails_on_two, x, x)
program = jax.jit(jax.shard_map(all_reduce_psum, mesh=mesh, in_specs=P("i"), out_specs=P("i")))
print("came", came(program, x))
"""


def test_collectives_are_not_found_in_names(run_program, tmp_path):
    folder = tmp_path / "all-reduce-study"
    folder.mkdir()
    (folder / "all_gather.py").write_text(FOLDER)
    path = str(folder / "all_gather.py")
    finished = run_program(
        f"{SETUP}\nexec(compile(open({path!r}).read(), {path!r}, 'exec'))", devices=4
    )
    assert "came ['call']" in finished.output, finished.output


@pytest.mark.parametrize("first", ["alone", "total"])
def test_only_the_program_that_runs_counts(run_program, first):
    finished = run_program(
        SETUP
        + f"""
failing = False
def checked(v):
    return fails_on_two(v) if failing else v
def call(v):
    return cb.pure_callback(checked, v, v)
def over_devices(f, out):
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("i"), out_specs=out))
programs = {{
    "alone": over_devices(call, P("i")),
    "total": over_devices(lambda v: jax.lax.psum(call(v), "i"), P()),
}}
for name in [{first!r}, *programs]:
    programs[name](x).block_until_ready()
failing = True
for name in programs:
    print(name, came(programs[name], x))
""",
        devices=4,
    )
    assert "alone ['call']" in finished.output, finished.output
    assert "total ['barrier']" in finished.output


def test_programs_that_are_compiled_at_the_same_time_are_told_apart(run_program):
    finished = run_program(
        SETUP
        + """
def compiled(collective, number):
    def callback(v):
        return fails_on_two(v)
    def f(v):
        w = cb.pure_callback(callback, v, v)
        for _ in range(20):
            w = jnp.sin(w @ w[:, None] + number)
        return jax.lax.psum(w, "i") if collective else w
    f.__name__ = f"f{number}"
    shape = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=split)
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("i"),
                                 out_specs=P() if collective else P("i"))).lower(shape).compile()
programs = {}
def work(number):
    programs[number] = compiled(number % 2 == 1, number)
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
for number, program in sorted(programs.items()):
    print(number % 2, came(program, x))
""",
        devices=4,
        deadline=120,
    )
    assert finished.output.count("0 ['call']") == 4, finished.output
    assert finished.output.count("1 ['barrier']") == 4


@pytest.mark.parametrize(
    "body",
    [
        "lax.fori_loop(0, 3, lambda i, w: lax.psum(w, 'i'), call(v))",
        "lax.cond(v[0] < 9, lambda w: lax.psum(w, 'i'), lambda w: w, call(v))",
        "lax.ppermute(call(v), 'i', [(0, 1), (1, 2), (2, 3), (3, 0)])",
        "lax.all_gather(call(v), 'i', tiled=True)[:1]",
        "lax.psum_scatter(jnp.tile(call(v), 4), 'i', tiled=True)",
        "lax.all_to_all(jnp.tile(call(v), 4), 'i', 0, 0, tiled=True)[:1]",
    ],
)
def test_every_kind_of_collective_counts(run_program, body):
    finished = run_program(
        SETUP
        + f"""
def call(v):
    return cb.pure_callback(fails_on_two, v, v)
program = jax.jit(jax.shard_map(lambda v: {body}, mesh=mesh, in_specs=P("i"), out_specs=P("i"),
                                check_vma=False))
print("came", came(program, x))
""",
        devices=4,
    )
    assert "came ['barrier']" in finished.output, finished.output


def test_poison_is_nan_wherever_the_dtype_has_one(run_program):
    finished = run_program(
        SETUP
        + """
import ml_dtypes
names = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
         "float32", "float64", "complex64", "complex128", "bfloat16"]
names += [n for n in dir(ml_dtypes) if n.startswith(("float", "int", "uint"))]
jax.config.update("jax_enable_x64", True)
tried = 0
for name in names:
    if name in ("finfo", "iinfo", "int1", "uint1") or "float6_" in name:
        continue  # XLA has none of these
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    struct = jax.ShapeDtypeStruct((3,), dtype)
    def f(v):
        return cb.pure_callback(fails_on_two, struct, v), jax.lax.psum(v, "i")
    def fails_on_two(v):
        if v[0] == 2:
            raise ValueError("unwell")
        return np.ones(3, dtype)
    program = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("i"), out_specs=(P("i"), P())))
    result = np.asarray(program(x)[0])
    try:
        cb.effects_barrier()
        print("no error for", name)
    except jax.errors.JaxRuntimeError:
        pass
    poisoned = result[6:9]
    if dtype.kind in "biuc" and dtype.kind != "c" or name.startswith(("int", "uint")):
        has_nan = False
    else:
        has_nan = bool(np.isnan(np.array([np.nan]).astype(dtype).astype(np.complex128))[0])
    is_nan = np.isnan(poisoned.astype(np.complex128))
    right = is_nan.all() if has_nan else not poisoned.astype(np.complex128).any()
    if dtype.kind == "c":
        right = right and np.isnan(poisoned.real).all() and np.isnan(poisoned.imag).all()
    if not right:
        print("wrong:", name, poisoned)
    tried += 1
print("tried", tried)
""",
        devices=4,
        deadline=120,
    )
    assert finished.returncode == 0, finished.output
    assert "wrong" not in finished.output and "no error" not in finished.output, finished.output
    assert "tried 28" in finished.output, finished.output


def test_devices_that_fail_together_give_one_error(run_program):
    """The others' messages are its notes."""
    finished = run_program(
        SETUP
        + """
together = threading.Barrier(4, timeout=20)
def fails_everywhere(v):
    together.wait()
    raise ValueError(f"unwell {int(v.ravel()[0])}")
f = lambda v: jax.lax.psum(cb.pure_callback(fails_everywhere, v, v), "i")
program = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("i"), out_specs=P()))
program(x).block_until_ready()
try:
    cb.effects_barrier()
except jax.errors.JaxRuntimeError as error:
    text = str(error) + "".join(error.__notes__)
    print("all there:", all(f"unwell {i}" in text for i in range(4)))
cb.effects_barrier()
print("then clean")
""",
        devices=4,
    )
    assert "all there: True\nthen clean" in finished.output, finished.output


CONSUMERS = {
    "a sum over devices": "jnp.sum(failing(x))",
    "a collective in shard_map": "total(failing(x))",
    "eager operations": "shard_map(lambda x: lax.psum(call(x), 'i'), P())(x)",
    "a program that is gone": "jax.jit(shard_map(call, P('i')))(x)",
}


@pytest.mark.parametrize("consumer", CONSUMERS.values(), ids=CONSUMERS)
@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
def test_what_has_failed_keeps_no_other_program_waiting(run_program, flavour, consumer):
    finished = run_program(
        f"""
from jax.sharding import NamedSharding, PartitionSpec as P
logging.disable(logging.CRITICAL)
mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
x = jax.device_put(np.arange(4, dtype=np.float32), NamedSharding(mesh, P("i")))
def fails_on_two(x):
    time.sleep(0.05)
    if x[0] == 2:
        raise ValueError("two")
    return x
def call(x):
    return cb.{flavour}(fails_on_two, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
def shard_map(f, out):
    return jax.shard_map(f, mesh=mesh, in_specs=P("i"), out_specs=out)
failing = jax.jit(shard_map(call, P("i")))
total = jax.jit(shard_map(lambda x: lax.psum(x, "i"), P()))
try:
    jax.block_until_ready({consumer})
    print("nothing raised")
except jax.errors.JaxRuntimeError as error:
    print("raised", cb.original_exception(error))
cb.effects_barrier()
""",
        devices=4,
    )
    assert finished.returncode == 0, finished.output
    assert finished.output == "raised two\n"
