"""Several devices: each calls with its own part.

An array may be distributed over devices. As a rule one device gathers it and calls, which is right
for every function. Where the function works on each part of a batch alone, `per_shard=True` says so.
(The tour has four devices, made of this machine's CPU.)
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import callbax
from callbax._tour.examples import Chapter

chapter = Chapter(__name__)


def square(x: np.ndarray) -> np.ndarray:
    print(f"called with {x.tolist()}")
    return x * x


def distributed(x: jax.Array) -> jax.Array:
    mesh = Mesh(np.array(jax.devices()[:4]), "i")
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec("i")))


@chapter.example(
    "square",
    "distributed",
    prints=r"(called with \[\d\.0, \d\.0\]\n){4}on 4 devices: .*",
)
def per_shard() -> None:
    """One call on each device.

    Nothing is gathered, and the result stays where it was computed.
    """
    f = jax.jit(
        callbax.external(square, result="broadcast", per_shard=True)
    )
    result = f(distributed(jnp.arange(8.0))).block_until_ready()
    print(f"on {len(result.sharding.device_set)} devices: {result}")
    assert not result.is_fully_replicated
    assert np.array_equal(result, np.arange(8.0) ** 2)
