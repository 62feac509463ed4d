"""What does not hold where JAX's callbacks call callbax's: on GPU and TPU, or by CALLBAX_RUNTIME.

Each has its reason, and a row in the table of docs/sharp-bits.md.
"""

import os

import pytest

IS_PORTABLE = (
    os.environ.get("CALLBAX_RUNTIME") == "portable"
    or os.environ.get("JAX_PLATFORMS", "cpu").partition(",")[0] != "cpu"
)

# By what the names of tests begin with.
EXPECTED = {
    "parity/test_differences.py::test_the_persistent_compile_cache": (
        "JAX does not keep programs with its own callbacks in the persistent cache"
    ),
}


def expect_differences(items):
    """Marks the tests that are expected to fail, and must."""
    if not IS_PORTABLE:
        return
    for item in items:
        for start, reason in EXPECTED.items():
            if item.nodeid.removeprefix("tests/").startswith(start):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
