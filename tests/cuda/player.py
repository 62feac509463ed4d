"""Programs of one call, played to callbax's handlers without XLA (xla_player.cc)."""

from __future__ import annotations

import ctypes
from typing import Any

import fake_cuda
import numpy as np

from callbax import _native
from callbax._host import identity
from callbax._host.call import HostCall

_STRING, _SCALAR, _ARRAY = 4, 3, 1  # XLA_FFI_AttrType
_TOKEN = 17  # XLA_FFI_DataType_TOKEN
_SIZE = 100_000  # of a message


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
        ("data", ctypes.c_void_p),
    ]


def _buffer(array: np.ndarray[Any, Any] | None) -> _Buffer:
    """XLA's buffer of an array; None is a token."""
    if array is None:
        return _Buffer(_TOKEN, 0, None, None)
    dims = (ctypes.c_int64 * array.ndim)(*array.shape)
    return _Buffer(_native.dtype_code(array.dtype.name), array.ndim, dims, array.ctypes.data)


def named(function: Any, operands: int) -> Any:
    """Registers a host function of so many arrays; the result has its name, and keeps it."""
    call, _ = HostCall.from_arguments(function, (0,) * operands, {})
    return identity.CALLBACKS.register(call, exporting=False)


class Program:
    """A call of one of callbax's handlers, with any attributes.

    `platform` is "cpu"; "cuda", a GPU of the stand-in; or "bare", a handler for GPUs whose frames have
    no stream. A failure is an exception with XLA's code and the message.
    """

    def __init__(self, platform: str, attributes: dict[str, Any], kind: str = "callback"):
        self._library = fake_cuda.library()
        if platform == "cuda":
            stages, state = fake_cuda.handlers(kind)
        else:
            of_gpu = "cuda_" if platform == "bare" else ""
            stages, state = getattr(_native, f"{of_gpu}{kind}_handlers")()
        new = self._library.play_new
        new.restype, new.argtypes = ctypes.c_void_p, [ctypes.c_void_p] * 3
        of = (stages["instantiate"], stages["execute"], state["type_info"])
        self._program = ctypes.c_void_p(new(*map(fake_cuda.address, of)))
        for name, value in attributes.items():
            self._set(name, value)
        self._run(self._library.play_instantiate)

    def _set(self, name: str, value: Any) -> None:
        if isinstance(value, str):
            of_type, dtype, data, count = _STRING, 0, value.encode(), 0
        elif isinstance(value, list):
            data = np.array(value, np.int64).tobytes()
            of_type, dtype, count = _ARRAY, _native.dtype_code("int64"), len(value)
        else:
            array = np.array(value)
            of_type, dtype, count = _SCALAR, _native.dtype_code(array.dtype.name), 1
            data = array.tobytes()
        size = ctypes.c_size_t
        arguments = (name.encode(), of_type, dtype, data, size(len(data)), size(count))
        self._library.play_attribute(self._program, *arguments)

    def _run(self, function: Any, *arguments: Any) -> None:
        message = ctypes.create_string_buffer(_SIZE)
        code = function(self._program, *arguments, message, ctypes.c_size_t(_SIZE))
        if code != 0:
            raise RuntimeError(code, message.value.decode())

    def __call__(self, operands: list[Any], results: list[Any], device: int = 0) -> None:
        """Calls with arrays, and writes to the arrays of the results."""
        buffers = [*map(_buffer, [*operands, *results])]
        all_buffers = (_Buffer * max(1, len(buffers)))(*buffers)
        counts = len(operands), len(results)
        self._run(self._library.play_execute, None, device, all_buffers, *counts)

    def close(self) -> None:
        """What XLA does with a program that is gone."""
        self._library.play_delete(self._program)
