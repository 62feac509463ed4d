"""The derivatives of the catalogue are the true ones."""

import importlib
import pkgutil
from pathlib import Path

import jax
import numpy as np
import pytest
from special import truth

from callbax.scipy.special._catalogue import ClosedForm, entries
from callbax.scipy.special._functions import public_names

FAMILIES = [
    importlib.import_module(f"special.cases.{module.name}")
    for module in pkgutil.iter_modules([str(Path(__file__).parent / "cases")])
]
CASES = [case for family in FAMILIES for case in family.CASES]
EACH_CASE = pytest.mark.parametrize("case", CASES, ids=str)
SECOND = [case for case in CASES if case.second]
EXACT = [case for case in CASES if case.exact]

# The gradients' own rounding in float32, times what a rule loses by cancellation.
SINGLE_RTOL = 2e-3


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def references(case):
    """The functions of mpmath, one for each result."""
    return [case.reference] if callable(case.reference) else list(case.reference)


def results(value):
    return list(value) if isinstance(value, tuple) else [value]


def assert_true(case, computed, order, argument, values):
    """The derivatives that were computed are mpmath's."""
    assert len(results(computed)) == len(references(case))
    for reference, ours in zip(references(case), results(computed), strict=True):
        if reference is None:
            continue
        expected = truth.true_derivatives(reference, argument, values, order, case.step)
        ours = np.asarray(ours)
        np.testing.assert_allclose(ours, expected.astype(ours.dtype), rtol=case.rtol)


@EACH_CASE
def test_first_derivatives(case):
    values = case.sample()
    for name in case.arguments.split():
        argument = truth.position(case.function, name)
        f, x = truth.along(case.function, argument, values)
        assert_true(case, truth.derivative(f)(x), 1, argument, values)


@pytest.mark.parametrize("case", SECOND, ids=str)
def test_second_derivatives(case):
    values = case.sample()
    for name in case.arguments.split():
        argument = truth.position(case.function, name)
        f, x = truth.along(case.function, argument, values)
        second = truth.derivative(truth.derivative(f))(x)
        assert_true(case, second, 2, argument, values)


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_derivatives_at_special_points(case):
    values, known = case.special()
    argument = truth.position(case.function, case.arguments.split()[0])
    f, x = truth.along(case.function, argument, values)
    for ours, expected in zip(results(truth.derivative(f)(x)), known, strict=True):
        np.testing.assert_allclose(ours, np.array(expected), rtol=case.rtol)


@EACH_CASE
def test_reverse_mode_agrees_with_forward_mode(case):
    values = case.sample()
    for name in case.arguments.split():
        argument = truth.position(case.function, name)
        f, x = truth.along(case.function, argument, values)
        forward = results(truth.derivative(f)(x))
        result, pull_back = jax.vjp(f, x)
        for i, expected in enumerate(forward):
            # Only this result counts. A real function of several complex results: its real part.
            cotangents = [jax.numpy.zeros_like(r) for r in results(result)]
            cotangents[i] = jax.numpy.ones_like(cotangents[i])
            (pulled,) = pull_back(tuple(cotangents) if isinstance(result, tuple) else cotangents[0])
            if not np.iscomplexobj(pulled):
                expected = np.real(expected)
            np.testing.assert_allclose(pulled, expected, rtol=1e-12)


@EACH_CASE
def test_single_precision(case):
    """Rules leave float32 what it is, and lose no more than they must."""
    single = np.complex64 if case.is_complex else np.float32
    values = [
        column.astype(single if np.iscomplexobj(column) else np.float32) for column in case.draw()
    ]
    for name in case.arguments.split():
        argument = truth.position(case.function, name)
        f, x = truth.along(case.function, argument, values)
        result, ours = f(x), truth.derivative(f)(x)
        doubles = [column.astype(np.result_type(column, np.float64)) for column in values]
        g, y = truth.along(case.function, argument, doubles)
        for value, low, high in zip(
            results(result), results(ours), results(truth.derivative(g)(y)), strict=True
        ):
            assert low.dtype == value.dtype
            assert value.dtype in (np.float32, np.complex64)
            np.testing.assert_allclose(low, high, rtol=SINGLE_RTOL, atol=1e-6)


def test_every_closed_form_has_a_case():
    tested = {(id(entries()[case.function]), n) for case in CASES for n in case.arguments.split()}
    # Of two names of one function one is enough.
    untested = [
        (function, name)
        for function in public_names()
        for name, derivative in entries().get(function, {}).items()
        if isinstance(derivative, ClosedForm) and (id(entries()[function]), name) not in tested
    ]
    assert not untested
