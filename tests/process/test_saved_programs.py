"""Programs of all kinds that another process loads, or finds in JAX's persistent cache.

Two processes do it all: one saves every program of `travelling` in every way, the other takes them.
"""

import json
from pathlib import Path
from textwrap import dedent

import pytest
from process.conftest import BEFORE_JAX

KERNEL = """
#include <callbax/kernel.h>
int twice(const callbax_call* call) {
  const callbax_array* x = &call->arguments[0];
  for (int i = 0; i < x->shape[0]; ++i)
    ((float*)call->results[0].data)[i] = 2 * ((const float*)x->data)[i];
  return 0;
}
"""
WAYS = {
    "export": "jax.export, called and differentiated",
    "symbolic": "jax.export for any number of items, for CPU and GPU at once",
    "executable": "jax.experimental.serialize_executable",
    "cache": "JAX's persistent compilation cache",
}


@pytest.mark.timeout(500)
@pytest.mark.sampled(1)  # the one test of the tables in docs/deploying.md: it always runs
def test_every_program_arrives(run_program, compile_c, tmp_path):
    environment = {
        "PYTHONPATH": str(Path(__file__).parent),
        "KERNEL_LIBRARY": compile_c(KERNEL),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    for role in ("write", "read"):
        source = f"import travelling as t; t.report(t.{role}, {str(tmp_path)!r})"
        finished = run_program(source, environment=environment, preamble="", deadline=240)
        assert finished.returncode == 0, finished.output
    reports = json.loads(finished.output.splitlines()[-1])
    assert reports.keys() == WAYS.keys()
    for way, of_programs in reports.items():
        assert len(of_programs) > 10
        failed = {name: report for name, report in of_programs.items() if report != "ok"}
        assert failed == {}, WAYS[way]


SHARDED = """
import numpy as np
import callbax as cb

seen = []

def sine(x):
    seen.append(x.shape)
    return np.sin(x)

def note(x):
    seen.append(x.shape)

each = cb.external(sine, result="broadcast", per_shard=True)
noted = cb.external(note, result=None, effects="io", per_shard=True)
"""


def test_a_program_that_is_distributed_arrives(run_program, tmp_path):
    (tmp_path / "sharded.py").write_text(SHARDED)
    source = """
        from jax import export
        from jax.sharding import NamedSharding, PartitionSpec
        import sharded

        shards = NamedSharding(jax.make_mesh((8,), ("i",)), PartitionSpec("i"))
        x = jax.device_put(jnp.arange(16.0), shards)

        def program(x):
            jax.vmap(sharded.noted)(x)
            return lax.scan(lambda x, _: (sharded.each(x), None), x, length=2)[0]
    """
    write = """
        exported = export.export(jax.jit(program), disabled_checks=cb.EXPORT_CHECKS)(x)
        open("program", "wb").write(exported.serialize())
        print("done")
    """
    read = """
        result = jax.jit(export.deserialize(open("program", "rb").read()).call)(x)
        assert np.allclose(result, np.sin(np.sin(np.arange(16))))
        assert result.sharding.is_equivalent_to(shards, 1)
        jax.effects_barrier()
        assert sorted(sharded.seen) == [()] * 16 + [(2,)] * 16
        print("done")
    """
    for role in (write, read):
        program = f"import os; os.chdir({str(tmp_path)!r})\n{BEFORE_JAX}\n{dedent(source + role)}"
        finished = run_program(
            program, devices=8, environment={"PYTHONPATH": str(tmp_path)}, preamble=""
        )
        assert finished.output.strip() == "done", finished.output
