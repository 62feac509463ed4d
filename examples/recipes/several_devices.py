"""Four devices, each of which calls the host for its own part.

    python examples/recipes/several_devices.py

They are four CPU devices, by a flag of XLA's that has to be set before JAX starts.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import callbax as cb

mesh = jax.make_mesh((4,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
parts = PartitionSpec("devices")
calls = []


@cb.external(signature="(n)->()", per_shard=True, vmap_method="expand_dims")
def spread(row):
    calls.append(row.shape)
    return np.ptp(row, axis=-1)


rows = jax.random.normal(jax.random.key(0), (8, 1000))
rows = jax.device_put(rows, NamedSharding(mesh, parts))
result = jax.jit(spread)(rows)
print("external(per_shard=True): calls with", *calls, "and a result that is", result.sharding.spec)
assert np.array_equal(result, np.ptp(rows, axis=-1))


def report(device, largest):
    seen[int(device)] = float(largest)


@jax.jit
@jax.shard_map(mesh=mesh, in_specs=parts, out_specs=parts)
def scaled(rows):
    """In a shard_map all callbacks are the device's own, and axis_index says whose."""
    largest = jnp.abs(rows).max()
    cb.debug.callback(report, jax.lax.axis_index("devices"), largest)
    return rows / jax.lax.pmax(largest, "devices")


seen = {}
scaled(rows)
cb.effects_barrier()
for device, largest in sorted(seen.items()):
    print(f"device {device}: at most {largest:.2f}")
