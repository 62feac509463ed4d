"""debug.log: debug.print that writes to a log."""

import inspect
import logging

import jax
import jax.numpy as jnp
import pytest
from helpers import CALLBAX, EAGER_AND_JIT, LIBRARIES, both_raise, finish

LOGGERS = {"jax": "jax._src.debugging", "callbax": "callbax.debug"}


@pytest.fixture
def logged(caplog):
    """What both libraries log for a program: level, text, and the line within the program."""

    def of(program):
        outcomes = []
        for library in LIBRARIES:
            caplog.clear()
            with caplog.at_level(logging.INFO, LOGGERS[library.name]):
                finish(lambda library=library: program(library))
                library.effects_barrier()
            records = [r for r in caplog.records if r.name == LOGGERS[library.name]]
            outcomes.append([(r.levelname, r.getMessage(), r.pathname, r.lineno) for r in records])
        theirs, ours = outcomes
        assert theirs == ours
        return ours

    return of


@EAGER_AND_JIT
@pytest.mark.parametrize("ordered", [False, True])
def test_text_level_and_place(transform, ordered, logged):
    line = inspect.currentframe().f_lineno + 3

    def program(library):
        transform(lambda x: library.debug.log("x = {x:.2f}, 100%", x=x, ordered=ordered))(2.0)

    assert logged(program) == [("INFO", "x = 2.00, 100%", __file__, line)]


def test_under_transformations(logged):
    def program(library):
        def f(x):
            library.debug.log(ordered=True)("{} {}", x, 2)
            return x * x

        jax.vmap(jax.grad(f))(jnp.arange(2.0))

    assert [text for _, text, *_ in logged(program)] == ["0.0 2", "1.0 2"]


def test_a_print_with_the_same_text_is_another(logged, capsys):
    def program(library):
        jax.jit(lambda x: (library.debug.print("{}", x), library.debug.log("{}", x)) and None)(1)

    assert len(logged(program)) == 1
    assert capsys.readouterr().out == "1\n1\n"


def test_equal_logs_are_one_callee():
    @jax.jit
    def f(x):
        for _ in range(2):
            CALLBAX.debug.log("{}", x)

    first, second = f.trace(1).jaxpr.eqns
    assert first.params == second.params


def test_errors():
    both_raise(lambda library, record: library.debug.log("{x}"), KeyError, "x")
    both_raise(
        lambda library, record: library.debug.log("", 1), ValueError, "Unused positional arguments"
    )
    both_raise(lambda library, record: library.debug.log(x=1), TypeError, "in the two-call form")
