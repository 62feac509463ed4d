"""The types of the package's functions, as its stub: their arguments, by SciPy's names.

python -m callbax.scipy.special._stub > src/callbax/scipy/special/__init__.pyi
"""

from __future__ import annotations

from callbax.scipy.special._catalogue import entries, entry
from callbax.scipy.special._functions import WRAPPERS, public_names, scipys_ufunc

_STUB = """\
# Generated, for SciPy {version}: python -m callbax.scipy.special._stub
from collections.abc import Callable

from jax import Array
from jax.typing import ArrayLike

from callbax._compiled.ufunc import Ufunc
from callbax._typing import P, R
{wrappers}

def _ufunc(signature: Callable[P, R]) -> Ufunc[P, R]: ...
{functions}
"""


def stub() -> str:
    """The stub, for the installed SciPy."""
    import scipy

    private = [name for name in entries() if name.startswith("_")]
    return _STUB.format(
        version=scipy.__version__,
        wrappers="\n".join(
            f"from callbax.scipy.special._wrappers import {name} as {name}" for name in WRAPPERS
        ),
        functions="\n".join(map(_function, [*public_names(), *private])),
    )


def _function(name: str) -> str:
    ufunc = scipys_ufunc(name)
    arguments = ", ".join(f"{argument}: ArrayLike" for argument in entry(name, ufunc))
    result = "Array" if ufunc.nout == 1 else f"tuple[{', '.join(['Array'] * ufunc.nout)}]"
    line = f"def {name}({arguments}, /) -> {result}: ..."
    if len(line) > 100:
        line = f"def {name}(\n    {arguments}, /\n) -> {result}: ..."
    return f"@_ufunc\n{line}"


if __name__ == "__main__":
    print(stub(), end="")
