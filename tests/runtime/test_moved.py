"""Host functions whose arrays are moved for one call behave as the originals do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from callbax._moved import with_arrays_on

HERE = jnp.arange(3.0)
COUNT = 0
NAMES = {"list": []}


def moved(function):
    return with_arrays_on(function, jax.devices()[1])


def devices(value):
    return {device.id for device in value.devices()}


def test_closures_globals_defaults_and_partials():
    local = jnp.ones(2)

    def function(scale, default=HERE, *, keyword=HERE):
        return local, HERE, scale, default, keyword

    results = moved(functools.partial(function, jnp.float32(2)))()
    assert all(devices(result) == {1} for result in results)
    for result, original in zip(results, (local, HERE, 2.0, HERE, HERE), strict=True):
        np.testing.assert_array_equal(result, original)
    assert devices(HERE) == {0}


def test_helpers_and_recursion():
    def helper():
        return HERE

    def function(n):
        return helper() if n == 0 else function(n - 1)

    assert devices(moved(function)(0)) == {1}
    np.testing.assert_array_equal(moved(function)(3), HERE)


def test_assignments_to_outer_names_are_not_lost():
    count = 0

    def function():
        nonlocal count
        global COUNT
        count += 1
        COUNT += 1
        return HERE

    for _ in range(2):
        moved(function)()
    assert (count, COUNT) == (2, 2)


def test_other_globals_are_seen_as_they_are_at_each_use():
    def bump():
        global COUNT
        COUNT += 1

    def function():
        before = COUNT
        bump()
        return HERE, COUNT - before, len([1])

    assert moved(function)()[1:] == (1, 1)


def test_changes_of_containers_are_seen():
    def function():
        NAMES["list"].append(HERE.sum())

    moved(function)()
    assert len(NAMES["list"]) == 1


def test_callables_of_other_kinds_stay_as_they_are():
    for function in (np.sin, len, [].append, dict, jax.jit(jnp.sin)):
        assert moved(function) is function
    assert moved(functools.partial(max, 1))(2) == 2
