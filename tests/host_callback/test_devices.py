"""Taps and calls in programs on several devices: which device calls, with what, in which order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import plain
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from callbax import host_callback

DEVICES = jax.devices()[:4]
MESH = Mesh(np.array(DEVICES), ("d",))
ALONG_D = PartitionSpec("d")


class ByDevice:
    """What each device has tapped, by its position among the four."""

    def __init__(self):
        self.seen = {}

    def tap(self, x, **options):
        return host_callback.id_tap(self.note, x, tap_with_device=True, **options)

    def note(self, x, transforms=(), *, device):
        self.seen.setdefault(DEVICES.index(device), []).append((plain(x), *transforms))
        return x

    def call(self, x, **options):
        return host_callback.call(self.note, x, result_shape=x, call_with_device=True, **options)

    def all(self):
        host_callback.barrier_wait()
        return dict(sorted(self.seen.items()))


@pytest.fixture
def taps():
    return ByDevice()


@pytest.fixture
def sharded():
    return jax.device_put(jnp.arange(8), NamedSharding(MESH, ALONG_D))


@pytest.mark.parametrize("kind", ["tap", "call"])
def test_each_device_of_a_pmap_calls_in_order(taps, kind):
    one = getattr(taps, kind)
    result = jax.pmap(lambda x: one(one(x) * 10), devices=DEVICES)(jnp.arange(4))
    assert result.tolist() == [0, 10, 20, 30]
    assert taps.all() == {i: [(i,), (10 * i,)] for i in range(4)}


def test_pmap_and_vmap(taps):
    batch = ("batch", {"batch_dims": (0,)})
    jax.pmap(jax.vmap(taps.tap), devices=DEVICES)(jnp.arange(8).reshape(4, 2))
    jax.vmap(jax.pmap(taps.tap, devices=DEVICES))(jnp.arange(8).reshape(2, 4))
    assert taps.all() == {i: [([2 * i, 2 * i + 1], batch), ([i, i + 4], batch)] for i in range(4)}


def test_derivatives_of_pmap(taps):
    def f(x):
        return jax.pmap(lambda x: taps.tap(x) ** 2, devices=DEVICES)(x).sum()

    assert jax.grad(f)(jnp.arange(4.0)).tolist() == [0, 2, 4, 6]
    assert taps.all() == {i: [(float(i),)] for i in range(4)}


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_each_device_of_a_shard_map_calls(taps, sharded, transform):
    f = jax.shard_map(taps.tap, mesh=MESH, in_specs=ALONG_D, out_specs=ALONG_D)
    assert transform(f)(sharded).tolist() == list(range(8))
    assert taps.all() == {i: [([2 * i, 2 * i + 1],)] for i in range(4)}


def test_the_order_of_the_mesh_is_that_of_the_devices(taps):
    mesh = Mesh(np.array(DEVICES)[[2, 0, 3, 1]].reshape(2, 2), ("a", "b"))
    spec = PartitionSpec(("a", "b"))
    jax.jit(jax.shard_map(taps.tap, mesh=mesh, in_specs=spec, out_specs=spec))(jnp.arange(4))
    assert taps.all() == {0: [([1],)], 1: [([3],)], 2: [([0],)], 3: [([2],)]}


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("kind", ["tap", "call"])
def test_one_device_of_a_distributed_program_calls(taps, sharded, kind, index):
    one = getattr(taps, kind)
    f = jax.jit(lambda x: one(x * 10, device_index=index))
    assert f(sharded).tolist() == list(range(0, 80, 10))
    assert taps.all() == {index: [(list(range(0, 80, 10)),)]}


def test_a_program_on_one_device_is_told_which(taps):
    x = jax.device_put(1, DEVICES[3])
    jax.jit(taps.tap)(x)
    taps.tap(x)
    jax.jit(taps.tap)(2)
    jax.vmap(taps.tap)(jax.device_put(jnp.arange(2), DEVICES[2]))
    assert taps.all() == {
        0: [(2,)],
        2: [([0, 1], ("batch", {"batch_dims": (0,)}))],
        3: [(1,), (1,)],
    }


def test_a_device_that_is_not_there(taps, sharded):
    with pytest.raises(ValueError, match=r"device_index=4 of .*note .* runs on 4,"):
        jax.jit(lambda x: taps.tap(x, device_index=4))(sharded)
    with pytest.raises(ValueError, match=r"device_index=1 of .*note .* runs on 1,"):
        taps.tap(1, device_index=1)


def test_an_abstract_mesh_has_no_devices(taps):
    f = jax.shard_map(taps.tap, mesh=MESH.abstract_mesh, in_specs=ALONG_D, out_specs=ALONG_D)
    with jax.set_mesh(MESH):  # of concrete devices, which JAX puts in its place
        jax.jit(f)(jnp.arange(4))
    assert taps.all() == {i: [([i],)] for i in range(4)}


def test_a_program_partitioned_by_hand_in_part_is_refused(taps):
    mesh = Mesh(np.array(DEVICES).reshape(2, 2), ("a", "b"))
    spec = PartitionSpec("a")
    f = jax.shard_map(taps.tap, mesh=mesh, in_specs=spec, out_specs=spec, axis_names={"a"})
    with pytest.raises(NotImplementedError, match="all mesh axes are partitioned manually"):
        jax.jit(f)(jnp.arange(4))


def test_the_device_is_printed(capsys):
    jax.pmap(lambda x: host_callback.id_print(x, what="x", tap_with_device=True), devices=DEVICES)(
        jnp.arange(4)
    )
    host_callback.barrier_wait()
    lines = capsys.readouterr().out.splitlines()
    pairs = sorted(zip(lines[::2], lines[1::2], strict=True))  # the lines of a print stay together
    assert pairs == [(f"device: {device} what: x", str(i)) for i, device in enumerate(DEVICES)]


def test_a_failing_tap_leaves_no_device_waiting():
    def fails(x, transforms):
        raise ValueError("no")

    def f(x):
        return jax.lax.psum(host_callback.id_tap(fails, x), "i")

    assert jax.pmap(f, "i", devices=DEVICES)(jnp.arange(4)).tolist() == [6] * 4
    with pytest.raises(host_callback.CallbackException) as caught:
        host_callback.barrier_wait()
    assert str(caught.value).count("ValueError: no") == 4


def test_a_failing_call_leaves_no_device_waiting():
    def fails(x):
        raise ValueError("no")

    def f(x):
        return jax.lax.psum(host_callback.call(fails, x, result_shape=x), "i")

    jax.pmap(f, "i", devices=DEVICES)(jnp.arange(4.0)).block_until_ready()
    with pytest.raises(host_callback.CallbackException, match="ValueError: no"):
        host_callback.barrier_wait()
    host_callback.barrier_wait()
