"""raise_if and checked: which exception comes from where, under each transformation."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import callbax
from callbax import tools

FOUR = jnp.arange(4.0)


class Negative(Exception):
    """The program's own."""


def make_error(x):
    return Negative(float(np.ravel(x)[0]))  # a shard has a dimension


def root(x):
    return jnp.sqrt(tools.raise_if(x, x < 0, make_error, x))


def if_small(function, limit=2):
    return lambda x: lax.cond(x < limit, function, lambda x: x * 2, x)


def jit_vmap(function):
    return jax.jit(jax.vmap(function))


# By name: a function of x; an x with which it fails; the exception's argument; what the note says of
# lanes; an x with which it does not.
CASES = {
    "eager": (root, -1.0, -1, "", 4.0),
    "jit": (jax.jit(root), -1.0, -1, "", 4.0),
    "eager vmap": (jax.vmap(root), 2 - FOUR, -1, "lane 3 of 4", FOUR),
    "vmap": (jit_vmap(root), 1 - FOUR, -1, "lanes 2, 3 of 4", FOUR),
    "vmap of vmap": (
        jit_vmap(jax.vmap(root)),
        2 - FOUR.reshape(2, 2),
        -1,
        "lane (1, 1) of 2 x 2",
        FOUR.reshape(2, 2),
    ),
    "scan": (
        jax.jit(lambda x: lax.scan(lambda c, _: (c - 1, root(c)), x, None, length=3)),
        1.0,
        -1,
        "",
        2.0,
    ),
    "vmap of scan": (
        jit_vmap(lambda x: lax.scan(lambda c, _: (c - 1, root(c)), x, None, length=3)),
        FOUR,
        -1,
        "lane 0 of 4",
        FOUR + 2,
    ),
    "fori_loop": (
        jax.jit(
            lambda x: lax.fori_loop(
                0, 3, lambda i, c: tools.raise_if(c, c < 0, make_error, c) - 1, x
            )
        ),
        1.0,
        -1,
        "",
        2.0,
    ),
    "while_loop": (
        jax.jit(lambda x: lax.while_loop(lambda c: c < 5, lambda c: c + 1 + 0 * root(c), x)),
        -2.0,
        -2,
        "",
        1.0,
    ),
    "cond": (jax.jit(if_small(root)), -1.0, -1, "", 3.0),
    "vmap of cond": (jit_vmap(if_small(root)), FOUR - 2, -2, "lanes 0, 1 of 4", FOUR),
    "vmap of cond, in dead lanes": (
        jit_vmap(lambda x: lax.cond(x > 0, root, lambda x: x, x)),
        None,
        None,
        None,
        FOUR - 2,
    ),
    "vmap of while_loop, in lanes that have ended": (
        jit_vmap(lambda x: lax.while_loop(lambda c: c >= 0, lambda c: root(c) * 0 + c - 1, x)),
        None,
        None,
        None,
        FOUR - 1,
    ),
    "grad": (jax.jit(jax.grad(root)), -1.0, -1, "", 4.0),
    "vmap of grad": (jit_vmap(jax.grad(root)), 2 - FOUR, -1, "lane 3 of 4", FOUR + 1),
    "jvp": (jax.jit(lambda x: jax.jvp(root, (x,), (x,))), -1.0, -1, "", 4.0),
    "checkpoint": (jax.jit(jax.grad(jax.checkpoint(root))), -1.0, -1, "", 4.0),
    "result not used": (
        jax.jit(lambda x: (tools.raise_if(x, x < 0, make_error, x), 1)[1]),
        -1.0,
        -1,
        "",
        4.0,
    ),
    "custom_vjp": (jax.jit(jax.grad(lambda x: custom(x))), -1.0, -1, "", 4.0),
}


@jax.custom_vjp
def custom(x):
    return root(x)


custom.defvjp(lambda x: (root(x), x), lambda x, t: (t / (2 * root(x)),))
FAILING = [name for name, (_, x, *_) in CASES.items() if x is not None]


@pytest.mark.parametrize("name", FAILING)
def test_the_exception_itself_comes_from_the_call(name):
    function, x, argument, lanes, _ = CASES[name]
    for _ in range(2):
        with pytest.raises(Negative) as raised:
            tools.checked(function)(x)
        assert raised.value.args == (argument,)
        [note] = [n for n in raised.value.__notes__ if n.startswith("callbax: ")]
        assert note.startswith(f"callbax: raised by raise_if at {__file__}:")
        assert lanes in note and ("lane" in note) == bool(lanes)
        callbax.effects_barrier()  # raises nothing once more


@pytest.mark.parametrize("name", CASES)
def test_nothing_changes_where_nothing_fails(name, monkeypatch):
    function, *_, x = CASES[name]
    result = tools.checked(function)(x)
    jax.clear_caches()
    monkeypatch.setattr(tools, "raise_if", lambda x, *_: x)
    jax.tree.map(np.testing.assert_array_equal, result, function(x))


def mesh_of_8():
    return jax.make_mesh((8,), ("i",), (AxisType.Auto,), devices=devices(8))


def on_each(function, *axes):
    """The function on each device, with results that are split along these axes."""
    mesh = mesh_of_8()
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=P("i"), out_specs=P(*axes)))


ON_DEVICES = {
    "shard_map": (lambda: on_each(root, "i"), "cpu:7"),
    "shard_map that adds up": (lambda: on_each(lambda x: lax.psum(root(x), "i")), "cpu:7"),
    "pmap": (lambda: jax.pmap(root, devices=devices(8)), "cpu:7"),
    "pmap that adds up": (
        lambda: jax.pmap(lambda x: lax.psum(root(x), "i"), "i", devices=devices(8)),
        "cpu:7",
    ),
    "the compiler": (lambda: jit_vmap(root), "lane 7 of 8"),
    "the compiler, and it adds up": (lambda: jax.jit(lambda x: jax.vmap(root)(x).sum()), "lane 7"),
}


@pytest.mark.parametrize("name", ON_DEVICES)
def test_several_devices(name):
    make, place = ON_DEVICES[name]
    function = tools.checked(make())
    x = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh_of_8(), P("i")))
    for _ in range(2):
        function(x)
        with pytest.raises(Negative) as raised:
            function(6 - x)
        assert raised.value.args == (-1,)
        assert place in raised.value.__notes__[0]


def test_programs_of_several_devices_on_which_all_fail_raise_once():
    function = tools.checked(on_each(lambda x: lax.psum(root(x), "i")))
    with pytest.raises(Negative):
        function(-jnp.arange(8.0) - 1)
    callbax.effects_barrier()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((ValueError,), "the predicate of raise_if at "),
        ((ValueError, "too", "small"), "('too', 'small')"),
        ((lambda: ValueError("made"),), "made"),
        ((functools.partial(ValueError, "partial"),), "partial"),
        ((lambda t: ValueError(f"{t['x']} {t['y'][0]}"), {"x": 2.0, "y": ["text"]}), "2.0 text"),
        ((lambda v: ValueError(str(v.shape)), FOUR), "(4,)"),
    ],
)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap], ids=["", "jit", "vmap"])
def test_how_the_exception_is_made(arguments, expected, transform):
    def function(x):
        return tools.raise_if(x, x < 0, *arguments)

    x = jnp.full(2, -1.0) if transform is jax.vmap else -1.0
    with pytest.raises(ValueError) as raised:
        tools.checked(transform(function))(x)
    assert expected in str(raised.value)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    value: object = None


@pytest.mark.parametrize("arguments", [(), (3.0,)])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap], ids=["", "jit", "vmap"])
def test_an_exception_that_refuses_to_be_changed(arguments, transform):
    function = transform(lambda x: tools.raise_if(x, x > 0, Frozen, *arguments))
    with pytest.raises(Frozen) as raised:
        tools.checked(function)(jnp.ones(2) if transform is jax.vmap else 1.0)
    assert raised.value == Frozen(*arguments)
    assert raised.value.args[0] == (arguments or raised.value.args)[0]
    assert raised.value.__notes__[0].startswith("callbax: raised by raise_if at ")


def test_a_wrong_number_of_values_is_said_of_the_error_alone():
    with pytest.raises(TypeError, match="1 was given") as raised:
        tools.checked(jax.jit(lambda x: tools.raise_if(x, x > 0, lambda: ValueError(), x)))(1.0)
    (note,) = raised.value.__notes__
    assert note.startswith("callbax: raised by what should make the error of raise_if at ")


def test_a_predicate_may_be_an_array_and_x_anything():
    x = ["text", FOUR, None]
    assert tools.raise_if(x, FOUR < 0, ValueError) is x
    with pytest.raises(ValueError):
        tools.raise_if(x, FOUR == 3, ValueError)
    with pytest.raises(ValueError):
        tools.raise_if(x, True, ValueError)


def test_what_it_does_not_take():
    with pytest.raises(
        TypeError, match=r"takes a class and the values for it.*: ValueError, 'x'; but"
    ):
        tools.raise_if(1, True, ValueError("x"))
    with pytest.raises(TypeError, match="is of dtype int32, but must be boolean; compare"):
        tools.raise_if(1, 1, ValueError)
    with pytest.raises(TypeError, match="is an exception class, or a function that makes"):
        tools.raise_if(1, True, int)
    with pytest.raises(TypeError, match="must make an exception, but it returned int"):
        tools.raise_if(1, True, lambda: 3)


def test_what_the_function_raises_itself_surfaces():
    def fails(x):
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost") as caught:
        tools.checked(jax.jit(lambda x: tools.raise_if(x, x < 0, fails, x)))(-1.0)
    assert "by what should make the error of raise_if at" in caught.value.__notes__[0]


def test_nothing_is_logged(caplog):
    with caplog.at_level(logging.DEBUG, "callbax"), pytest.raises(Negative):
        tools.checked(jax.jit(root))(-1.0)
    with caplog.at_level(logging.DEBUG, "callbax"), pytest.raises(Negative):
        root(-1.0)
    assert not [record for record in caplog.records if record.name.startswith("callbax")]


def test_without_checked_jax_raises_its_own_error():
    with pytest.raises(Exception, match=r"Negative: -1\.0") as raised:
        jax.block_until_ready(jax.jit(root)(-1.0))
    assert isinstance(callbax.original_exception(raised.value), Negative)


def test_checked_raises_the_exceptions_of_all_callbacks():
    def fails(x):
        raise KeyError("lost")

    function = tools.checked(jax.jit(lambda x: callbax.pure_callback(fails, x, x)))
    with pytest.raises(KeyError, match="lost") as raised:
        function(jnp.float32(1))
    assert raised.value.__cause__ is not None


def test_checked_functions_are_functions_of_jax():
    function = tools.checked(jax.jit(root))
    assert function.__name__ == "root"
    np.testing.assert_array_equal(jax.jit(jax.vmap(function))(FOUR), jnp.sqrt(FOUR))
    assert jax.grad(function)(4.0) == 0.25
    with pytest.raises(Negative):
        tools.checked(jax.jit(function))(-1.0)


def test_a_check_is_one_branch_of_the_program():
    text = jax.jit(root).lower(1.0).as_text()
    assert text.count("stablehlo.case") + text.count("stablehlo.if") == 1
    assert text.count("stablehlo.custom_call") == 1
