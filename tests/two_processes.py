"""Programs that two processes run together, with two CPU devices each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import xla_flags

import callbax

START = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import callbax

process = int(sys.argv[2])
jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=2, process_id=process)
mesh = Mesh(np.array(jax.devices()), ("i",))
sharding = NamedSharding(mesh, PartitionSpec("i"))
whole = np.arange(4.0, dtype=np.float32)
x = jax.make_array_from_callback((4,), sharding, lambda index: whole[index])
"""


def run(program, *arguments):
    """What each of two processes says, in lines that begin with "says: ".

    The program begins with START; the arguments are sys.argv[3:].
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    source = str(Path(callbax.__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")])),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(devices=2),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START + program, str(port), str(index), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = []
    try:
        for process in processes:
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr
            # Gloo writes lines of its own.
            lines = stdout.splitlines()
            said.append([line[6:] for line in lines if line.startswith("says: ")])
    finally:
        for process in processes:
            process.kill()
    return said


def _knows_its_own_name() -> bool:
    """Gloo, which connects the processes, looks the host's own name up."""
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return False
    return True


needs_a_host_name = pytest.mark.skipif(
    not _knows_its_own_name(), reason="this host cannot resolve its own name"
)
