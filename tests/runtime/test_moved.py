"""Host functions whose arrays are moved for one call behave as the originals do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from callbax._moved import with_arrays_on

HERE = jnp.arange(3.0)
COUNT = 0
NAMES = {"list": []}


def moved(function):
    """A function that calls a moved copy each time."""

    def call(*args):
        with with_arrays_on(function, jax.devices()[1]) as copy:
            return copy(*args)

    return call


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


def test_arrays_in_lists_tuples_and_dicts():
    parameters = {"layers": [(HERE, jnp.ones(2)), {"bias": HERE}], "name": "model"}

    def function():
        (weights, ones), inner = parameters["layers"]
        return weights, ones, inner["bias"]

    assert all(devices(array) == {1} for array in moved(function)())
    assert parameters["layers"][0][0] is HERE


def test_changes_of_copied_containers_are_carried_back():
    history, state = [HERE], {"w": HERE, "log": [], "list": [HERE, 1]}
    inner = state["list"]

    def function():
        history.append(2.0)
        state["log"].append(3.0)
        state["step"] = 4
        state["list"][1] = 5
        return history[0], state["w"]

    results = moved(function)()
    assert all(devices(array) == {1} for array in results)
    assert history[0] is HERE and history[1:] == [2.0]
    assert state["w"] is HERE and state["log"] == [3.0] and state["step"] == 4
    assert state["list"] is inner and inner[0] is HERE and inner[1] == 5


def test_changes_are_carried_back_from_a_call_that_fails():
    history = [HERE]

    def function():
        history.append(1.0)
        raise KeyError

    with pytest.raises(KeyError):
        moved(function)()
    assert history[1:] == [1.0]


def test_callables_of_other_kinds_stay_as_they_are():
    for function in (np.sin, len, [].append, dict, jax.jit(jnp.sin)):
        with with_arrays_on(function, jax.devices()[1]) as copy:
            assert copy is function
    assert moved(functools.partial(max, 1))(2) == 2
