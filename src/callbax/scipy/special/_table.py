"""What is known of every derivative, as a page of the documentation.

python -m callbax.scipy.special._table > docs/scipy_special_table.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from callbax.scipy.special._catalogue import ClosedForm, describe, entry
from callbax.scipy.special._functions import public_names, scipys_ufunc

_PAGE = """\
# Derivatives of `callbax.scipy.special`

Every ufunc of `scipy.special`, and what its derivatives are. Of {functions} functions with
{arguments} arguments, {known_functions} have a derivative in closed form with respect to at least
one argument: {known_arguments} arguments in all.

- **closed form**: by a rule, whose source is given. DLMF is the NIST Digital Library of
  Mathematical Functions, <https://dlmf.nist.gov>. Higher orders follow from the rules of the
  functions that a rule is made of.
- **numerical only**: differentiating raises an error that gives the reason, unless you ask for a
  central difference: `cb.ufunc(cb.scipy.special.jv, derivative="central")`. The rules in closed
  form stay as they are.
- **not differentiable**: an argument that takes only integers, or a function that is constant
  except for its jumps.

| function | argument | derivative | source or reason |
|---|---|---|---|
{rows}

This page is generated, for SciPy {version}: `python -m callbax.scipy.special._table`.
"""


class Row(NamedTuple):
    """What is known of one function and one of its arguments."""

    function: str
    argument: str
    kind: str
    detail: str
    known: bool


def rows() -> Iterator[Row]:
    """Each ufunc of the installed SciPy with each of its arguments."""
    for function in public_names():
        for argument, derivative in entry(function, scipys_ufunc(function)).items():
            kind, detail = describe(derivative)
            yield Row(function, argument, kind, detail, isinstance(derivative, ClosedForm))


def page() -> str:
    """The table, for the installed SciPy."""
    import scipy

    table = list(rows())
    known = [row for row in table if row.known]
    return _PAGE.format(
        version=scipy.__version__,
        functions=len({row.function for row in table}),
        arguments=len(table),
        known_functions=len({row.function for row in known}),
        known_arguments=len(known),
        rows="\n".join(f"| `{f}` | `{a}` | {kind} | {detail} |" for f, a, kind, detail, _ in table),
    )


if __name__ == "__main__":
    print(page(), end="")
