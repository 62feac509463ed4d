"""The libraries that callbax is measured beside, behind one interface.

JAX's own callbacks are taken from JAX by name: only to be timed, and nowhere else in the package.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.experimental
import numpy as np

import callbax


@dataclasses.dataclass(frozen=True)
class Peer:
    """What a library offers; None where it has nothing of the kind.

    Each function takes a NumPy function and its arguments, `pure` and the io ones the result's
    `jax.ShapeDtypeStruct` in between, and is called inside jit. Without `does_work` the NumPy
    function is not called at all.
    """

    name: str
    pure: Callable[..., Any]
    io: Callable[..., Any] | None = None
    ordered_io: Callable[..., Any] | None = None
    debug: Callable[..., Any] | None = None
    print: Callable[..., Any] | None = None
    does_work: bool = True


def ours() -> Peer:
    return Peer(
        "callbax",
        callbax.pure_callback,
        callbax.io_callback,
        lambda *args: callbax.io_callback(*args, ordered=True),
        callbax.debug.callback,
        callbax.debug.print,
    )


def jax_callbacks() -> Peer:
    pure, io, debug, print_ = (
        operator.attrgetter(name)(jax)
        for name in ("pure_callback", "experimental.io_callback", "debug.callback", "debug.print")
    )
    return Peer(
        "jax.*",
        lambda *args: pure(*args, vmap_method="sequential"),
        io,
        lambda *args: io(*args, ordered=True),
        debug,
        print_,
    )


def buffer_callback() -> Peer:
    from jax.experimental.buffer_callback import buffer_callback

    def bind(function: Callable[..., Any], result: Any, *args: Any, **options: Any) -> Any:
        def into(context: Any, out: Any, *buffers: Any) -> None:
            np.asarray(out)[...] = function(*map(np.asarray, buffers))

        return buffer_callback(into, result, vmap_method="sequential", **options)(*args)

    return Peer(
        "jax buffer_callback",
        bind,
        lambda *args: bind(*args, has_side_effect=True),
    )


def tvm_ffi() -> Peer:
    """NVIDIA's bridge from XLA FFI to TVM FFI, with a Python function at its end."""
    register = tvm_registration()

    def bind(function: Callable[..., Any], result: Any, *args: Any, **options: Any) -> Any:
        def into(*tensors: Any) -> None:
            *arguments, out = map(np.from_dlpack, tensors)
            out[...] = function(*arguments)

        target = register(into, pass_owned_tensor=True)
        return jax.ffi.ffi_call(target, result, vmap_method="sequential", **options)(*args)

    return Peer("jax-tvm-ffi", bind, lambda *args: bind(*args, has_side_effect=True))


def tvm_ffi_without_work() -> Peer:
    """The least that jax-tvm-ffi can cost: its function looks at nothing and writes no result."""
    target = tvm_registration()(lambda *tensors: None)

    def bind(function: Callable[..., Any], result: Any, *args: Any) -> Any:
        return jax.ffi.ffi_call(target, result, vmap_method="sequential")(*args)

    return Peer("jax-tvm-ffi, no work", bind, does_work=False)


_numbers = itertools.count()


def tvm_registration() -> Callable[..., str]:
    """A function that registers a Python function as an FFI target and returns its new name."""
    import jax_tvm_ffi  # type: ignore[import-untyped]
    import tvm_ffi

    def register(function: Callable[..., Any], **options: Any) -> str:
        name = f"callbax_benchmark_{next(_numbers)}"
        converted = tvm_ffi.convert(function)
        jax_tvm_ffi.register_ffi_target(
            name, converted, ["args", "rets"], platform="cpu", **options
        )
        return name

    return register


def available_peers() -> tuple[list[Peer], list[str]]:
    """Every library that can be imported, callbax first; and a line for each that cannot."""
    peers: list[Peer] = []
    missing: dict[str, None] = {}  # one line for each cause
    for find in (ours, jax_callbacks, buffer_callback, tvm_ffi, tvm_ffi_without_work):
        try:
            peers.append(find())
        except ImportError as error:
            missing[f"Left out: {error} (pip install 'callbax[bench]')."] = None
    return peers, list(missing)
