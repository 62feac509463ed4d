"""The types of what users call: variables for parameters and result; without any, these are Any.

And what a keyword may be: checkers read it there, and the checks at run time by `get_args`.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

# Defaults come with Python 3.13; checkers know them from typing_extensions, which needs no install.
if TYPE_CHECKING:
    from typing_extensions import ParamSpec, TypeVar

    P = ParamSpec("P", default=...)
    R = TypeVar("R", default=Any, covariant=True)
else:
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R", covariant=True)

VmapMethod = Literal["sequential", "sequential_unrolled", "expand_dims", "broadcast_all"]
JaxVmapMethod = Literal[VmapMethod, "legacy_vectorized"]  # of what has JAX's methods
HostVmapMethod = Literal[VmapMethod, "threads"]  # of `callbax.external`

Values = np.ndarray | np.generic | complex  # for a checker, a complex is every Python number
