"""Which loop of a ufunc runs for which JAX dtypes, and what its results become.

NumPy resolves the loop, and the outcome is mapped to JAX's world:

- 64-bit results become 32-bit ones while x64 is disabled. The loop itself may still compute in
  double precision, if it has no other.
- Integers that the loop takes as floats are promoted first as JAX promotes them, so that they do not
  widen anything; integers that it takes as integers stay integers.
- Types below 32 bits (float16, bfloat16, float8) are computed in float32, and are the result's type.
- Python scalars do not widen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from callbax import _jax, _native

# Operand and result types that the native code converts itself, in blocks, beside the type that the
# loop has: only for these may JAX lack the loop's type (x64 disabled). Denormals survive.
_CONVERTED_NATIVELY = {
    np.dtype(narrow): np.dtype(wide)
    for narrow, wide in (("f4", "f8"), ("c8", "c16"), ("i4", "i8"), ("u4", "u8"))
}
_PYTHON_SCALARS = {"i": int, "f": float, "c": complex}
_FLOAT32 = np.dtype(np.float32)


@dataclasses.dataclass(frozen=True)
class Resolution:
    """The loop for given arguments.

    Attributes:
      index: of the loop in `ufunc.types`.
      operands, results: the types that the loop reads and writes.
      operand_dtypes, result_dtypes: those that the primitive takes and gives; where they differ from
        the loop's, the native code converts.
      final_dtypes: of the results that the caller sees.
    """

    index: int
    operands: tuple[np.dtype, ...]
    results: tuple[np.dtype, ...]
    operand_dtypes: tuple[np.dtype, ...]
    result_dtypes: tuple[np.dtype, ...]
    final_dtypes: tuple[np.dtype, ...]


def resolve(ufunc: np.ufunc, args: Sequence[Any]) -> Resolution:
    """Resolves the loop for JAX values.

    Raises:
      TypeError: the ufunc has no loop for these types.
    """
    given = _dtypes_of(ufunc.__name__, args)
    weak = [_jax.is_weakly_typed(arg) for arg in args]
    common = np.dtype(jnp.result_type(*args))
    wanted = _asked_for(given, weak)
    loop = _numpys_choice(ufunc, wanted, given)
    promoted = [dtype.kind in "biu" and loop[i].kind in "fc" for i, dtype in enumerate(given)]
    if any(promoted):
        to = _at_least_32_bits(_real(_jax.to_inexact_dtype(common)))
        wanted = [to if moved else dtype for moved, dtype in zip(promoted, wanted, strict=True)]
        loop = _numpys_choice(ufunc, wanted, given)
    final = tuple(_final(dtype, common, given) for dtype in loop[ufunc.nin :])
    return _resolution(ufunc, loop, given, final)


def in_double(ufunc: np.ufunc, resolution: Resolution) -> Resolution:
    """The same types outside, but the loop for double precision, if single was chosen."""
    wide = {np.dtype(narrow): np.dtype(double) for narrow, double in (("f4", "f8"), ("c8", "c16"))}
    operands = tuple(wide.get(dtype, dtype) for dtype in resolution.operands)
    results = tuple(wide.get(dtype, dtype) for dtype in resolution.results)
    index = _loop_index(ufunc, (*operands, *results))
    return dataclasses.replace(resolution, index=index, operands=operands, results=results)


def resolve_only_loop(ufunc: np.ufunc, args: Sequence[Any]) -> Resolution:
    """For a ufunc with one loop, that of a C function: arguments convert to its types, or fail.

    As in JAX's promotion, numbers become those of a larger kind (integer, float, complex) of any width,
    and Python scalars do not widen; no other conversion may lose bits.

    Raises:
      TypeError: an argument does not convert.
    """
    given = _dtypes_of(ufunc.__name__, args)
    loop = tuple(map(np.dtype, ufunc.types[0].replace("->", "")))
    for position, (arg, dtype) in enumerate(zip(args, given, strict=True)):
        if not _converts(dtype, loop[position], _jax.is_weakly_typed(arg)):
            raise TypeError(
                f"{ufunc.__name__} computes with ({', '.join(map(str, loop[: ufunc.nin]))}), but "
                f"argument {position} has dtype {dtype}, which does not convert to {loop[position]} "
                "without loss; convert it with .astype"
            )
    common = np.dtype(jnp.result_type(*args))
    narrow = _is_inexact(common) and common.itemsize < 4
    final = tuple(
        common if narrow and dtype.kind == "f" else _jax.canonical_dtype(dtype)
        for dtype in loop[ufunc.nin :]
    )
    return _resolution(ufunc, loop, given, final)


def convert(value: Any, dtype: np.dtype) -> Any:
    """`value` as an array of an operand's dtype. Whatever is not zero is true, as in NumPy."""
    if dtype == np.bool_:
        return jnp.not_equal(value, 0)
    return _jax.convert_element_type(value, dtype)


def _dtypes_of(name: str, args: Sequence[Any]) -> list[np.dtype]:
    return [_dtype_of(name, position, arg) for position, arg in enumerate(args)]


def _dtype_of(name: str, position: int, arg: Any) -> np.dtype:
    try:
        if arg is None or isinstance(arg, (str, type, np.dtype)):
            raise TypeError("JAX would take it for the name of a dtype")
        return np.dtype(jnp.result_type(arg))
    except TypeError as error:
        raise TypeError(
            f"argument {position} of {name} must be an array or a number of a type that JAX has, but "
            f"is {arg!r:.200} of type {type(arg).__name__}. Of a random key take jax.random.key_data, "
            "of a list jax.numpy.asarray."
        ) from error


_KIND_RANKS = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}


def _converts(dtype: np.dtype, to: np.dtype, weak: bool) -> bool:
    dtype = _at_least_32_bits(dtype)
    if dtype.kind not in _KIND_RANKS:
        return False
    gained = _KIND_RANKS[to.kind] - _KIND_RANKS[dtype.kind]
    return gained > 0 or (gained == 0 and (weak or np.can_cast(dtype, to, "safe")))


def _resolution(
    ufunc: np.ufunc,
    loop: Sequence[np.dtype],
    given: Sequence[np.dtype],
    final: tuple[np.dtype, ...],
) -> Resolution:
    operands, results = tuple(loop[: ufunc.nin]), tuple(loop[ufunc.nin :])
    return Resolution(
        index=_loop_index(ufunc, loop),
        operands=operands,
        results=results,
        operand_dtypes=tuple(map(_operand_dtype, operands, given)),
        result_dtypes=tuple(
            dtype if _is_narrower(dtype, result) else _jax.canonical_dtype(result)
            for dtype, result in zip(final, results, strict=True)
        ),
        final_dtypes=final,
    )


def _asked_for(given: Sequence[np.dtype], weak: Sequence[bool]) -> list[Any]:
    """What NumPy is asked about: its own dtypes, or Python's types for weakly typed values."""
    if all(weak):
        return [_at_least_32_bits(dtype) for dtype in given]
    return [
        _PYTHON_SCALARS[dtype.kind]
        if is_weak and dtype.kind in _PYTHON_SCALARS
        else _at_least_32_bits(dtype)
        for dtype, is_weak in zip(given, weak, strict=True)
    ]


def _at_least_32_bits(dtype: np.dtype) -> np.dtype:
    return _FLOAT32 if _is_inexact(dtype) and dtype.itemsize < 4 else dtype


def _is_inexact(dtype: np.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def _real(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def _numpys_choice(
    ufunc: np.ufunc, wanted: Sequence[Any], given: Sequence[np.dtype]
) -> tuple[np.dtype, ...]:
    try:
        loop = ufunc.resolve_dtypes((*wanted, *(None,) * ufunc.nout))
        if any(_native.dtype_code(dtype.name) < 0 for dtype in loop):
            raise TypeError(f"the loop for these types is of {loop}, which JAX does not have")
        return loop
    except TypeError as error:
        types = ", ".join(map(str, given))
        raise TypeError(
            f"the ufunc {ufunc.__name__!r} has no loop for arguments of types ({types}); it has "
            f"{', '.join(ufunc.types)}. Convert the arguments to one of these."
        ) from error


def _loop_index(ufunc: np.ufunc, loop: Sequence[np.dtype]) -> int:
    letters = [dtype.char for dtype in loop]
    name = f"{''.join(letters[: ufunc.nin])}->{''.join(letters[ufunc.nin :])}"
    if name in ufunc.types:
        return ufunc.types.index(name)
    # The same types by other letters: on many platforms two C types are one.
    for index, types in enumerate(ufunc.types):
        if tuple(map(np.dtype, types.replace("->", ""))) == tuple(loop):
            return index
    raise TypeError(
        f"the ufunc {ufunc.__name__!r} has no C loop of its own for {name}; it has "
        f"{', '.join(ufunc.types)}. Use cb.pure_callback for this type."
    )


def _is_narrower(dtype: np.dtype, loop: np.dtype) -> bool:
    """Whether the native code converts between the two. (float64 == None holds in NumPy.)"""
    return dtype in _CONVERTED_NATIVELY and _CONVERTED_NATIVELY[dtype] == loop


def _operand_dtype(loop: np.dtype, given: np.dtype) -> np.dtype:
    # An int64 loop may read uint32, which int32 cannot hold.
    if _is_narrower(given, loop) or (given == np.uint32 and loop == np.int64):
        return given
    return _jax.canonical_dtype(loop)


def _final(result: np.dtype, common: np.dtype, given: Sequence[np.dtype]) -> np.dtype:
    """The type of a result that the loop gives as `result`."""
    if result.kind == "f" and _is_inexact(common):
        if common.itemsize < 4:
            return common
        if any(dtype.kind in "iu" for dtype in given) and _real(common).itemsize < result.itemsize:
            return _real(common)  # it was widened for the sake of an integer
    return _jax.canonical_dtype(result)
