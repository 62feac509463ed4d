"""Large arrays where page-locked memory is scarce, in processes of their own."""

import fake_cuda
import pytest
from helpers import output

pytestmark = [
    pytest.mark.skipif(fake_cuda.compiler() is None, reason="there is no C++ compiler"),
    pytest.mark.process,
]


LARGE = """
SIZE = 6 << 20  # 24 MiB
struct = jax.ShapeDtypeStruct((SIZE,), np.float32)
ramp = jnp.arange(SIZE, dtype=jnp.float32)
kept = []

def call(function):
    program = jax.jit(lambda x: callbax.pure_callback(function, struct, x))
    return bool((np.asarray(program(ramp)) == np.arange(SIZE, dtype=np.float32)).all())

def give_copy(x):
    return x.copy()
"""


@pytest.mark.parametrize(
    ("limit", "pageable"), [(16 << 20, False), (40 << 20, False), (8 << 20, True), (0, True)]
)
def test_arrays_larger_than_the_limit_pass_it_in_parts(run, limit, pageable):
    """Through two blocks of 8 MiB in turn, or where there are none, by the driver's own."""
    done = run(
        f"""
{LARGE}
driver.fake_delay(200, 0)
for _ in range(2):
    print(call(add) is False, call(give_copy), call(lambda x: x))
print(driver.fake_pageable_copies() > 0, driver.fake_most_locked_bytes() <= {limit}, accounted())
""",
        CALLBAX_PINNED_LIMIT=str(limit),
    )
    *right, is_pageable, holds_limit, locked = output(done)
    assert right == ["True"] * 6
    assert (is_pageable, holds_limit) == (str(pageable), "True")
    assert int(locked) <= limit


def test_arrays_that_are_kept_have_half_of_the_limit(run):
    done = run(
        f"""
{LARGE}
def keep(x):
    kept.append(x)
    return x.copy()

print(*(call(keep) for _ in range(4)))
print(_native.cuda_statistics()["kept_bytes"] >> 20)
print(*(bool((x == np.arange(SIZE)).all()) and x.flags.writeable for x in kept))
kept.clear()
print(_native.cuda_statistics()["kept_bytes"], _native.cuda_statistics()["held_bytes"])
print(call(keep), _native.cuda_statistics()["kept_bytes"] >> 20)
""",
        CALLBAX_PINNED_LIMIT=str(100 << 20),
    )
    assert output(done) == ["True"] * 4 + ["48"] + ["True"] * 4 + ["0", "0", "True", "24"]


@pytest.mark.parametrize("refused", [1, 2])
def test_where_a_block_in_between_cannot_be_locked_the_drivers_own_serve(run, refused):
    done = run(
        f"""
{LARGE}
driver.fake_fail(b"cuMemHostAlloc", {refused}, 2)
print(call(give_copy), driver.fake_pageable_copies() > 0, accounted() == driver.fake_locked_bytes())
""",
        CALLBAX_PINNED_LIMIT=str(16 << 20),
    )
    assert output(done) == ["True", "True", "True"]


def test_where_a_part_fails_there_is_an_error_and_no_block_is_left(run):
    done = run(
        f"""
{LARGE}
steps = {{
    b"cuMemcpyDtoHAsync_v2": (1, 2, 3), b"cuMemcpyHtoDAsync_v2": (1, 2, 3), b"cuEventCreate": (1, 2),
    b"cuEventRecord": (1, 2, 3, 4, 5, 6, 7, 8), b"cuEventSynchronize": (1, 2, 3, 4),
    b"cuCtxSetCurrent": (1, 2),
}}
for name, calls in steps.items():
    for n in calls:
        driver.fake_fail(name, n, fake_cuda.ILLEGAL_ADDRESS)
        driver.fake_delay(20_000, 0)
        try:
            print(name, n, call(give_copy))
        except Exception as error:
            assert f"{{name.decode()}}: CUDA_ERROR_ILLEGAL" in str(error), (name, n, error)
        driver.fake_delay(0, 0)
        driver.fake_fail(name, 0, 0)
        assert call(give_copy), (name, n)
        assert _native.cuda_statistics()["held_bytes"] == 0
        assert accounted() == driver.fake_locked_bytes() <= 64 << 20
print("done")
""",
        CALLBAX_PINNED_LIMIT=str(64 << 20),
    )
    assert output(done)[-1] == "done"


def test_threads_with_large_arrays_hold_the_limit(run, full):
    seconds = 30 if full else 3
    done = run(
        f"""
end = time.monotonic() + {seconds}
def give(x):
    x += 1
    return x

def program(size, function):
    struct = jax.ShapeDtypeStruct((size,), np.float32)
    return jax.jit(lambda x: callbax.pure_callback(function, struct, x))

sizes = (100, 300_000, 2_000_000, 5_000_000)
programs = [(size, program(size, function)) for size in sizes for function in (add, give)]
wrong = []

def work(k):
    device = jax.devices()[k % 2]
    count = k
    while time.monotonic() < end and not wrong:
        size, call = programs[count % len(programs)]
        y = np.asarray(call(jax.device_put(np.full(size, float(count), np.float32), device)))
        if not (y == count + 1).all():
            wrong.append((k, size, y))
        count += 1

threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
found = _native.cuda_statistics()
print(len(wrong), driver.fake_most_locked_bytes() <= 48 << 20, found["held_bytes"], found["lost_bytes"])
print(accounted() == driver.fake_locked_bytes())
""",
        timeout=seconds + 120,
        CALLBAX_PINNED_LIMIT=str(48 << 20),
    )
    assert output(done) == ["0", "True", "0", "0", "True"]


def test_arrays_that_are_kept_outlive_programs_forks_and_the_end(run):
    done = run(
        f"""
import os
{LARGE}
def keep(x):
    kept.append(x)
    return x.copy()

print(call(keep), call(keep))
child = os.fork()
if child == 0:
    os._exit(0)
print(os.waitpid(child, 0)[1])
jax.clear_caches()
print(all(bool((x == np.arange(SIZE)).all()) for x in kept))
"""
    )
    assert output(done) == ["True", "True", "0", "True"]


def test_a_forked_child_lets_go_of_arrays_that_it_cannot_read(run):
    """Page-locked memory is the driver's, which a child may not call, and which may not be there.

    The child ends as those of multiprocessing do: JAX itself crashes in one that ends as a program does.
    """
    done = run(
        f"""
import gc, os, warnings
warnings.simplefilter("ignore")  # JAX's own about fork
{LARGE}
def keep(x):
    kept.append(x)
    kept.append(x[1:])
    return x.copy()

def calls():
    return [driver.fake_calls(name.encode()) for name in fake_cuda.FUNCTIONS]

print(call(keep), call(keep), _native.cuda_statistics()["kept_bytes"] > 0, flush=True)
before = calls()
child = os.fork()
if child == 0:
    kept.clear()
    gc.collect()
    os._exit(_native.cuda_statistics()["kept_bytes"] > 0 or calls() != before)
print(os.waitpid(child, 0)[1], bool((kept[0] == np.arange(SIZE)).all()))
"""
    )
    assert output(done) == ["True", "True", "True", "0", "True"]
