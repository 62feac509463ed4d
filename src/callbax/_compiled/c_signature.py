"""Signatures of C functions: reading them, and the code that names them to the runtime.

    parse("double (double, int n)")   ->  CSignature("float64", ("float64", "int32"))

Types are named as in NumPy where NumPy has them, and otherwise as they were written, so that a message
can show them.
"""

from __future__ import annotations

import ctypes
import dataclasses
import re

_LONG = f"int{8 * ctypes.sizeof(ctypes.c_long)}"
_SIZE = f"int{8 * ctypes.sizeof(ctypes.c_ssize_t)}"

# Of each type the letter (see loops.h), and the spellings of C, the first one for messages, of ctypes
# (without its "c_"), of Cython and of Numba.
_SPELLINGS = {
    ("float64", "d"): ("double", "float64", "npy_double"),
    ("float32", "f"): ("float", "float32", "npy_float"),
    ("int32", "i"): ("int", "int32", "int32_t", "npy_int32", "intc"),
    ("int64", "l"): ("int64_t", "int64", "npy_int64", "long long", "longlong"),
    ("complex128", "D"): (
        *("double complex", "double_complex", "complex128", "npy_cdouble"),
        *("__pyx_t_double_complex", "std::complex<double>"),
    ),
    ("complex64", "F"): (
        *("float complex", "float_complex", "complex64", "npy_cfloat"),
        *("__pyx_t_float_complex", "std::complex<float>"),
    ),
}
_SIZES = ("ssize_t", "Py_ssize_t", "ptrdiff_t", "intptr_t", "npy_intp", "intp")
_TYPES = {
    **{spelling: name for (name, _), spellings in _SPELLINGS.items() for spelling in spellings},
    **dict.fromkeys(_SIZES, _SIZE),
    "long": _LONG,
    "voidptr": "void*",
}
_C_NAMES = {name: spellings[0] for (name, _), spellings in _SPELLINGS.items()}
_LETTERS = dict(_SPELLINGS.keys())
_KEYWORDS = frozenset(
    "double float int long short char signed unsigned complex _Complex bool _Bool".split()
)
_NAME = re.compile(r"(\w+::)*\w+")
_SKIP_DISPATCH = "__pyx_skip_dispatch"  # Cython's: always 0 when called from C
_USER_DATA = "void*"


@dataclasses.dataclass(frozen=True)
class CSignature:
    """Of a C function.

    Attributes:
      result: the result's type.
      arguments: the operands' types.
      tail: an argument after these that is not an operand: "" for none, "skip_dispatch" for the int that
        functions of Cython modules have, "void*" for the user's data.
    """

    result: str
    arguments: tuple[str, ...]
    tail: str = ""

    def __str__(self) -> str:
        """As one would write it in C."""
        types = [_C_NAMES.get(name, name) for name in (self.result, *self.arguments)]
        tail = {"": [], "skip_dispatch": ["int skip_dispatch"], _USER_DATA: ["void*"]}[self.tail]
        return f"{types[0]} ({', '.join([*types[1:], *tail])})"

    @property
    def code(self) -> str | None:
        """What the runtime's table of loops knows it by (see loops.h)."""
        types = (*self.arguments, self.result)
        if any(name not in _LETTERS for name in types):
            return None
        letters = [_LETTERS[name] for name in types]
        return f"{''.join(letters[:-1])}>{letters[-1]}{_TAIL_LETTERS[self.tail]}"

    def is_said_by(self, other: CSignature) -> bool:
        """Whether a user who writes `other` means this one: nobody writes Cython's extra argument."""
        if self.tail == "skip_dispatch" and not other.tail:
            return dataclasses.replace(self, tail="") == other
        return self == other


_TAIL_LETTERS = {"": "", "skip_dispatch": "0", _USER_DATA: "p"}


def parse(text: str) -> CSignature:
    """Reads "double (double, int n)" or, as in Numba, "float64(float64, int32)".

    Raises:
      ValueError: the text is not a signature.

    >>> parse("double complex f(long n, const double complex z)")
    CSignature(result='complex128', arguments=('int64', 'complex128'), tail='')
    >>> print(parse("float64(float64, int32)"))
    double (double, int)
    """
    found = isinstance(text, str) and re.fullmatch(
        r"\s*([^()]+?)\s*(?:\(\s*\*\s*\w*\s*\))?\s*\(([^()]*)\)\s*;?\s*", text
    )
    if not found:
        raise ValueError(
            f"{text!r} is not the signature of a C function; write it as in C, for instance "
            '"double (double, int)"'
        )
    result, arguments = found.groups()
    pieces = [piece for piece in arguments.split(",") if piece.strip() not in ("", "void")]
    types = [_read_type(piece) for piece in pieces]
    tail = ""
    if pieces and pieces[-1].split()[-1] == _SKIP_DISPATCH:
        tail = "skip_dispatch"
    elif types and types[-1] == _USER_DATA:
        tail = _USER_DATA
    return CSignature(_read_type(result), tuple(types[:-1] if tail else types), tail)


def _read_type(text: str) -> str:
    """The type of "const double x"; a type that is not in the table stays as it is written."""
    text = re.sub(r"\s*\*", "*", text)
    words = [word for word in text.split() if word not in ("const", "volatile", "restrict")]
    # The last word may be the name of the parameter or the function; not "x[3]" or "&x", however.
    named = len(words) > 1 and words[-1] not in _KEYWORDS and _NAME.fullmatch(words[-1]) is not None
    known = _known_type(words) or (_known_type(words[:-1]) if named else None)
    if known is not None:
        return known
    pointer = re.fullmatch(r"(.+\*)\s*\w*", " ".join(words))
    if pointer is not None:
        return pointer[1]
    return " ".join(words)


def _known_type(words: list[str]) -> str | None:
    is_complex = any(word in ("complex", "_Complex") for word in words)
    plain = [word for word in words if word not in ("complex", "_Complex", "signed")]
    if len(plain) > 1 and "long" in plain and "int" in plain:
        plain.remove("int")
    if not plain and "signed" in words:
        plain = ["int"]
    name = " ".join(plain) + (" complex" if is_complex else "")
    return _TYPES.get(name)
