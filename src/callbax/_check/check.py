"""callbax.check: a self-test of an external function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from callbax._check import derivatives, values
from callbax._check.report import CheckError, Finding, NotTested, Report
from callbax._check.samples import Sample
from callbax._external.external import External
from callbax._external.linear import CostlyDerivativeWarning
from callbax._runtime.failures import original_exception

Test = Callable[[Sample], str]

# Rows of the table, in the order in which faults explain one another.
VALUES: tuple[tuple[str, Test], ...] = (
    ("result fits its declaration", values.result_fits),
    ("inputs are not modified", values.inputs_unmodified),
    ("same inputs, same outputs", values.same_outputs),
)
TRANSFORMED: tuple[tuple[str, Test], ...] = (
    ("eager and jit agree", values.jit_agrees),
    ("vmap agrees with a loop", values.vmap_agrees),
    ("nested vmap agrees with loops", values.nested_vmap_agrees),
    ("scan agrees with a loop", values.scan_agrees),
)
DERIVATIVES: tuple[tuple[str, Test], ...] = (
    ("forward mode against differences", derivatives.forward_agrees),
    ("reverse mode against differences", derivatives.reverse_agrees),
    ("gradient under jit, vmap, scan", derivatives.transformed_agrees),
)


def check(
    function: External,
    *example_args: Any,
    raise_on_failure: bool = False,
    print_table: bool = True,
    **example_kwargs: Any,
) -> Report:
    """Tests an external function on an example: what it promises, and what JAX will assume.

    It tests that the result has the declared shapes and dtypes; that the function is pure, and leaves
    its inputs alone; that batches give what a loop gives; that derivatives agree with finite differences
    in both modes; all of it also under `jit`, `vmap` and `scan`. A fault is a row of the table with its
    place. Finite differences decide to about 1e-5 in float64 and 2e-2 in float32, relative to the
    largest element, so enable x64 for a sharp test; batches are made of values up to 6 % smaller than
    the example, which must be valid arguments too.

    Args:
      function: what `callbax.external` returned. With effects, only its result is tested, by one call.
      *example_args: an example of its arguments, arrays and static values. Of a batch that the
        signature allows, the first lane is taken.
      raise_on_failure: raise `callbax.CheckError`, with the table, if anything fails.
      print_table: print the table.
      **example_kwargs: an example of its keyword arguments.

    Returns:
      A `Report`: `report.ok`, `report.failures`, and `report.findings`, the rows.

    Raises:
      CheckError: a test failed, and `raise_on_failure` is set.
      TypeError: `function` is not an external function.

    >>> import numpy as np, callbax as cb
    >>> @cb.external(result=cb.like(0))
    ... def doubled(x):
    ...     x *= 2
    ...     return x
    >>> report = cb.check(doubled, np.ones(2, np.float32), print_table=False)
    >>> print(report.failures[0].name, "|", report.failures[0].detail)
    inputs are not modified | it wrote to x: 2.0 instead of 1.0 at (0,); work on a copy
    """
    if not isinstance(function, External):
        raise TypeError(
            "callbax.check tests what callbax.external returns, but got an object of type "
            f"{type(function).__name__}; for that, wrap the host function with callbax.external"
        )
    sample = Sample.of(function, example_args, example_kwargs)
    report = Report(function.definition.description, tuple(_findings(sample)))
    if print_table:
        print(report)
    if raise_on_failure and not report.ok:
        raise CheckError(f"{len(report.failures)} of {len(report.findings)} tests failed\n{report}")
    return report


def _findings(sample: Sample) -> list[Finding]:
    derived = (*TRANSFORMED, *DERIVATIVES)
    if sample.function.options.effects != "none":
        reason = "it has effects: each call would have them"
        return _run_all(VALUES[:1], sample) + _run_all((*VALUES[1:], *derived), sample, reason)
    findings = _run_all(VALUES, sample)
    if findings[0].ok is False:
        return findings + _run_all(derived, sample, "the result does not fit")
    findings += _run_all(TRANSFORMED, sample, "" if sample.leaves else "it has no array arguments")
    return findings + _run_all(DERIVATIVES, sample, _without_derivative(sample))


def _run_all(tests: Sequence[tuple[str, Test]], sample: Sample, reason: str = "") -> list[Finding]:
    """One finding for each test; with a reason, none of them is run."""
    if reason:
        return [Finding(name, None, reason) for name, _ in tests]
    return [_run(name, test, sample) for name, test in tests]


def _without_derivative(sample: Sample) -> str:
    """Why there is no derivative to test, or ""."""
    if not sample.differentiable:
        return "no argument is differentiable"
    results = jax.tree.leaves(jax.eval_shape(sample.call, *sample.leaves))
    if not any(jnp.issubdtype(result.dtype, jnp.inexact) for result in results):
        return "no result is differentiable"
    if not sample.function.definition.rules:
        return "no derivative is defined"
    return ""


def _run(name: str, test: Test, sample: Sample) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", CostlyDerivativeWarning)
            fault = test(sample)
    except NotTested as reason:
        return Finding(name, None, str(reason))
    except CostlyDerivativeWarning as costly:
        return Finding(name, None, f"not tested, as {costly}")
    except Exception as error:  # noqa: BLE001 - whatever the tested function raises is a finding
        original = original_exception(error) or error
        text = str(original).strip().splitlines()
        fault = f"{type(original).__name__}: {text[0] if text else ''}"
    return Finding(name, not fault, fault)
