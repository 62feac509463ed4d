"""Real libraries do the same under `callbax.install()` as with JAX's own callbacks.

The programs are in programs/, what need not be the same is in differences.py.
"""

import pytest
from third_party.comparison import assert_same_values, error_lines, output_lines
from third_party.differences import DIFFERENCES, differences
from third_party.play import PLAIN
from third_party.programs_of import all_programs

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]  # the first test of a file plays it

EACH_PROGRAM = pytest.mark.parametrize("program", [*all_programs()])
EACH_KIND_OF_ARGUMENTS = pytest.mark.parametrize("arguments", ["numpy", "jax"])


@EACH_PROGRAM
@EACH_KIND_OF_ARGUMENTS
def test_it_does_the_same(observed, program, arguments):
    theirs, ours = observed(program, PLAIN), observed(program, arguments)
    entries = differences(program, arguments)
    unseen = {name for entry in entries for name in entry.unseen}
    in_order = set if any(entry.any_order for entry in entries) else list
    if "error" not in unseen:
        assert error_lines(ours["error"]) == error_lines(theirs["error"])
    if "value" not in unseen:
        assert_same_values(theirs["value"], ours["value"])
    for stream in {"stdout", "stderr"} - unseen:
        assert in_order(output_lines(ours[stream])) == in_order(output_lines(theirs[stream]))


@EACH_PROGRAM
@EACH_KIND_OF_ARGUMENTS
def test_its_callbacks_are_callbaxs(observed, program, arguments):
    calls = all(entry.calls_the_host for entry in differences(program, arguments))
    assert _owners(observed(program, PLAIN)) == ({"jax"} if calls else set())
    assert _owners(observed(program, arguments)) == ({"callbax"} if calls else set())


def _owners(observation):
    """Whose handlers the programs call: on CPU, callbax has the name that JAX has on GPU."""
    return {"jax" if "_cpu_" in target else "callbax" for target in observation["calls"]}


def test_each_difference_is_about_a_program():
    for entry in DIFFERENCES:
        for pattern in entry.programs:
            assert any(entry in differences(name, entry.arguments[0]) for name in all_programs()), (
                pattern
            )
