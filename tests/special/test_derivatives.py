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

pytestmark = [
    # SciPy warns of every n that is not an integer by its type.
    pytest.mark.filterwarnings("ignore:non-integer arg n is deprecated"),
    pytest.mark.sampled(40),
]

# The gradients' own rounding in float32, times what a rule loses by cancellation.
SINGLE_RTOL = 2e-3


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def references(case):
    """The functions of mpmath, one for each result."""
    return [case.reference] if callable(case.reference) else list(case.reference)


def computed(case, values, name):
    """The derivatives by the argument of this name, as `evaluation` has them."""
    argument = truth.position(case.function, name)
    if values[argument].dtype in (np.float32, np.complex64):
        return truth.evaluation(case.function, argument)(*values)
    more = ("reverse", "second") if case.second else ("reverse",)
    return truth.evaluation(case.function, argument, *more)(*values)


def assert_true(case, order, which):
    """The derivatives by each of the case's arguments are mpmath's."""
    values = case.sample()
    for name in case.arguments.split():
        for reference, ours in zip(
            references(case), computed(case, values, name)[which], strict=True
        ):
            if reference is None:
                continue
            argument = truth.position(case.function, name)
            expected = truth.true_derivatives(reference, argument, values, order, case.step)
            expected = expected if np.iscomplexobj(ours) else expected.real
            # mpmath's zeros are as small as that.
            np.testing.assert_allclose(
                ours, expected, rtol=case.rtol, atol=1e-30, err_msg=f"by {name}"
            )


@EACH_CASE
def test_first_derivatives(case):
    assert_true(case, 1, "first")


@pytest.mark.parametrize("case", SECOND, ids=str)
def test_second_derivatives(case):
    assert_true(case, 2, "second")


@pytest.mark.parametrize("case", EXACT, ids=str)
def test_derivatives_at_special_points(case):
    values, known = case.special()
    ours = computed(case, values, case.arguments.split()[0])["first"]
    for derivative, expected in zip(ours, known, strict=True):
        np.testing.assert_allclose(derivative, np.array(expected), rtol=case.rtol)


@EACH_CASE
def test_reverse_mode_agrees_with_forward_mode(case):
    values = case.sample()
    for name in case.arguments.split():
        ours = computed(case, values, name)
        for forward, reverse in zip(ours["first"], ours["reverse"], strict=True):
            # A real argument has a real cotangent, that of the real part of a complex result.
            forward = forward if np.iscomplexobj(reverse) else np.real(forward)
            np.testing.assert_allclose(reverse, forward, rtol=1e-12)


@EACH_CASE
def test_single_precision(case):
    """Rules leave float32 what it is, and lose no more than they must."""
    doubles = case.draw(case.count)
    kinds = {"c": np.complex64, "f": np.float32, "i": np.int64}
    singles = [column.astype(kinds[column.dtype.kind]) for column in doubles]
    rounded = [s.astype(d.dtype) for s, d in zip(singles, doubles, strict=True)]
    for name in case.arguments.split():
        single, double = computed(case, singles, name), computed(case, rounded, name)
        for value, low, right, high in zip(
            single["value"], single["first"], double["value"], double["first"], strict=True
        ):
            assert value.dtype in (np.float32, np.complex64)
            assert low.dtype == value.dtype
            # Some of SciPy's values are wrong in single precision.
            good = np.isclose(value, right, rtol=SINGLE_RTOL)
            np.testing.assert_allclose(low[good], high[good], rtol=SINGLE_RTOL, atol=2e-5)


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
