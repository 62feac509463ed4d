"""JAX's strict modes: callbax's own code is clean under each of them, and warns of nothing."""

import warnings

import flavours
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import both_in_any_order
from jax.sharding import Mesh, NamedSharding, PartitionSpec

pytestmark = pytest.mark.sampled(8)

MODES = {
    "jax_enable_checks": lambda: jax.enable_checks(True),
    "strict dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "rank promotion raise": lambda: jax.numpy_rank_promotion("raise"),
    "x64": lambda: jax.enable_x64(True),
    "debug nans": lambda: jax.debug_nans(True),
    "check tracer leaks": lambda: jax.check_tracer_leaks(True),
}

X = np.arange(3, dtype=np.float32)
SHARDING = NamedSharding(Mesh(np.array(jax.devices()[:3]), ("i",)), PartitionSpec("i"))


def over_scan(f, x):
    return jax.lax.scan(lambda carry, y: (carry, f(y)), jnp.zeros_like(x[0]), x)[1]


# Each calls f on the whole of x or on its elements, and gives x back.
PROGRAMS = {
    "eager": lambda f, x: f(x),
    "jit": lambda f, x: jax.jit(f)(x),
    "vmap": lambda f, x: jax.vmap(f)(x),
    "jit of nested vmap": lambda f, x: jax.jit(jax.vmap(jax.vmap(f)))(x[None])[0],
    "scan": over_scan,
    "cond": lambda f, x: jax.jit(lambda x: jax.lax.cond(x[1] > 0, f, lambda x: x, x))(x),
    "sharded jit": lambda f, x: jax.jit(f, in_shardings=SHARDING)(x),
    "shard_map": lambda f, x: jax.jit(
        jax.shard_map(f, mesh=SHARDING.mesh, in_specs=SHARDING.spec, out_specs=SHARDING.spec)
    )(x),
}
NO_VMAP = ("vmap", "jit of nested vmap")
ON_SEVERAL = ("sharded jit", "shard_map")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROGRAMS)
@flavours.each(flavours.ALL)
def test_programs_are_clean_in_every_mode(mode, name, call):
    """Internal code is clean under `jax_enable_checks`, strict dtype promotion, rank promotion."""
    if call is flavours.ordered_io and name in NO_VMAP:
        pytest.skip("ordered IO has no vmap")
    if call is flavours.ordered_debug and name in ON_SEVERAL:
        pytest.skip("ordered debug has one device")

    @both_in_any_order
    def outcome(library, record):
        x = jax.device_put(X)
        with MODES[mode](), warnings.catch_warnings(action="error"):
            return PROGRAMS[name](lambda x: call(library, record, x), x)

    assert outcome.value.tolist() == [0.0, 1.0, 2.0]
    assert sum(np.size(call) for call in outcome.calls) == 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["expand_dims", "broadcast_all", "legacy_vectorized"])
def test_methods_are_clean_in_every_mode(mode, method):
    """The same for each method of vmap, with an unbatched argument of another rank and type."""

    @both_in_any_order
    def outcome(library, record):
        def host(x, n):
            x, n = np.asarray(x), np.asarray(n)
            return x + n.reshape(n.shape + (1,) * (x.ndim - n.ndim)).astype(x.dtype)

        def f(x, n):
            return library.pure_callback(host, x, x, n, vmap_method=method)

        x, n = jnp.ones((3, 2), jnp.float32), jnp.int32(2)
        with MODES[mode]():
            return jax.vmap(f, in_axes=(0, None))(x, n)

    assert outcome.value.tolist() == [[3.0, 3.0]] * 3


@pytest.mark.parametrize("mode", MODES)
@flavours.each(flavours.DEBUG)
def test_debug_under_autodiff_and_remat_is_clean_in_every_mode(mode, call):
    """The same under differentiation."""

    @both_in_any_order
    def outcome(library, record):
        def f(x):
            return (call(library, record, x) * x).sum()

        x = jax.device_put(X)
        with MODES[mode]():
            return jax.grad(f)(x), jax.jit(jax.grad(jax.checkpoint(f)))(x)

    assert [x.tolist() for x in outcome.value] == [[0.0, 2.0, 4.0]] * 2
    assert outcome.calls == [[0.0, 1.0, 2.0]] * 3
