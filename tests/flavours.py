"""The flavours of callback as functions of one array, for tests that hold for several of them.

Each takes (library, record, x), records x on the host and gives x back.
"""

from __future__ import annotations

from typing import Any

import jax
import pytest


def _like(x: Any) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(x)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def pure(library: Any, record: Any, x: Any) -> Any:
    return library.pure_callback(record, _like(x), x, vmap_method="sequential")


def io(library: Any, record: Any, x: Any) -> Any:
    return library.io_callback(record, _like(x), x)


def ordered_io(library: Any, record: Any, x: Any) -> Any:
    return library.io_callback(record, _like(x), x, ordered=True)


def debug(library: Any, record: Any, x: Any) -> Any:
    library.debug.callback(record.seen, x)
    return x


def ordered_debug(library: Any, record: Any, x: Any) -> Any:
    library.debug.callback(record.seen, x, ordered=True)
    return x


IO = (io, ordered_io)
DEBUG = (debug, ordered_debug)
WITH_RESULT = (pure, *IO)
EFFECTFUL = (*IO, *DEBUG)
ALL = (pure, *EFFECTFUL)


def each(flavours: Any) -> Any:
    """Parametrises a test over flavours, as its argument `call`."""
    return pytest.mark.parametrize("call", flavours, ids=lambda call: call.__name__)
