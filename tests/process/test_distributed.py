"""Several processes that run one program together: each calls for its own shards."""

import two_processes

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

try:
    with callbax.reraise():
        jax.jit(callbax.external(refuse, **each))(x).block_until_ready()
        callbax.effects_barrier()
    print("says: no error")
except ValueError as error:
    print("says:", error)
"""


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
        assert said[:-1] == lines
    assert first[-1] == "no error"
    assert second[-1] == "not this one"
