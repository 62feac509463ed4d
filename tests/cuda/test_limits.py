"""The limit of page-locked memory, and what the environment says, in processes of their own."""

import os
import subprocess
import sys

import fake_cuda
import pytest
from helpers import output

pytestmark = [
    pytest.mark.skipif(fake_cuda.compiler() is None, reason="there is no C++ compiler"),
    pytest.mark.process,
]


def test_threads_and_devices_hold_the_limit(run, full):
    seconds = 60 if full else 3
    done = run(
        f"""
end = time.monotonic() + {seconds}
programs = {{size: program(size) for size in (1, 500, 3000, 20_000, 100_000)}}
wrong = []

def work(k):
    device = jax.devices()[k % 2]
    count = k
    while time.monotonic() < end and not wrong:
        size = list(programs)[count % len(programs)]
        x = jax.device_put(np.full(size, float(count), np.float32), device)
        y = np.asarray(programs[size](x))
        if not (y == count + 1).all():
            wrong.append((k, size, y))
        count += 1

driver.fake_delay(0, 300)
threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
found = _native.cuda_statistics()
print(len(wrong), driver.fake_most_locked_bytes(), found["held_bytes"], found["lost_bytes"])
print(accounted() == driver.fake_locked_bytes(), found["waits"] + found["ordinary_blocks"] > 0)
""",
        timeout=seconds + 120,
        CALLBAX_PINNED_LIMIT=str(1 << 20),
    )
    wrong, most, held, lost, is_accounted, reached = output(done)
    assert (wrong, held, lost, is_accounted, reached) == ("0", "0", "0", "True", "True")
    assert int(most) <= 1 << 20


def test_at_the_limit_the_oldest_block_in_flight_is_waited_for(run):
    done = run(
        """
small = program(1000)
x = jnp.full(1000, 2, np.float32)
small(x).block_until_ready()  # compiled
driver.fake_delay(0, 100_000)
for _ in range(4):
    print(np.asarray(small(x))[-1])
found = _native.cuda_statistics()
print(found["waits"] > 0, driver.fake_most_locked_bytes())
""",
        CALLBAX_PINNED_LIMIT=str(8 << 10),
    )
    *values, waited, most = output(done)
    assert values == ["3.0"] * 4 and waited == "True" and int(most) <= 8 << 10


def test_at_the_limit_another_device_is_not_waited_for(run):
    """Its stream may be behind a collective, which waits for this one."""
    done = run(
        """
def meet(x):
    driver.fake_hold(1)
    return x + 1

def first():
    ended.append(np.asarray(collective(inputs[1])))

struct = jax.ShapeDtypeStruct((1000,), np.float32)
collective, small = jax.jit(lambda x: callbax.pure_callback(meet, struct, x)), program(1000)
inputs = [jax.device_put(np.full(1000, 2, np.float32), device) for device in jax.devices()[:2]]
ended = []
thread = threading.Thread(target=first)
thread.start()
while _native.cuda_statistics().get("in_flight_bytes", 0) == 0:
    time.sleep(0.01)
print(np.asarray(small(inputs[0]))[-1], len(ended))
driver.fake_let_go()
thread.join()
print(ended[0][-1], _native.cuda_statistics()["waits"], driver.fake_most_locked_bytes())
""",
        CALLBAX_PINNED_LIMIT=str(8 << 10),
    )
    assert output(done) == ["3.0", "0", "3.0", "0", str(8 << 10)]


def test_beyond_the_limit_ordinary_memory_serves(run):
    done = run(
        """
def call_again(x):
    return np.asarray(large(x)) if x[0] == 0 else x + 1

struct = jax.ShapeDtypeStruct((10_000,), np.float32)
large = jax.jit(lambda x: callbax.pure_callback(call_again, struct, x + 0))
print(large(jnp.ones(10_000))[-1])
for _ in range(3):
    print(program(30_000)(jnp.ones(30_000))[-1])
print(driver.fake_pageable_copies(), _native.cuda_statistics()["ordinary_blocks"])
print(driver.fake_most_locked_bytes() <= 100_000, accounted() == driver.fake_locked_bytes())
""",
        CALLBAX_PINNED_LIMIT=str(100_000),
    )
    assert output(done) == ["2.0"] * 4 + ["6", "3", "True", "True"]


def test_calls_go_on_where_the_driver_does_not_free(run):
    """Blocks of other sizes are to make room."""
    done = run(
        """
for size in (1000, 3000, 1000, 3000):
    for name in (b"cuMemFreeHost", b"cuEventDestroy_v2"):
        driver.fake_fail(name, 1, fake_cuda.ILLEGAL_ADDRESS)
    print(program(size)(jnp.ones(size))[-1])
print(_native.cuda_statistics()["held_bytes"])
""",
        CALLBAX_PINNED_LIMIT=str(32 << 10),
    )
    assert output(done) == ["2.0"] * 4 + ["0"]


@pytest.mark.parametrize("limit", ["1GB", "-1", ""])
def test_a_limit_that_is_not_a_number_is_an_error(run, limit):
    done = run("program(3)(jnp.ones(3)).block_until_ready()", CALLBAX_PINNED_LIMIT=limit)
    expected = f"CALLBAX_PINNED_LIMIT must be a number of bytes, but it is '{limit}'"
    assert done.returncode == 1 and expected in done.stderr


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        ("no-such-library.so", "no-such-library.so: cannot open shared object file"),
        ("libm.so.6", "NVIDIA's driver lacks cuGetErrorName, cuGetErrorString, cuCtxGetCurrent"),
    ],
)
def test_a_driver_that_cannot_be_used_says_why(library, expected):
    assert expected in problem(library)


def test_an_empty_path_of_the_driver_is_none():
    assert problem("").strip() in ("", problem("libcuda.so.1").strip())


def problem(library):
    done = subprocess.run(
        [sys.executable, "-c", "from callbax import _native; print(_native.cuda_problem())"],
        env={**os.environ, "CALLBAX_RUNTIME": "", "CALLBAX_LIBCUDA": library},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
