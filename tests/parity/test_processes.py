"""Several processes: which of them calls."""

import pytest
import two_processes

PROGRAM = """
from jax.experimental import io_callback

library = sys.argv[3]
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
for name, call in CALLS.items():
    local = 10 * process + jnp.arange(2.0)
    jax.block_until_ready(jax.pmap(call)(local))
    print("says:", name, "pmap", take())
    jax.block_until_ready(jax.jit(call)(x))
    print("says:", name, "jit", take())
"""


@two_processes.needs_a_host_name
@pytest.mark.full
def test_pmap_calls_on_own_devices_and_sharded_jit_in_process_0():
    """Multi-process: pmap calls only on each process's own devices; sharded jit in process 0."""
    whole = "[[0.0, 1.0, 2.0, 3.0]]"
    for library in ("jax", "callbax"):
        first, second = two_processes.run(PROGRAM, library)
        for index, name in enumerate(["pure", "io", "debug"]):
            here = slice(2 * index, 2 * index + 2)
            assert first[here] == [f"{name} pmap [0.0, 1.0]", f"{name} jit {whole}"], library
            assert second[here] == [f"{name} pmap [10.0, 11.0]", f"{name} jit []"], library
