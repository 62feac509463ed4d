"""Arguments that are views of XLA's memory: what they are, and what happens to those that are kept."""

import functools
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import devices, error_of, finish
from jax import lax
from jax.sharding import Mesh, PartitionSpec

import callbax as cb
from callbax._host.call import HostFunction

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)
EACH_CALL = pytest.mark.parametrize(
    "call",
    [cb.pure_callback, cb.io_callback, functools.partial(cb.io_callback, ordered=True)],
    ids=["pure", "io", "ordered"],
)
# A call site's first call gets copies instead, and is judged as the others are.
QUIET_CALLS = pytest.mark.parametrize("quiet", [0, 1, 3], ids="after_{}_calls".format)
DTYPES = (
    "bool int8 uint16 int32 int64 float16 bfloat16 float32 float64 complex64 complex128".split()
)
PACKED = ["int2", "int4", "uint4", "float4_e2m1fn"]


def views(function, **options):
    return HostFunction(function, views=True, **options)


class Keeper:
    """A callback that makes something of its argument and keeps it, after some calls that do not."""

    def __init__(self, keep, quiet=0):
        self.keep, self.quiet, self.kept = keep, quiet, []

    def __call__(self, x):
        if self.quiet == 0:
            self.kept.append(self.keep(x))
        else:
            self.quiet -= 1
        return np.float32(0)

    def program(self, call=cb.pure_callback):
        return jax.jit(lambda x: call(views(self), SCALAR, x))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (3, 0, 2)], ids=str)
@pytest.mark.parametrize("name", DTYPES + PACKED)
def test_every_dtype_and_shape_arrives(name, shape):
    with jax.enable_x64(True):
        dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
        values = (np.arange(np.prod(shape)) % 2).reshape(shape).astype(np.float32).astype(dtype)
        seen = []

        def callback(x):
            seen.append((x.dtype, x.shape, x.astype(complex).tolist()))
            return x

        # An unused zero-size result would make XLA skip the call.
        program = jax.jit(lambda x: cb.io_callback(views(callback), x, x))
        for _ in range(3):
            result = finish(program, values)
            assert result.dtype == dtype
            np.testing.assert_array_equal(result, values)
        assert seen == [(dtype, shape, values.astype(complex).tolist())] * 3


def test_arguments_are_xlas_memory_after_the_first_call():
    addresses = []

    def callback(x):
        addresses.append(x.ctypes.data)
        return np.float32(0)

    x = jnp.arange(1000.0)
    program = jax.jit(lambda x: cb.pure_callback(views(callback), SCALAR, x))
    for _ in range(3):
        finish(program, x)
    assert addresses[1:] == [x.unsafe_buffer_pointer()] * 2
    assert addresses[0] != addresses[1]


@pytest.mark.parametrize("quiet", [0, 1])
def test_arguments_cannot_be_written_to(quiet):
    def callback(x):
        nonlocal quiet
        if quiet:
            quiet -= 1
            return x
        with pytest.raises(ValueError, match="WRITEABLE"):
            x.flags.writeable = True
        x[0] = 7
        return x

    x = jnp.arange(4.0)
    program = jax.jit(lambda x: cb.pure_callback(views(callback), x, x))
    for _ in range(quiet):
        finish(program, x)
    error = error_of(program, x)
    assert isinstance(error, ValueError)
    assert "read-only" in str(error)
    assert x.tolist() == [0, 1, 2, 3]


KEEPS = {
    "array": lambda x: x,
    "slice": lambda x: x[1:],
    "reshaped": lambda x: x.reshape(2, -1).T,
    "subclass": lambda x: x.view(np.recarray),
    "memoryview": memoryview,
    "dlpack": np.from_dlpack,
    "flat": lambda x: x.flat,
    "closure": lambda x: lambda: x,
    "generator": lambda x: (i for i in x),
    "partial": lambda x: functools.partial(np.add, x),
    "dict": lambda x: {"x": [x]},
    "jax array": jnp.asarray,
}


@pytest.mark.sampled(6)
@EACH_CALL
@QUIET_CALLS
@pytest.mark.parametrize(
    "keep", [KEEPS[k] for k in KEEPS if k != "jax array"], ids=list(KEEPS)[:-1]
)
def test_whatever_keeps_an_argument_is_an_error_of_that_call(call, keep, quiet):
    keeper = Keeper(keep, quiet)
    program = keeper.program(call)
    x = jnp.arange(6.0)
    for _ in range(quiet):
        finish(program, x)
    for _ in range(3):
        assert type(error_of(program, x)) is cb.CallbackViewError
        keeper.kept.clear()
    keeper.quiet = 3
    for _ in range(3):  # and the program goes on to work
        finish(program, x)


def test_a_jax_array_made_from_an_argument_may_be_kept_if_jax_has_copied_it():
    keeper = Keeper(lambda x: jnp.array(x, copy=True))
    finish(keeper.program(), jnp.arange(6.0))
    assert keeper.kept[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_torch_tensors_of_an_argument_count_as_keeping():
    torch = pytest.importorskip("torch")
    with pytest.warns(UserWarning, match="not writable"):
        assert type(error_of(Keeper(torch.from_numpy).program(), jnp.ones(3))) is (
            cb.CallbackViewError
        )


class Plain:
    """An object with an attribute."""

    def __init__(self, value):
        self.value = value


@pytest.mark.sampled(6)
@QUIET_CALLS
@pytest.mark.parametrize(
    ("keep", "find"),
    [
        (lambda x: x, lambda kept: kept),
        (lambda x: x[1:], lambda kept: kept),
        (lambda x: x[::-2], lambda kept: kept),
        (lambda x: x.reshape(10, -1)[::2].T, lambda kept: kept),
        (lambda x: x[x.size :], lambda kept: kept),
        (lambda x: x.view(np.recarray)[3:], lambda kept: kept),
        (memoryview, lambda kept: kept),
        (lambda x: memoryview(x[5:])[7:], lambda kept: kept),
        (lambda x: np.frombuffer(x, np.float32, offset=8), lambda kept: kept),
        (lambda x: lambda: x[3:], lambda kept: kept()),
        (lambda x: functools.partial(np.positive, x[2:]), lambda kept: kept()),
        (lambda x: (x[2:],), lambda kept: kept[0]),
        (lambda x: {"x": {"x": (x[2:],)}}, lambda kept: kept["x"]["x"][0]),
        (lambda x: Plain(x[2:]), lambda kept: kept.value),
        (lambda x: (row for row in [x[2:]]), next),
    ],
    ids="array slice reversed reshaped empty subclass memoryview memoryview_slice frombuffer closure "
    "partial tuple dict object generator".split(),
)
def test_what_was_kept_holds_its_data(keep, find, quiet):
    keeper = Keeper(keep, quiet)
    program = keeper.program()
    rounds = 3
    for i in range(quiet + rounds):
        keeper.quiet = max(quiet - i, 0)
        if i < quiet:
            finish(program, jnp.full(1000, i, jnp.float32))
        else:
            error_of(program, jnp.full(1000, i, jnp.float32))
        # The next call of this program finds views again.
        if i >= quiet and quiet:
            keeper.quiet = 1
            finish(program, jnp.full(1000, -1, jnp.float32))
    jax.clear_caches()
    fresh = [np.full(1000, -2, np.float32) for _ in range(100)]
    assert len(keeper.kept) == rounds
    for i, kept in enumerate(keeper.kept):
        assert (np.asarray(find(kept)) == quiet + i).all()
    assert len(fresh) == 100


def test_the_message_says_which_callback_which_argument_and_what_to_do():
    kept = []

    def callback(x, tree, *, scale):
        kept[:] = [x, tree["b"][1], scale]
        return np.float32(0)

    def program(x):
        return cb.pure_callback(views(callback), SCALAR, x, {"a": x, "b": [x, x]}, scale=x)

    message = str(error_of(program, jnp.ones(3)))
    assert f"{callback.__qualname__} ({__file__}:" in message
    assert (
        "kept its argument 'x' and its argument 'tree'['b'][1] and its argument 'scale'" in message
    )
    assert "x.copy()" in message and "zero_copy" in message


def test_static_arguments_do_not_change_which_argument_is_named():
    kept = []

    def callback(mode, x, y):
        kept.append(y)
        return np.float32(0)

    x = jnp.ones(3)
    function = cb.external(callback, result=SCALAR, zero_copy=True)
    error = error_of(lambda: function("fast", x, x + 1))
    assert "kept its argument 'y' after" in str(error)


@QUIET_CALLS
def test_a_callbacks_own_exception_surfaces_though_its_traceback_has_the_arrays(quiet):
    def callback(x):
        nonlocal quiet
        part = x[1:]
        if quiet == 0:
            raise KeyError("own", part.sum())
        quiet -= 1
        return x

    x = jnp.ones(3)
    program = jax.jit(lambda x: cb.pure_callback(views(callback), x, x))
    for _ in range(quiet):
        finish(program, x)
    error = error_of(program, x)
    assert type(error) is KeyError
    assert [note for note in error.__notes__ if "kept" in note] == []  # one says where it came from


@QUIET_CALLS
def test_an_exception_that_keeps_an_argument_surfaces_with_a_note(quiet):
    def callback(x):
        nonlocal quiet
        if quiet == 0:
            try:
                raise KeyError(x)
            except KeyError as error:
                raise ValueError("own") from error
        quiet -= 1
        return x

    x = jnp.arange(3.0)
    program = jax.jit(lambda x: cb.pure_callback(views(callback), x, x))
    for _ in range(quiet):
        finish(program, x)
    error = error_of(program, x)
    assert type(error) is ValueError
    assert "kept its argument 'x'" in error.__notes__[0]
    del x, program
    jax.clear_caches()
    assert error.__cause__.args[0].tolist() == [0, 1, 2]


def test_results_may_be_arguments_and_views_of_them():
    x = jnp.arange(6.0).reshape(2, 3)
    for callback in (
        lambda a: a,
        lambda a: a[::-1, ::-1],
        lambda a: np.broadcast_to(a[:1], (2, 3)),
    ):
        program = jax.jit(lambda a, f=callback: cb.pure_callback(views(f), a, a))
        for _ in range(3):
            np.testing.assert_array_equal(finish(program, x), callback(np.asarray(x)))
    swap = jax.jit(lambda a, b: cb.pure_callback(views(lambda a, b: (b, [a])), (b, [a]), a, b))
    for _ in range(3):
        first, (second,) = finish(swap, x, x + 1)
        assert (first == x + 1).all() and (second == x).all()


def test_a_cycle_that_nothing_refers_to_does_not_keep():
    def callback(x):
        cycle = [x]
        cycle.append(cycle)
        return x

    program = jax.jit(lambda x: cb.pure_callback(views(callback), x, x))
    for i in range(4):
        assert finish(program, jnp.full(3, i)).tolist() == [i] * 3


def test_another_thread_that_is_about_to_let_go_does_not_keep():
    def callback(x):
        return pool.submit(np.sum, x).result()

    with ThreadPoolExecutor(1) as pool:
        program = jax.jit(lambda x: cb.pure_callback(views(callback), SCALAR, x))
        for i in range(200):
            assert finish(program, jnp.full(4, i, jnp.float32)) == 4 * i


def test_a_weak_reference_does_not_see_the_next_calls_data():
    references = []

    def callback(x):
        references.append(weakref.ref(x))
        return x

    program = jax.jit(lambda x: cb.pure_callback(views(callback), x, x))
    for i in range(5):
        finish(program, jnp.full(3, i))
        assert references[-1]() is None


@pytest.mark.parametrize(
    "mistreat",
    [
        lambda x: setattr(x, "shape", (2, 2)),
        lambda x: setattr(x, "dtype", np.int32),
        lambda x: setattr(x.flags, "aligned", False),
    ],
    ids=["shape", "dtype", "flags"],
)
@pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning")
def test_changes_of_an_array_object_do_not_show_in_the_next_call(mistreat):
    seen = []

    def callback(x):
        seen.append((x.shape, str(x.dtype), x.flags.aligned, x.tolist()))
        mistreat(x)
        return np.float32(0)

    program = jax.jit(lambda x: cb.pure_callback(views(callback), SCALAR, x))
    for _ in range(4):
        finish(program, jnp.arange(4.0))
    assert seen == [((4,), "float32", True, [0, 1, 2, 3])] * 4


def test_lanes_get_views_of_their_slices():
    seen = []

    def callback(x, y):
        seen.append((x.tolist(), y.tolist(), x.flags.writeable))
        return x[::-1] * y

    x, y = jnp.arange(6.0).reshape(3, 2), jnp.float32(10)
    program = jax.jit(
        jax.vmap(
            lambda x, y: cb.pure_callback(views(callback), x, x, y, vmap_method="sequential"),
            in_axes=(0, None),
        )
    )
    for _ in range(2):
        assert finish(program, x, y).tolist() == [[10, 0], [30, 20], [50, 40]]
    assert seen == [([0, 1], 10, False), ([2, 3], 10, False), ([4, 5], 10, False)] * 2


@pytest.mark.parametrize("lane", [0, 1, 4])
def test_a_lane_that_keeps_its_slice_is_an_error(lane):
    keeper = Keeper(lambda x: x[:1], quiet=lane)
    call = functools.partial(cb.pure_callback, vmap_method="sequential")
    program = jax.jit(jax.vmap(lambda x: call(views(keeper), SCALAR, x)))
    assert type(error_of(program, jnp.ones((5, 3)))) is cb.CallbackViewError
    assert len(keeper.kept) == 1


def test_packed_types_come_as_copies_that_may_be_kept():
    keeper = Keeper(lambda x: x)
    values = jnp.array([1, -2, 3], jnp.int4)
    for _ in range(3):
        finish(keeper.program(), values)
    assert [array.tolist() for array in keeper.kept] == [[1, -2, 3]] * 3
    lanes = Keeper(lambda x: x)
    call = functools.partial(cb.pure_callback, vmap_method="sequential")
    finish(jax.jit(jax.vmap(lambda x: call(views(lanes), SCALAR, x))), jnp.stack([values, values]))
    assert [array.tolist() for array in lanes.kept] == [[1, -2, 3]] * 2


def test_loops_and_branches():
    def callback(x, y):
        return x + y.sum()

    def step(carry, y):
        return lax.cond(
            carry < 50,
            lambda c: cb.pure_callback(views(callback), SCALAR, c, y),
            lambda c: c,
            carry,
        ), carry

    final, carries = jax.jit(lambda ys: lax.scan(step, jnp.float32(0), ys))(jnp.ones((100, 4)))
    assert final == 52
    assert carries.tolist() == [min(4 * i, 52) for i in range(100)]


def test_nested_arguments_and_keywords():
    def callback(tree, *, scale):
        assert not tree["a"].flags.writeable and not scale.flags.writeable
        return {"sum": tree["a"] + tree["b"][0] * scale}

    x = jnp.arange(3.0)
    program = jax.jit(
        lambda x: cb.pure_callback(views(callback), {"sum": x}, {"a": x, "b": (x, None)}, scale=x)
    )
    for _ in range(3):
        np.testing.assert_array_equal(finish(program, x)["sum"], x + x * x)


def test_many_threads_at_one_program():
    def callback(x):
        total = x.sum()
        assert (x == x[0]).all()
        return total

    program = jax.jit(lambda x: cb.pure_callback(views(callback), SCALAR, x))
    failures = []

    def work(value):
        try:
            x = jnp.full(1000, value, jnp.float32)
            for _ in range(100):
                assert program(x) == 1000 * value
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def sharded(callback, collective):
    mesh = Mesh(np.array(devices(4)), ("i",))

    def local(x):
        result = cb.pure_callback(views(callback), x, x)
        return lax.psum(result, "i") if collective else result

    out = PartitionSpec() if collective else PartitionSpec("i")
    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=PartitionSpec("i"), out_specs=out, check_vma=False)
    )


def test_each_device_gets_a_view_of_its_shard():
    program = sharded(lambda x: x * 2, collective=False)
    for _ in range(3):
        assert finish(program, jnp.arange(8.0)).tolist() == [0, 2, 4, 6, 8, 10, 12, 14]


def test_keeping_in_a_program_with_collectives_leaves_no_device_waiting():
    kept = []

    def callback(x):
        if x[0] == 2:
            kept.append(x)
        return x

    program = sharded(callback, collective=True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="after it returned"):
        jax.block_until_ready(program(jnp.arange(8.0)))
        cb.effects_barrier()
    assert kept[0].tolist() == [2, 3]


def test_options_of_equal_functions_are_part_of_what_is_compiled():
    writable = []

    def callback(x):
        writable.append(x.flags.writeable)
        return np.float32(0)

    x = jnp.ones(3)
    for _ in range(2):
        finish(jax.jit(lambda x: cb.pure_callback(callback, SCALAR, x)), x)
        finish(jax.jit(lambda x: cb.pure_callback(views(callback), SCALAR, x)), x)
    assert writable == [True, False] * 2


def test_programs_say_it_only_if_asked():
    def text(function):
        program = jax.jit(lambda x: cb.pure_callback(function, x, x))
        return program.lower(np.ones(3, np.float32)).as_text()

    assert text(np.square) == text(HostFunction(np.square))
    assert "views" not in text(np.square)
    assert "views = true" in text(views(np.square))
