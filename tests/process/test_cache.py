"""JAX's persistent compilation cache."""

PROGRAM = """
from jax import export

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
checks = [export.DisabledSafetyCheck.custom_call("callbax_call")]

def exported(function):
    program = jax.jit(lambda x: cb.pure_callback(function, x, x))
    return export.export(program, disabled_checks=checks)(scalar)

print(exported(np.square).call(np.float32(3)), exported(lambda x: x + 1).call(np.float32(3)))
print(hits.count("/jax/compilation_cache/cache_hits"))
"""


def test_programs_that_nothing_can_hit_are_not_written(run_program, tmp_path):
    """Those that were exported with a callback of this process, and are called in it."""
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONWARNINGS": "ignore",
    }
    entries = []
    for hits in (0, 1):
        finished = run_program(PROGRAM, environment=environment)
        assert finished.output.splitlines() == ["9.0 4.0", str(hits)]
        entries.append(sorted(path.name for path in tmp_path.glob("jit_call_exported-*-cache")))
    assert len(entries[0]) == 1
    assert entries[1] == entries[0]
