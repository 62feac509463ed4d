"""The arrays that callbacks get, and what may be done with them."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import callbax as cb

SIZES = [1, 7, 1000, 16 * 1024, 100_000, 3_000_000]  # on both sides of the pool's threshold


@pytest.mark.sampled(8)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "keep",
    [
        lambda a: a,
        lambda a: a[::2],
        lambda a: a[1:].reshape(-1)[:5],
        lambda a: memoryview(a),
        lambda a: np.from_dlpack(a),
        lambda a: np.asarray(a, copy=False).T,
        lambda a: a.__array_interface__ and np.lib.stride_tricks.as_strided(a, (1,), (4,)),
        lambda a: a.flat,
    ],
    ids=["array", "slice", "reshaped", "memoryview", "dlpack", "transpose", "as_strided", "flat"],
)
def test_what_a_callback_keeps_stays_valid_and_unchanged(size, keep):
    kept, copies = [], []

    def callback(a):
        kept.append(keep(a))
        copies.append(np.array(kept[-1], copy=True))
        return np.float32(0)

    program = jax.jit(lambda a: cb.pure_callback(callback, jax.ShapeDtypeStruct((), "float32"), a))
    rounds = 12 if size > 10_000 else 60
    for i in range(rounds):
        program(jnp.full((size,), i, jnp.float32)).block_until_ready()
    jax.clear_caches()
    gc.collect()
    for i, (view, copy) in enumerate(zip(kept, copies, strict=True)):
        np.testing.assert_array_equal(np.array(view), copy)
        assert (copy == i).all()


def test_torch_tensors_of_an_argument_stay_valid():
    torch = pytest.importorskip("torch")
    kept = []

    def callback(a):
        kept.append(torch.from_numpy(a))
        return a

    program = jax.jit(lambda a: cb.pure_callback(callback, a, a))
    for i in range(50):
        program(jnp.full((10,), i, jnp.float32)).block_until_ready()
    assert [int(t[0]) for t in kept] == list(range(50))


@pytest.mark.parametrize(
    "mistreat",
    [
        lambda a: setattr(a, "shape", (2, 2)),
        lambda a: setattr(a, "dtype", np.int32),
        lambda a: setattr(a.flags, "writeable", False),
        lambda a: a.sort(),
        lambda a: a.resize((2,), refcheck=False),
        lambda a: a.fill(np.nan),
    ],
    ids=["shape", "dtype", "read-only", "sorted", "resized", "filled"],
)
@pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning")
def test_arguments_may_be_changed_in_place_without_any_trace(mistreat):
    seen = []

    def callback(a):
        seen.append((a.shape, str(a.dtype), a.flags.writeable, a.tolist()))
        mistreat(a)
        return np.float32(0)

    program = jax.jit(lambda a: cb.pure_callback(callback, jax.ShapeDtypeStruct((), "float32"), a))
    x = jnp.array([3, 1, 2, 0], jnp.float32)
    for _ in range(5):
        program(x).block_until_ready()
    assert seen == [((4,), "float32", True, [3, 1, 2, 0])] * 5
    assert x.tolist() == [3, 1, 2, 0]


def test_a_weak_reference_does_not_see_the_next_calls_data():
    import weakref

    references = []

    def callback(a):
        references.append(weakref.ref(a))
        return a

    program = jax.jit(lambda a: cb.pure_callback(callback, a, a))
    for i in range(5):
        program(jnp.full((3,), i, jnp.float32)).block_until_ready()
        assert references[-1]() is None


def test_large_memory_is_given_back():
    import time

    from callbax import _native

    size = 16 * 2**20
    program = jax.jit(lambda a: cb.pure_callback(np.sum, jax.ShapeDtypeStruct((), "float32"), a))
    program(jnp.ones((size // 4,), jnp.float32)).block_until_ready()
    assert _native.statistics()["live_bytes"] < size
    deadline = time.monotonic() + 30
    while _native.statistics()["idle_bytes"] >= size and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _native.statistics()["idle_bytes"] < size


def test_results_may_be_the_arguments_themselves_or_views_of_them():
    x = jnp.arange(6.0).reshape(2, 3)
    for callback in (
        lambda a: a,
        lambda a: a[::-1, ::-1],
        lambda a: np.broadcast_to(a[:1], (2, 3)),
    ):
        result = jax.jit(lambda a, f=callback: cb.pure_callback(f, a, a))(x)
        np.testing.assert_array_equal(result, callback(np.asarray(x)))


def test_booleans_made_from_other_bytes_arrive_as_booleans():
    def callback():
        return np.array([0, 1, 2, 255], np.uint8).view(bool)

    result = jax.jit(lambda: cb.pure_callback(callback, jax.ShapeDtypeStruct((4,), bool)))()
    assert int(result.sum()) == 3
    assert result.astype(int).tolist() == [0, 1, 1, 1]


def test_denormals_are_ordinary_numbers_inside_a_callback():
    def callback(x):
        tiny = np.float32(1e-40) * np.float32(1)
        return np.float32(tiny > 0)

    spec = jax.ShapeDtypeStruct((), jnp.float32)
    assert jax.jit(lambda x: cb.pure_callback(callback, spec, x))(1.0) == 1
    big = jnp.ones((300, 300))
    assert jax.jit(lambda a: cb.pure_callback(callback, spec, (a @ a).sum()))(big) == 1
