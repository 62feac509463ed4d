"""Several processes that run one program together: each calls for its own shards."""

import pytest
import two_processes
from portable_differences import IS_PORTABLE

PROGRAM = """
calls = []

def record(x):
    calls.append(np.asarray(x).tolist())
    return 2 * x

def show(name, program):
    for _ in range(2):
        result = jax.block_until_ready(jax.jit(program)(x))
        callbax.effects_barrier()
        parts = [shard.data.tolist() for shard in result.addressable_shards]
        print("says:", name, sorted(calls), parts)
        calls.clear()

each = dict(result="broadcast", per_shard=True)
lanes = callbax.external(record, signature="()->()", per_shard=True)
show("plain", callbax.external(record, result="broadcast"))
show("per_shard", callbax.external(record, **each))
show("lanes", lanes)
show("io", callbax.external(record, effects="io", **each))
show("ufunc", callbax.ufunc(np.negative))
scan = callbax.external(record, **each)
show("scan", lambda x: jax.lax.scan(lambda c, _: (scan(c), None), x, length=2)[0])

def refuse(x):
    if x[0] == 3:
        raise ValueError("not this one")
    return x

refusing = callbax.external(refuse, **each)
for program in (refusing, lambda x: refusing(x).sum()):
    result = None
    try:
        with callbax.reraise():
            result = jax.jit(program)(x)
            jax.block_until_ready(result)
            callbax.effects_barrier()
        print("says: no error", [shard.data.tolist() for shard in result.addressable_shards])
    except ValueError as error:
        print("says:", error)
"""


@pytest.mark.skipif(IS_PORTABLE, reason="one device calls for all there")
@two_processes.needs_a_host_name
def test_each_process_calls_for_the_shards_of_its_devices():
    first, second = two_processes.run(PROGRAM)
    doubled = [["[0.0], [2.0]", "[4.0], [6.0]"], ["[-0.0], [-1.0]", "[-2.0], [-3.0]"]]
    expected = {
        "plain": (["[[0.0, 1.0, 2.0, 3.0]]", "[]"], None),
        "per_shard": (["[[0.0], [1.0]]", "[[2.0], [3.0]]"], doubled[0]),
        "lanes": (["[0.0, 1.0]", "[2.0, 3.0]"], doubled[0]),
        "io": (["[[0.0], [1.0]]", "[[2.0], [3.0]]"], doubled[0]),
        "ufunc": (["[]", "[]"], doubled[1]),
        "scan": (
            ["[[0.0], [0.0], [1.0], [2.0]]", "[[2.0], [3.0], [4.0], [6.0]]"],
            ["[0.0], [4.0]", "[8.0], [12.0]"],
        ),
    }
    whole = "[0.0, 2.0, 4.0, 6.0]"
    for process, said in enumerate((first, second)):
        lines = []
        for name, (calls, parts) in expected.items():
            part = f"{whole}, {whole}" if parts is None else parts[process]
            lines += [f"{name} {calls[process]} [{part}]"] * 2
        assert said[:-2] == lines
    # Where the processes work together, the error of one poisons the values of the other.
    assert first[-2:] == ["no error [[0.0], [1.0]]", "no error [nan, nan]"]
    assert second[-2:] == ["not this one"] * 2
