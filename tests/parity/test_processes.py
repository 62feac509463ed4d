"""Several processes: which of them calls."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import callbax

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import io_callback
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import callbax

library, port, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
pure, io, debug = (
    (jax.pure_callback, io_callback, jax.debug.callback)
    if library == "jax"
    else (callbax.pure_callback, callbax.io_callback, callbax.debug.callback)
)
calls = []

def record(x):
    calls.append(np.asarray(x).tolist())
    return np.asarray(x)

def take():
    (jax if library == "jax" else callbax).effects_barrier()
    taken = sorted(calls, key=repr)
    calls.clear()
    return taken

CALLS = {
    "pure": lambda x: pure(record, x, x),
    "io": lambda x: io(record, x, x),
    "debug": lambda x: (debug(record, x), x)[1],
}
mesh = Mesh(np.array(jax.devices()), ("i",))
sharding = NamedSharding(mesh, PartitionSpec("i"))
whole = np.arange(4.0, dtype=np.float32)
x = jax.make_array_from_callback((4,), sharding, lambda index: whole[index])
for name, call in CALLS.items():
    local = 10 * process + jnp.arange(2.0)
    jax.block_until_ready(jax.pmap(call)(local))
    print("calls:", name, "pmap", take())
    jax.block_until_ready(jax.jit(call)(x))
    print("calls:", name, "jit", take())
"""


def run_two_processes(library):
    """The lines printed by each of two processes, with two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    source = str(Path(callbax.__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")])),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, library, str(port), str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    printed = []
    try:
        for process in processes:
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr
            # Gloo writes lines of its own.
            lines = stdout.splitlines()
            printed.append([line[7:] for line in lines if line.startswith("calls: ")])
    finally:
        for process in processes:
            process.kill()
    return printed


def knows_its_own_name() -> bool:
    """Gloo, which connects the processes, looks the host's own name up."""
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return False
    return True


@pytest.mark.skipif(not knows_its_own_name(), reason="this host cannot resolve its own name")
def test_pmap_calls_on_own_devices_and_sharded_jit_in_process_0():
    """Multi-process: pmap calls only on each process's own devices; sharded jit in process 0."""
    whole = "[[0.0, 1.0, 2.0, 3.0]]"
    for library in ("jax", "callbax"):
        first, second = run_two_processes(library)
        for index, name in enumerate(["pure", "io", "debug"]):
            here = slice(2 * index, 2 * index + 2)
            assert first[here] == [f"{name} pmap [0.0, 1.0]", f"{name} jit {whole}"], library
            assert second[here] == [f"{name} pmap [10.0, 11.0]", f"{name} jit []"], library
