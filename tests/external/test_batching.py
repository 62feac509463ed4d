"""vmap of external functions: every method, threads, effects, the user's own rules."""

import contextlib
import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices
from jax import lax

import callbax as cb

x = np.arange(6, dtype=np.float32)
METHODS = ["sequential", "sequential_unrolled", "expand_dims", "broadcast_all", "threads"]
scalar = jax.ShapeDtypeStruct((), np.float32)


def total(x, shared):
    """Works with leading dimensions too."""
    return np.asarray(x * shared.sum(-1))


def external_total(method, **options):
    return cb.external(total, result=cb.like(0), vmap_method=method, **options)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@pytest.mark.parametrize("effects", ["none", "io"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_agree_with_a_loop(method, effects, transform):
    f = external_total(method, effects=effects)
    weights = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]
    in_a_loop = np.array([[total(a, w) for a in x] for w in weights])
    over_x = jax.vmap(f, (0, None))
    np.testing.assert_array_equal(transform(over_x)(x, weights[0]), in_a_loop[0])
    np.testing.assert_array_equal(transform(jax.vmap(over_x, (None, 0)))(x, weights), in_a_loop)
    swapped = transform(jax.vmap(jax.vmap(f, (None, 0), 0), (0, None), 1))
    np.testing.assert_array_equal(swapped(x, weights), in_a_loop)
    np.testing.assert_array_equal(transform(f)(x[1], weights[1]), in_a_loop[1, 1])


@pytest.mark.parametrize("method", METHODS)
def test_in_scan_and_cond(method):
    f = external_total(method)

    def step(carry, w):
        return lax.cond(w[0] > 2, f, lambda c, w: c + 1, carry, w), carry.sum()

    weights = np.float32([[1, 0], [3, -1], [0, 0]])
    run = jax.jit(jax.vmap(lambda c: lax.scan(step, c, weights)[0]))
    np.testing.assert_array_equal(run(x), 2 * (x + 1) + 1)


def test_explicit_batches_go_by_the_method_too():
    threads = set()

    @cb.external(signature="(n),(n)->()", vmap_method="threads")
    def dot(a, b):
        threads.add(threading.get_ident())
        assert a.shape == b.shape == (2,)
        time.sleep(0.01)
        return a @ b

    a = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    np.testing.assert_array_equal(jax.jit(dot)(a, a[:, :1]), np.einsum("ijk,ilk->ij", a, a[:, :1]))
    assert len(threads) > 1


class Meeting:
    """Lanes that end only once as many run at the same time."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size)

    def __call__(self, x):
        self.barrier.wait(20)
        return x


def test_threads_run_lanes_at_the_same_time():
    f = cb.external(Meeting(2), result=cb.like(0), vmap_method="threads")
    np.testing.assert_array_equal(jax.jit(jax.vmap(f))(x[:2]), x[:2])


def test_threads_nested_in_threads():
    inner = cb.external(lambda x: x + 1, result=cb.like(0), vmap_method="threads")

    def outer(x):
        return np.asarray(jax.vmap(inner)(x)).sum()

    f = cb.external(outer, result=scalar, vmap_method="threads")
    twice = cb.external(
        lambda x: np.asarray(jax.jit(jax.vmap(f))(x)).sum(), result=scalar, vmap_method="threads"
    )
    grid = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    for _ in range(5):
        np.testing.assert_array_equal(jax.jit(jax.vmap(twice))(grid), grid.sum((1, 2)) + 16)


def test_lanes_with_jax_work_of_their_own():
    weights = jnp.eye(200)

    @cb.external(result=scalar, vmap_method="threads")
    def work(x):
        return np.asarray(jnp.linalg.norm((jnp.asarray(x) * weights) @ weights))

    @jax.jit
    def program(a):  # the product is enough for XLA to leave the calling thread
        return jax.vmap(work)((a @ a)[:8, 0])

    pending = [program(jnp.ones((300, 300)) * i) for i in range(40)]
    for i, result in enumerate(pending):
        np.testing.assert_allclose(result, np.full(8, 300 * i * i * np.sqrt(200)), rtol=1e-5)


def test_lanes_own_their_arguments():
    kept = []

    @cb.external(result=cb.like(0), vmap_method="threads")
    def greedy(x, shared):
        kept.append((x, shared))
        x *= 2
        shared += x
        return shared[0]

    a, shared = jnp.arange(50.0), jnp.ones(3)
    f = jax.jit(jax.vmap(greedy, (0, None)))
    np.testing.assert_array_equal(f(a, shared), 2 * a + 1)
    np.testing.assert_array_equal(f(a, shared), 2 * a + 1)
    del a, shared
    assert sorted(float(x) for x, _ in kept) == sorted(2 * [2.0 * i for i in range(50)])
    assert all((shared == x + 1).all() for x, shared in kept)


@pytest.mark.parametrize("zero_copy", [False, True])
def test_out_and_zero_copy_with_threads(zero_copy):
    @cb.external(result=cb.like(0), vmap_method="threads", zero_copy=zero_copy, out=True)
    def double(x, shared, out=None):
        assert shared.flags.writeable is not zero_copy
        np.multiply(x, shared, out=out)

    grid = np.arange(60, dtype=np.float32).reshape(20, 3)
    actual = jax.jit(jax.vmap(double, (0, None)))(grid, np.float32([2, 3, 4]))
    np.testing.assert_array_equal(actual, grid * [2, 3, 4])


def test_the_callers_numpy_settings_hold_in_each_lane():
    with np.errstate(divide="raise"):
        f = jax.vmap(cb.external(lambda x: 1 / x, result=cb.like(0), vmap_method="threads"))
        with pytest.raises(jax.errors.JaxRuntimeError, match="divide by zero"):
            jax.block_until_ready(f(np.float32([1, 2, 3, 0])))


@pytest.mark.parametrize("failing", [[7], [7, 8], [3, 7, 11], [0]])
def test_the_first_failing_lane_is_named(failing):
    ran = []

    def fragile(x):
        ran.append(int(x))
        time.sleep(0.001 * (20 - int(x)))  # later lanes are done earlier
        if int(x) in failing:
            raise KeyError(f"item {int(x)}")
        return x

    f = cb.external(fragile, result=cb.like(0), vmap_method="threads")
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.vmap(f)(np.arange(20, dtype=np.float32)).block_until_ready()
    original = cb.original_exception(caught.value)
    assert type(original) is KeyError and original.args == (f"item {failing[0]}",)
    assert f"in lane {failing[0]} of a batch of 20 of " in str(caught.value)
    assert set(range(failing[0] + 1)) <= set(ran)
    # What runs at the same time may have begun one or two more lanes, no others.
    assert len(ran) <= failing[-1] + 1 + 2 * threads_at_most()


def threads_at_most():
    from callbax._runtime import pool

    return pool.cores()


def test_a_lane_of_nested_vmap_is_named_by_its_indices():
    def fragile(x):
        assert x != 5
        return x

    f = cb.external(fragile, result=cb.like(0), vmap_method="threads")
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"in lane \(1, 2\) of a batch of 2 x 3"):
        jax.vmap(jax.vmap(f))(x.reshape(2, 3)).block_until_ready()


@pytest.mark.parametrize(
    "value, message",
    [
        (np.zeros(2, np.float32), r"Expected: \(\), Actual: \(2,\)"),
        (np.complex64(1), "Expected: float32, Actual: complex64"),
        ((x, x), "Mismatched number of outputs"),
        ("text", "type str, which is not an array of numbers"),
    ],
)
def test_wrong_results_name_function_and_lane(value, message):
    f = cb.external(lambda x: x if x < 4 else value, result=scalar, vmap_method="threads")
    with pytest.raises(jax.errors.JaxRuntimeError, match=message) as caught:
        jax.vmap(f)(x).block_until_ready()
    assert "in lane 4 of a batch of 6" in str(caught.value)
    assert "test_batching.py" in str(caught.value)


def test_after_an_error_the_pool_works_on():
    f = cb.external(lambda x: 1 // int(x) * x, result=cb.like(0), vmap_method="threads")
    for _ in range(20):
        with pytest.raises(jax.errors.JaxRuntimeError, match="ZeroDivisionError"):
            jax.vmap(f)(x).block_until_ready()
        np.testing.assert_array_equal(jax.vmap(f)(np.ones(9, np.float32)), np.ones(9))


def test_calls_from_many_threads_share_the_pool():
    f = jax.jit(jax.vmap(external_total("threads"), (0, None)))
    results = {}

    def call(i):
        results[i] = np.asarray(f(x + i, x))

    callers = [threading.Thread(target=call, args=(i,)) for i in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    for i in range(12):
        np.testing.assert_array_equal(results[i], (x + i) * x.sum())
    names = [t.name for t in threading.enumerate() if t.name.startswith("callbax-lanes")]
    assert len(names) <= threads_at_most() - 1


@pytest.mark.parametrize("shape", [(0,), (3, 0), (1,)])
def test_batches_without_lanes_and_of_one(shape):
    f = cb.external(lambda x: x + 1, result=cb.like(0), vmap_method="threads")
    for _ in shape:
        f = jax.vmap(f)
    np.testing.assert_array_equal(jax.jit(f)(np.zeros(shape, np.float32)), np.ones(shape))


def test_any_dtype():
    for dtype in (jnp.bfloat16, np.complex64, np.bool_, np.uint8, jnp.int4, np.float16):
        f = cb.external(lambda x: x[::-1], result=cb.like(0), vmap_method="threads")
        a = jnp.arange(8).reshape(4, 2).astype(dtype)
        np.testing.assert_array_equal(jax.jit(jax.vmap(f))(a), a[:, ::-1])


def test_promoted_results_are_narrowed_in_each_lane():
    f = cb.external(lambda n, x: n * x, result="broadcast", vmap_method="threads")
    actual = jax.vmap(f, (0, None))(np.arange(3), np.float32(0.5))
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, [0, 0.5, 1])


def test_pytrees_statics_and_keywords():
    @cb.external(result=lambda tree, how, *, scale: tree["a"], vmap_method="threads")
    def apply(tree, how, *, scale):
        return how(tree["a"], tree["b"]) * scale

    tree = {"a": x.reshape(3, 2), "b": np.float32([1, 2])}
    f = jax.jit(jax.vmap(lambda a, b: apply({"a": a, "b": b}, np.add, scale=b), (0, None)))
    np.testing.assert_array_equal(f(tree["a"], tree["b"]), (tree["a"] + tree["b"]) * tree["b"])


def test_arrays_of_jax():
    kinds = []

    @cb.external(result=cb.like(0), vmap_method="threads", arrays="jax")
    def f(x):
        kinds.append(isinstance(x, jax.Array))
        return x + 1

    np.testing.assert_array_equal(jax.jit(jax.vmap(f))(x), x + 1)
    assert kinds == [True] * 6


@pytest.mark.parametrize("method", ["sequential", "sequential_unrolled", "threads", None])
def test_ordered_effects_are_not_batched_lane_by_lane(method):
    f = cb.external(lambda x: x, result=cb.like(0), effects="ordered", vmap_method=method)
    np.testing.assert_array_equal(jax.jit(f)(x), x)
    with pytest.raises(ValueError, match="Cannot `vmap` ordered IO callback"):
        jax.vmap(f)(x)


@pytest.mark.parametrize("method", ["expand_dims", "broadcast_all"])
def test_ordered_effects_of_a_whole_batch_are_one_ordered_call(method):
    seen = []

    def note(name, x):
        seen.append((name, x.tolist()))
        return np.asarray(x)

    f = cb.external(note, result=cb.like(1), effects="ordered", vmap_method=method)

    def twice(x):
        return f("second", f("first", x) + 1)

    np.testing.assert_array_equal(jax.jit(jax.vmap(twice))(x), x + 1)
    cb.effects_barrier()
    assert seen == [("first", x.tolist()), ("second", (x + 1).tolist())]
    seen.clear()
    table = np.stack([x, 2 * x])
    np.testing.assert_array_equal(jax.vmap(jax.vmap(twice))(table), table + 1)
    assert seen == [("first", table.tolist()), ("second", (table + 1).tolist())]


def test_ordered_effects_on_an_executor_are_not_batched():
    with ThreadPoolExecutor(2) as executor:
        f = cb.external(lambda x: x, result=cb.like(0), effects="ordered", executor=executor)
        np.testing.assert_array_equal(jax.jit(f)(x), x)
        with pytest.raises(ValueError, match="Cannot `vmap` ordered IO callback"):
            jax.vmap(f)(x)


@pytest.mark.parametrize("method", METHODS)
def test_effects_of_lanes_happen_once_each(method):
    seen = []
    f = cb.external(
        lambda x: seen.extend(np.ravel(x).tolist()), result=None, effects="io", vmap_method=method
    )
    jax.jit(jax.vmap(f))(x)
    cb.effects_barrier()
    assert sorted(seen) == x.tolist()


def test_elementwise_functions_get_whole_batches():
    shapes = []

    def add(a, b):
        shapes.append((a.shape, b.shape))
        return a + b

    f = cb.external(add, result="broadcast")
    actual = jax.vmap(f, (0, None))(x, np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(actual, np.broadcast_to(x[:, None, None] + 1, (6, 2, 3)))
    assert shapes == [((6, 1, 1), (1, 2, 3))]


def test_no_second_compilation():
    f = cb.external(lambda x: x, result=cb.like(0), vmap_method="threads")
    compiled = []

    def listen(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.vmap(f)(x)
    jax.monitoring.register_event_duration_secs_listener(listen)
    with contextlib.ExitStack() as stack:
        stack.callback(jax.monitoring.unregister_event_duration_listener, listen)
        for _ in range(3):
            jax.vmap(f)(x)
    assert compiled == []


def test_large_lanes_that_drop_the_gil():
    @cb.external(result=jax.ShapeDtypeStruct((32,), np.uint8), vmap_method="threads")
    def digest(block):
        return np.frombuffer(hashlib.sha256(block.data).digest(), np.uint8)

    blocks = np.random.default_rng(0).integers(0, 256, (16, 1 << 18)).astype(np.uint8)
    expected = [list(hashlib.sha256(block.tobytes()).digest()) for block in blocks]
    np.testing.assert_array_equal(jax.jit(jax.vmap(digest))(blocks), expected)


@pytest.mark.parametrize("options", [{"vmap_method": m} for m in METHODS] + [{"executor": 2}])
def test_in_shard_map_and_remat(options):
    with contextlib.ExitStack() as stack:
        if "executor" in options:
            executor = stack.enter_context(ThreadPoolExecutor(options["executor"]))
            options = {"executor": executor}
        f = cb.external(lambda x: x * 2, result=cb.like(0), **options)
        f.defjvps(lambda t, ans, x: 2 * t)
        mesh = jax.make_mesh(
            (4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices(4)
        )
        spec = jax.sharding.PartitionSpec("i")

        def shard(x):
            return jax.vmap(jax.checkpoint(lambda x: f(x) + f.call_where(x > 2, x)))(x)

        program = jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=spec, out_specs=spec))
        a = np.arange(8, dtype=np.float32)
        np.testing.assert_array_equal(program(a), 2 * a + np.where(a > 2, 2 * a, 0))
        grads = jax.grad(lambda a: program(a).sum())(a)
        np.testing.assert_array_equal(grads, 2 + 2 * (a > 2))
