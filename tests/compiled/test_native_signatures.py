"""Signatures of C functions: how they are read, and which of them can be called."""

import itertools

import pytest

from callbax import _native
from callbax._compiled.c_signature import CSignature, parse

READ = {
    "double (double, int)": ("float64", ("float64", "int32")),
    "float64(float64, int32)": ("float64", ("float64", "int32")),
    "float f(float x, int64_t n);": ("float32", ("float32", "int64")),
    "double (*)(double)": ("float64", ("float64",)),
    "double (*name)(const double x, signed n)": ("float64", ("float64", "int32")),
    "long long (long long int, int long)": ("int64", ("int64", "int64")),
    "Py_ssize_t (ssize_t)": ("int64", ("int64",)),
    "double complex (double _Complex, _Complex double)": ("complex128", ("complex128",) * 2),
    "float complex f(complex float z)": ("complex64", ("complex64",)),
    "__pyx_t_double_complex (long, __pyx_t_double_complex)": (
        "complex128",
        ("int64", "complex128"),
    ),
    "std::complex<double> (std::complex<double> z)": ("complex128", ("complex128",)),
    "double (void)": ("float64", ()),
    # Types that no scalar function may have stay as they are written.
    "long double (long double)": ("long double", ("long double",)),
    "unsigned int (int unsigned x)": ("unsigned int", ("int unsigned x",)),
    "void (double, double *, const int *n)": ("void", ("float64", "double*", "int*")),
    "float64(float64*)": ("float64", ("float64*",)),
}


@pytest.mark.parametrize("text", READ)
def test_text_is_read_as_in_c(text):
    assert parse(text) == CSignature(*READ[text])


def test_trailing_arguments_that_are_no_operands():
    cython = parse("double (double, int __pyx_skip_dispatch)")
    assert cython == CSignature("float64", ("float64",), "skip_dispatch")
    data = parse("double (double, void *data)")
    assert data == CSignature("float64", ("float64",), "void*")
    assert parse(str(data)) == data


@pytest.mark.parametrize(
    "text",
    ["", "double", "double complex", "(double)", "dd->d", "f(g(double))", b"double(double)", 3],
)
def test_what_is_no_signature_is_an_error(text):
    with pytest.raises(ValueError, match="is not the signature of a C function"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    ["long double (double)", "unsigned (int)", "void (double)", "double (float64*)"]
    + ["double (double x[3])", "double (double &x)", "double (const double x[])"],
)
def test_other_types_have_no_code(text):
    assert parse(text).code is None


def codes(arguments, results, most, tail=""):
    return [
        f"{''.join(letters)}>{result}{tail}"
        for count in range(1, most + 1)
        for letters in itertools.product(arguments, repeat=count)
        for result in results
    ]


@pytest.mark.parametrize(
    "promised",
    [
        codes("dfil", "dfil", 4),
        codes("dDil", "dD", 3),
        codes("fFil", "fF", 3),
        codes("dDl", "dD", 4, tail="0"),
        codes("f", "f", 4, tail="0"),
        codes("dil", "d", 4, tail="p"),
    ],
    ids=["real", "complex double", "complex float", "Cython", "Cython float", "user data"],
)
def test_the_promised_signatures_can_be_called(promised):
    assert [code for code in promised if not _native.has_scalar_loop(code)] == []


@pytest.mark.parametrize(
    "code", ["", ">", "d", "d>", ">d", "ddddd>d", "DDDD>D", "d>F", "fD>D", "d>d?", "x>d", "f>fp"]
)
def test_no_other_signature_can_be_called(code):
    assert not _native.has_scalar_loop(code)
