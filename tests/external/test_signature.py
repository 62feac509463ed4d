"""gufunc signatures: what they say, and what contradicts them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbax._external.signature import broadcast, parse


@pytest.mark.parametrize(
    ("text", "inputs", "outputs"),
    [
        ("(n,k),(k)->(n)", (("n", "k"), ("k",)), (("n",),)),
        ("(),()->()", ((), ()), ((),)),
        ("->(3)", (), ((3,),)),
        (" ( n , 3 ) -> ( ) , ( 3 , n ) ", (("n", 3),), ((), (3, "n"))),
        ("(n_1)->(n_1)", (("n_1",),), (("n_1",),)),
    ],
)
def test_a_signature_is_read(text, inputs, outputs):
    signature = parse(text)
    assert (signature.inputs, signature.outputs) == (inputs, outputs)


@pytest.mark.parametrize(
    "text",
    ["", "n->n", "(n)", "(n)->", "(n),->(n)", "(n->n)", "(2x)->()", "(n?)->(n)", "(n)(k)->()"],
)
def test_what_is_no_signature_is_refused_with_the_text(text):
    with pytest.raises(ValueError) as info:
        parse(text)
    assert repr(text) in str(info.value)


def test_a_signature_is_text():
    with pytest.raises(TypeError, match="must be a string"):
        parse(3)


def test_sizes_and_batches():
    signature = parse("(n,k),(k)->(n)")
    shapes = [(5, 1, 2, 3), (4, 3)]
    assert signature.bind(shapes, ["A", "x"], "f") == {"n": 2, "k": 3}
    assert signature.batch_shapes(shapes) == [(5, 1), (4,)]
    assert signature.result_shapes({"n": 2, "k": 3}) == [(2,)]
    assert parse("(n)->(m),(n)").unknown_outputs == ("m",)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3), (4,)], "dimension k of x of f is 4, but 3 in A"),
        (
            [(3,), (3,)],
            "A of f has shape \\(3,\\), but the signature .* gives it 2 core dimensions",
        ),
    ],
)
def test_contradictions_name_the_argument_and_the_dimension(shapes, message):
    with pytest.raises(ValueError, match=message):
        parse("(n,k),(k)->(n)").bind(shapes, ["A", "x"], "f")


def test_a_fixed_size_is_kept():
    with pytest.raises(ValueError, match="dimension 3 of x of f is 4, but 3 in the signature"):
        parse("(3)->()").bind([(4,)], ["x"], "f")


def test_the_number_of_arguments_is_kept():
    with pytest.raises(TypeError, match=r"takes 2 array\(s\), but got 1: x"):
        parse("(),()->()").bind([()], ["x"], "f")


shapes = st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=4)


@given(shapes)
def test_broadcasting_is_numpys(shapes):
    names = [f"x{i}" for i in range(len(shapes))]
    try:
        expected = np.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(ValueError, match="x[0-3].*do not broadcast|do not broadcast.*x[0-3]"):
            broadcast(shapes, names, "f")
    else:
        assert broadcast(shapes, names, "f") == expected
