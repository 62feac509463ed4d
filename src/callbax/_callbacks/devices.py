"""Functions with device=True: where their programs may run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from callbax._host import libraries
from callbax._host.adapters import WithArrays
from callbax._host.call import HostCall
from callbax._runtime.platforms import Runtime
from callbax._runtime.wrapper import device_library

_PLATFORMS = ("cpu", "cuda")


def gets_gpu_arrays(
    host_call: HostCall, platforms: Sequence[str], runtime: Runtime, avals: Sequence[Any]
) -> bool:
    """Whether a call's function gets arrays in the memory of a GPU, in a program for these platforms.

    Args:
      avals: of the call's arrays.

    Raises:
      ValueError: it should, but cannot.
      TypeError: an array has a dtype that only XLA packs so.
    """
    function: Any = host_call.function
    library = device_library(function)
    if library is None:
        return False
    for platform in platforms:
        if platform not in _PLATFORMS:
            raise ValueError(
                f"{host_call} has device=True, which is for CPU and NVIDIA GPUs, but this program is for "
                f"{platform}; without device=True its arrays come to the host"
            )
    if "cuda" not in platforms:
        if library in libraries.ON_GPU_ONLY:
            raise ValueError(
                f"{host_call} has arrays={library!r}, which are in the memory of an NVIDIA GPU, but this "
                f"program is for {' and '.join(platforms)}; arrays='torch' and 'dlpack' are for both"
            )
        return False
    if not runtime.is_native:
        raise ValueError(
            f"{host_call} has device=True, for which callbax's own runtime must call it, but "
            f"{runtime.reason}. Without device=True its arrays come to the host."
        )
    if not isinstance(function, WithArrays):
        raise ValueError(
            f"{host_call} has device=True, but call_where picks its lanes on the host; omit device=True "
            "there, or call it for all lanes"
        )
    for aval in avals:
        if _is_packed(aval.dtype):
            raise TypeError(
                f"{host_call} has device=True, but XLA packs {aval.dtype} in a way that other libraries "
                "do not know; convert it to int8 or uint8 before the call"
            )
    return True


def _is_packed(dtype: Any) -> bool:
    return any(dtype.name.endswith(bits) for bits in ("int2", "int4", "float4_e2m1fn"))
