"""What debug.print writes for arrays of one number, which are formatted as Python's numbers."""

import contextlib
import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import callbax as cb
from callbax._callbacks.printing import Printer

DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128", "bfloat16"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2"),
]
VALUES = [
    *(0, -0.0, 1, -1, 0.1, 1 / 3, -2.5, 7, 127, 1e-45, 1e-310, 6e-8, 3e38, 1e16, 123456789.0),
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        1 - 0.1j,
        complex("nan+infj"),
        complex(-0.0, -0.0),
    ),
]
SPECS = ["", ".2f", "8.3e", "g", "+", "<12", "^9", "05d", "x", "%", "n", ",", "_", " ", "s", "?"]
FORMATS = [
    *("x = {}", "{}", "{0}{0}", "{{{}}}", "{x}", "é {x} {x}", "{x!r}", "{x!s}", "{!r:>30}"),
    *("{0.dtype}", "{x.real}", "{:>{x}}", "{x[()]}", "no field", "{"),
]
OPTIONS = {
    "precision": st.sampled_from([0, 1, 3, 12]),
    "suppress": st.booleans(),
    "floatmode": st.sampled_from(["fixed", "unique", "maxprec", "maxprec_equal"]),
    "sign": st.sampled_from(["-", "+", " "]),
    "nanstr": st.just("not a number"),
    "infstr": st.just("endless"),
    "legacy": st.sampled_from([False, "1.13", "1.21", "1.25"]),
    "formatter": st.just({"all": lambda x: "any"}),
    "linewidth": st.just(20),
}


def printer_of(fmt, options):
    with warnings.catch_warnings(), np.printoptions(**options):
        warnings.simplefilter("ignore")  # NumPy's, of a mode without its own sign
        return Printer(fmt, tuple(sorted(np.get_printoptions().items(), key=lambda item: item[0])))


def outcome_of(function):
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - both raise the same
        return type(error), str(error)


@settings(max_examples=500, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    value=st.sampled_from(VALUES) | st.floats(width=32) | st.integers(-(2**31), 2**31 - 1),
    fmt=st.sampled_from(FORMATS),
    spec=st.sampled_from(SPECS),
    shape=st.sampled_from([(), (), (), (1,), (0,), (2,)]),
    options=st.fixed_dictionaries({}, optional=OPTIONS),
)
def test_one_number_is_written_as_any_array_is(dtype, value, fmt, spec, shape, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of values that the dtype does not have
        try:
            array = np.full(shape, value).astype(jnp.dtype(dtype))
        except (TypeError, OverflowError, ValueError):
            reject()
    for field in ("{}", "{0}", "{x}"):
        fmt = fmt.replace(field, f"{field[:-1]}:{spec}}}")
    printer = printer_of(fmt, options)

    def written():
        with contextlib.redirect_stdout(io.StringIO()) as stdout:
            printer(array, x=array)
        return stdout.getvalue()

    assert outcome_of(written) == outcome_of(lambda: printer.text((array,), {"x": array}) + "\n")


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_number_is_printed_as_jax_prints_it(dtype, capsys):
    jax_bits = jnp.dtype(dtype).itemsize * (1 if "complex" not in dtype else 0.5)
    with jax.enable_x64(jax_bits > 4):
        x = jnp.asarray(1, dtype)
        for library in (jax, cb):
            jax.jit(lambda x, print=library.debug.print: print("{} {x:>9}", x, x=x))(x)
            cb.effects_barrier()
    theirs, ours = capsys.readouterr().out.splitlines()
    assert ours == theirs


def test_numbers_take_the_short_way(capsys):
    printer = printer_of("{} {x:.1f}", {})
    vars(printer)["text"] = None  # what asks for the other way fails
    printer(np.array(1, np.int32), x=np.array(2, np.float32))
    assert capsys.readouterr().out == "1 2.0\n"
    with pytest.raises(TypeError, match="not callable"):
        printer(np.array([1]), x=np.array(2, np.float32))


def test_a_format_for_numbers_says_what_is_printed_of_an_array():
    with pytest.raises(TypeError, match="unsupported format string") as caught:
        cb.debug.print("{:.2f}", jnp.arange(3.0))
    (note,) = [note for note in caught.value.__notes__ if "as a whole" in note]
    assert "shape (3,)" in note and "{:.2f} does not apply" in note
