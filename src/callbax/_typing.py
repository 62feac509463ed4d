"""The types of what users call: variables for parameters and result; without any, these are Any."""

from typing import TYPE_CHECKING, Any

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

Values = np.ndarray | np.generic | complex  # for a checker, a complex is every Python number
