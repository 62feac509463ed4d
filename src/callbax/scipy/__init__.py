"""SciPy's functions as JAX functions. Nothing is imported before it is used."""

import importlib
from typing import Any

__all__ = ["special"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return __all__
