"""XLA's own compiler for NVIDIA GPUs takes programs of each form, and finds callbax's handlers.

No GPU is needed, but the wheels of JAX's CUDA plugin, in the folder CALLBAX_CUDA_PLUGIN_DIR
(`.ci/run cuda-compiler` gets them).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_cuda
import pytest

pytestmark = [
    pytest.mark.sampled(1),
    pytest.mark.skipif(
        not os.environ.get("CALLBAX_CUDA_PLUGIN_DIR"),
        reason="there is no folder of JAX's CUDA plugin",
    ),
    pytest.mark.skipif(fake_cuda.compiler() is None, reason="there is no C++ compiler"),
]

PLACED, PARTITIONED = "xla_python_gpu_callback", "xla_ffi_partitioned_python_cpu_callback"
# What calls the host in a program of each form.
TARGETS = {
    "pure": "callbax_call",
    "unordered effect": "callbax_call",
    "ordered effect": "callbax_call",
    "ordered effect with a result": "callbax_call",
    "print": "callbax_call",
    "scan": "callbax_call",
    "ordered effect in scan": "callbax_call",
    "cond": "callbax_call",
    "while_loop": "callbax_call",
    "lanes": "callbax_call",
    "int4": "callbax_call",
    "no elements": "callbax_call",
    "between kernels": "callbax_call",
    "external": "callbax_call",
    "compiled function": "callbax_loop",
    "sharded": PLACED,
    "sharded effect": PLACED,
    "sharded ordered effect": PLACED,
    "shard_map": PLACED,
    "partitioned": PARTITIONED,
    "per_shard": "callbax_call_per_shard",
    "sharded compiled function": "callbax_loop",
}


@pytest.fixture(scope="module")
def compiled():
    script = Path(__file__).with_name("compile_programs.py")
    fake_cuda.library()  # a driver that can be loaded, or callbacks go JAX's way
    environment = {
        **os.environ,
        "PYTHONPATH": os.environ["CALLBAX_CUDA_PLUGIN_DIR"],
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_gpu_autotune_level=0",  # there is nothing to measure on
    }
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {each.pop("form"): each for each in found}


@pytest.mark.parametrize("form", TARGETS)
def test_the_compiler_takes_programs_of_each_form(compiled, form):
    assert compiled[form] == {"targets": [TARGETS[form]]}


def test_all_forms_are_compared(compiled):
    assert set(compiled) == set(TARGETS)
