"""The gateway's part for programs that run: backends, clients, and how a program is called."""

from __future__ import annotations

import jax
from jax._src import xla_bridge as _xla_bridge
from jax._src.lib import xla_client as _xla_client


def has_backends() -> bool:
    """Whether JAX has started a backend, and with it XLA's threads.

    Read without JAX's lock, so that it may be asked in a forked child.
    """
    return bool(_xla_bridge._backends)


def make_cpu_device() -> jax.Device:
    """A CPU device of a client of its own, which runs programs on the threads that call them.

    It waits for no pool, so work on it may be nested to any depth.
    """
    client = _xla_client.make_cpu_client(num_devices=1, asynchronous=False)
    return client.local_devices()[0]
