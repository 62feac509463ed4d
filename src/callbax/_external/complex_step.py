"""The host function at complex points, for derivative="complex_step"."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from callbax._errors import describe_function
from callbax._external.call import Call
from callbax._external.differences import complex_dtype
from callbax._external.probing import is_complex
from callbax._external.rules import HostCode, Struct, is_inexact
from callbax._host_function import Hashable


def complex_call(call: Call, wanted: Sequence[int]) -> Call:
    """The call with the arrays `wanted` complex, and complex results.

    Raises:
      TypeError: some of them are complex already.
    """
    for struct in (*(call.structs[i] for i in wanted), *call.result_structs):
        if is_complex(struct):
            raise TypeError(
                f"{call.where} has derivative='complex_step', which is for real arguments and results, "
                f"but {struct.dtype} is among them; use derivative='central'"
            )
    external = copy.copy(call.external)
    external.function = ComplexOnly(
        HostCode(call.external.function), tuple(map(is_inexact, call.result_structs))
    )
    external.vmap_rule = None  # it may know real arrays only
    external.options = dataclasses.replace(call.external.options, name=None)
    structs = [_complex(s) if i in wanted else s for i, s in enumerate(call.structs)]
    results = [_complex(s) if is_inexact(s) else s for s in call.result_structs]
    return dataclasses.replace(
        call, external=external, structs=tuple(structs), result_structs=tuple(results)
    )


def _complex(struct: Struct) -> Struct:
    return Struct(struct.shape, complex_dtype(struct.dtype))


@dataclasses.dataclass(frozen=True)
class ComplexOnly:
    """A host function that must return complex arrays: a real one would mean the derivative zero."""

    function: Hashable
    expected: tuple[bool, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.function.value(*args, **kwargs)
        if result is not None:  # else it has written into out=
            for leaf, is_expected in zip(jax.tree.leaves(result), self.expected, strict=False):
                if is_expected and not np.iscomplexobj(leaf):
                    raise TypeError(
                        f"{self.callbax_description} has derivative='complex_step', but returned "
                        f"{np.asarray(leaf).dtype} for complex arguments: something in it, such as abs, "
                        "real or a conversion to float, drops the imaginary part, which carries the "
                        "derivative. Use derivative='central'."
                    )
        return result

    @property
    def callbax_description(self) -> str:
        return describe_function(self.function.value)
