"""Compiles a program of each form with XLA's own compiler for NVIDIA GPUs, which needs none.

A script that prints a line of JSON for each form: its name, and the targets of the custom calls in what
XLA has compiled, or the error. test_compiler.py says in which environment it runs.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import topologies

import callbax

# Of an H100. The compiler asks for no more.
DEVICE = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def pure(x):
    return callbax.pure_callback(np.sin, x, x)


def effect(x, ordered=False):
    callbax.io_callback(print, None, x, ordered=ordered)
    return x * 2


def with_result(x):
    return callbax.io_callback(np.sin, x, x, ordered=True) + 1


def printed(x, **options):
    callbax.debug.print("x is {}", x, **options)
    return x * 2


def int4(x):
    struct = jax.ShapeDtypeStruct(x.shape, jnp.int4)
    return callbax.pure_callback(np.negative, struct, x.astype(jnp.int4))


def empty(x):
    none = callbax.io_callback(np.array, jax.ShapeDtypeStruct((0,), np.float32), x[:0])
    callbax.io_callback(print, None, x[:0])
    return x, none


@callbax.external(result=callbax.like(0), vmap_method="expand_dims")
def sine(x):
    return np.sin(x)


@sine.def_host_vjp
def _(result, x, cotangent):
    return np.cos(x) * cotangent


@callbax.external(result=callbax.like(0), per_shard=True, signature="()->()")
def sine_per_shard(x):
    return np.sin(x)


logaddexp = callbax.ufunc(np.logaddexp)

ONE_DEVICE = {
    "pure": pure,
    "unordered effect": effect,
    "ordered effect": lambda x: effect(x, ordered=True),
    "ordered effect with a result": with_result,
    "print": printed,
    "scan": lambda x: lax.scan(lambda c, _: (pure(c), None), x, length=5)[0],
    "ordered effect in scan": lambda x: lax.scan(
        lambda c, _: (effect(c, ordered=True), None), x, length=5
    )[0],
    "cond": lambda x: lax.cond(x[0] > 0, lambda x: effect(x, ordered=True), lambda x: x, x),
    "while_loop": lambda x: lax.while_loop(lambda x: x[0] < 9, lambda x: pure(x) + 1, x),
    "lanes": jax.vmap(pure),
    "int4": int4,
    "no elements": empty,
    "between kernels": lambda x: jnp.sin(jnp.sort(pure(jnp.cumsum(jnp.sort(x * 2))))),
    "external": jax.value_and_grad(lambda x: sine(x).sum()),
    "compiled function": lambda x: logaddexp(x, 1.0),
}
FOUR_DEVICES = {
    "sharded": pure,
    "sharded effect": effect,
    "sharded ordered effect": with_result,
    "shard_map": lambda x: jax.shard_map(pure, in_specs=jax.P("x"), out_specs=jax.P("x"))(x),
    "partitioned": lambda x: printed(x, partitioned=True),
    "per_shard": sine_per_shard,
    "sharded compiled function": lambda x: logaddexp(x, 1.0),
}


def compile_for(count, program):
    """The targets in what is compiled for so many devices, on which the argument is distributed."""
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=DEVICE, topology=f"1x1x{count}"
    )
    mesh = topologies.make_mesh(topo=topology, mesh_shape=(count,), axis_names=("x",))
    x = jax.ShapeDtypeStruct(
        (8,), np.float32, sharding=jax.NamedSharding(mesh, jax.P("x" if count > 1 else None))
    )
    with jax.set_mesh(mesh):
        text = jax.jit(program).lower(x).compile().as_text()
    return sorted(set(re.findall(r'custom_call_target="([^"]*)"', text)))


def main():
    jax.devices()  # finds the plugin
    for count, programs in ((1, ONE_DEVICE), (4, FOUR_DEVICES)):
        for name, program in programs.items():
            found = {"form": name}
            try:
                found["targets"] = compile_for(count, program)
            except Exception as error:  # noqa: BLE001 - the test shows it
                found["error"] = f"{type(error).__name__}: {error}"
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
