"""What is a decorator, a context manager or a plain function, used as one of the others."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import callbax as cb
from callbax import tools

SCALAR = jax.ShapeDtypeStruct((), np.float32)


def function(x):
    return x


@pytest.mark.parametrize(
    ("form", "advice"),
    [
        (lambda: cb.reraise(function), r"the decorator has parentheses: @callbax\.reraise\(\)"),
        (lambda: cb.installed(function), r"the decorator is @callbax\.installed\(\)"),
        (lambda: cb.install(function), r"the decorator is @callbax\.installed\(\)"),
        (lambda: tools.collect(function), r"is no decorator: `with tools\.collect\(\) as taps:`"),
        (lambda: tools.timeline(function), r"""as in `with tools\.timeline\("trace\.json"\):`"""),
        (
            lambda: cb.record_calls(function),
            r"is not an integer, as in `with record_calls\(1000\):`",
        ),
        (lambda: cb.allow(lambda: 0), r"call callbax\.allow below it \(it is no decorator\)"),
        (lambda: cb.external(SCALAR), r"options have names: external\(function, result=\.\.\.\)"),
        (lambda: cb.external(function), r"needs result="),
        (lambda: cb.external()(function), r"needs result="),
        (lambda: cb.external(function, result=cb.like), r"as in callbax\.like\(0\)"),
        (lambda: cb.check(function), r"wrap the host function with callbax\.external"),
    ],
)
def test_a_wrong_form_is_refused_at_once_and_the_right_one_is_told(form, advice):
    with pytest.raises((TypeError, ValueError), match=advice):
        form()


def test_context_managers_that_are_decorators():
    @cb.installed()
    @cb.reraise()
    def fail():
        jax.block_until_ready(jax.pure_callback(lambda: 1 // 0, jax.ShapeDtypeStruct((), np.int32)))

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()


@pytest.mark.process
@pytest.mark.parametrize(
    ("program", "meant"),
    [("callbax.tools.progress(range(3))", "Progress"), ("callbax.pure_callbak", "pure_callback")],
)
def test_a_name_that_is_not_there_is_told_what_is(program, meant):
    output = subprocess.run(
        [sys.executable, "-c", f"import callbax; {program}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert output.stderr.rstrip().endswith(f"Did you mean: {meant!r}?")
