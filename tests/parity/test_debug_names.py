"""callbax.debug has all names of jax.debug, and a few of its own."""

import jax
import jax.numpy as jnp
from helpers import devices
from jax.sharding import NamedSharding, PartitionSpec

import callbax


def test_all_names_are_there():
    own = {"Batch", "on_gradient", "watch"}
    assert set(callbax.debug.__all__) == set(jax.debug.__all__) | own
    for name in ("DebugEffect", "OrderedDebugEffect", "visualize_sharding"):
        assert getattr(callbax.debug, name) is getattr(jax.debug, name)


def test_shardings_are_inspected():
    mesh = jax.make_mesh((2,), ("d",), devices=devices(2))
    sharding = NamedSharding(mesh, PartitionSpec("d"))
    x = jax.device_put(jnp.arange(4), sharding)
    seen = []

    @jax.jit
    def f(x):
        callbax.debug.inspect_array_sharding(x, callback=seen.append)
        callbax.debug.callback(lambda x: None, x)  # beside a callback, too
        return x

    f(x)
    assert seen[0].is_equivalent_to(sharding, 1)


def test_shardings_are_shown(capsys):
    x = jax.device_put(jnp.arange(4), jax.devices()[0])
    callbax.debug.visualize_array_sharding(x)
    assert f"{jax.default_backend().upper()} 0" in capsys.readouterr().out
