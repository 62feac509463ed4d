"""The catalogue is complete, names the arguments as SciPy does, and says what it lacks."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import callbax as cb
from callbax.scipy.special import _catalogue, _table
from callbax.scipy.special._catalogue import (
    ClosedForm,
    NoClosedForm,
    NotDifferentiable,
    derivatives,
    entries,
)
from callbax.scipy.special._functions import public_names

PAGE = Path(__file__).parents[2] / "docs" / "scipy_special_table.md"
EACH_FUNCTION = pytest.mark.parametrize("name", public_names())


def documented_arguments(name):
    """The arguments that SciPy's documentation gives in its first line, or None."""
    documentation = getattr(scipy.special, name).__doc__
    found = re.search(rf"^\s*{name}\(([\w, ]+), out=None\)", documentation, re.MULTILINE)
    return [argument.strip() for argument in found[1].split(",")] if found else None


def test_every_ufunc_of_scipy_is_there():
    ufuncs = {n for n, value in vars(scipy.special).items() if isinstance(value, np.ufunc)}
    assert ufuncs == set(public_names())
    assert ufuncs <= set(dir(cb.scipy.special))


@EACH_FUNCTION
def test_the_catalogue_has_the_function_with_scipys_arguments(name):
    assert name in entries()
    documented = documented_arguments(name)
    if documented is not None:
        assert len(entries()[name]) == len(documented)
        if f"for SciPy {scipy.__version__}:" in PAGE.read_text():  # others may rename arguments
            assert list(entries()[name]) == documented


@EACH_FUNCTION
def test_each_function_is_built_from_scipys(name):
    function = getattr(cb.scipy.special, name)
    assert function.ufunc is getattr(scipy.special, name)
    assert getattr(cb.scipy.special, name) is function
    assert f"scipy.special.{name}" in function.__doc__
    for argument in entries()[name]:
        assert f"  {argument}: " in function.__doc__


def test_at_least_160_functions_have_a_closed_form():
    assert len({row.function for row in _table.rows() if row.known}) >= 160


def test_names_are_imported_as_from_any_module():
    from callbax.scipy import special
    from callbax.scipy.special import gammaln

    assert special.gammaln is gammaln
    assert "special" in dir(cb.scipy)


@pytest.mark.parametrize("name", ["no_such_function", "_zeta_of_no_scipy", "test"])
def test_an_unknown_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"no attribute '{name}'.*no ufunc of that name"):
        getattr(cb.scipy.special, name)
    with pytest.raises(AttributeError, match="has no attribute 'signal'"):
        _ = cb.scipy.signal


def test_what_cannot_be_differentiated_says_why():
    with pytest.raises(NotImplementedError, match="betainc .* argument 0: a parameter of the inc"):
        jax.grad(cb.scipy.special.betainc)(2.0, 3.0, 0.5)


def test_a_central_difference_can_be_asked_for():
    betainc = cb.ufunc(cb.scipy.special.betainc, derivative="central")
    by_a, by_x = jax.grad(betainc, argnums=(0, 2))(1.0, 1.0, 0.5)
    # ∂/∂a x^a = x^a log x
    assert jnp.isclose(by_a, 0.5 * np.log(0.5), rtol=1e-2)
    assert by_x == jax.grad(cb.scipy.special.betainc, argnums=2)(1.0, 1.0, 0.5)


def test_a_function_that_scipy_adds_later_has_no_derivatives(monkeypatch):
    monkeypatch.setattr(scipy.special, "hypot", np.hypot, raising=False)
    monkeypatch.delitem(vars(cb.scipy.special), "hypot", raising=False)
    hypot = cb.scipy.special.hypot
    monkeypatch.delitem(vars(cb.scipy.special), "hypot")
    assert hypot(3.0, 4.0) == 5.0
    with pytest.raises(NotImplementedError, match="callbax knows no derivative of this function"):
        jax.grad(hypot)(3.0, 4.0)


def test_a_function_with_other_arguments_than_the_catalogues_is_an_error():
    with pytest.raises(TypeError, match="scipy.special.erf takes 2 arguments, but .* knows 1: z"):
        _catalogue.entry("erf", np.hypot)


def test_registering_twice_or_without_a_source_is_an_error():
    with pytest.raises(ValueError, match="erf is in the catalogue already"):
        derivatives("erf", z=NoClosedForm("none"))
    with pytest.raises(ValueError, match="a rule needs a source"):
        derivatives("no_such_function", z=lambda z: z)


def test_kinds_are_told_in_words():
    kinds = [ClosedForm(abs, "a book"), NoClosedForm("hard"), NotDifferentiable("steps")]
    assert [_catalogue.describe(kind) for kind in kinds] == [
        ("closed form", "a book"),
        ("numerical only", "hard"),
        ("not differentiable", "steps"),
    ]


def test_importing_callbax_builds_no_function():
    program = (
        "import sys, callbax\n"
        "print('callbax.scipy.special' in sys.modules)\n"
        "import callbax.scipy.special as special\n"
        "print([n for n in vars(special) if n in ('jv', '_catalogue', '_functions')])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert output.stdout.split("\n")[:2] == ["False", "[]"], output.stderr


def test_the_table_in_the_documentation_is_what_the_code_says():
    generated = _table.page()
    assert f"| `erf` | `z` | closed form | {entries()['erf']['z'].source} |" in generated
    kept = PAGE.read_text(encoding="utf-8")
    assert "for SciPy " in kept
    if f"for SciPy {scipy.__version__}:" not in kept:
        pytest.skip("the page is for another version of SciPy")
    assert generated == kept, "run python -m callbax.scipy.special._table"
