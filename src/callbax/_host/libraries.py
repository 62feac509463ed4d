"""The libraries whose arrays host functions get: how they take an array, and give one back.

Arrays come as NumPy's, over memory of the host, or as `_native.DeviceArray`s, over a GPU's. Nothing is
copied either way. A library is imported when a function that wants its arrays is called.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, get_args

import jax.numpy as jnp
import numpy as np

from callbax import _native
from callbax._runtime.errors import CallbackResultError


class Library(Protocol):
    def give(self, array: Any) -> Any:
        """What the host function gets."""
        ...

    def on_stream(self, gpu: int, stream: int) -> AbstractContextManager[Any]:
        """In it, the library computes on that stream of that GPU, which is XLA's."""
        ...

    def take(self, value: Any, stream: int | None) -> Any:
        """What the runtime gets of one leaf of what the function returned.

        On a GPU the stream is XLA's, by the number that DLPack has for it.
        """
        ...


class Jax:
    """jax Arrays, on the default device of the thread."""

    def give(self, array: Any) -> Any:
        return jnp.asarray(array)

    def on_stream(self, gpu: int, stream: int) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def take(self, value: Any, stream: int | None) -> Any:
        return value


class Dlpack:
    """Objects for any library's from_dlpack; what exports itself by DLPack is a result.

    Streams are told of each other when an object is exported.
    """

    def give(self, array: Any) -> Any:
        return _native.DeviceArray(array) if isinstance(array, np.ndarray) else array

    def on_stream(self, gpu: int, stream: int) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def take(self, value: Any, stream: int | None) -> Any:
        if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
            return value
        return _native.from_dlpack(value, stream)


_NO_ORDER = -1  # DLPack's for a library that computes on the stream itself


class _Streams(dict[tuple[int, int], Any]):
    """A library's objects for streams of XLA's, by GPU and number, made when they are looked up."""

    def __init__(self, make: Callable[[int, int], Any]):
        self._make = make

    def __missing__(self, key: tuple[int, int]) -> Any:
        return self.setdefault(key, self._make(*key))


class Torch(Dlpack):
    """PyTorch's tensors."""

    def __init__(self) -> None:
        self._torch: Any = importlib.import_module("torch")
        self._dlpack: Any = importlib.import_module("torch.utils.dlpack")
        self._streams = _Streams(
            lambda gpu, stream: self._torch.cuda.ExternalStream(stream, device=gpu)
        )

    # By capsules: what else PyTorch asks of an object costs several times as much.
    def give(self, array: Any) -> Any:
        return self._dlpack.from_dlpack(super().give(array).__dlpack__(stream=_NO_ORDER))

    @contextlib.contextmanager
    def on_stream(self, gpu: int, stream: int) -> Iterator[None]:
        cuda, external = self._torch.cuda, self._streams[gpu, stream]
        if cuda.current_device() != gpu:
            with cuda.stream(external):
                yield
            return
        before = cuda.current_stream(gpu)
        cuda.set_stream(external)
        try:
            yield
        finally:
            cuda.set_stream(before)

    def take(self, value: Any, stream: int | None) -> Any:
        if not isinstance(value, self._torch.Tensor):
            return super().take(value, stream)
        if value.layout is not self._torch.strided:
            raise CallbackResultError(
                f"it returned a tensor of the layout {value.layout}, but arrays of JAX are dense; return "
                "its .to_dense()"
            )
        value = value.detach().resolve_conj().resolve_neg()
        if stream is None:
            value = value.cpu()
        elif external := self._streams.get((value.get_device(), stream)):
            # PyTorch is not to use the memory again before it is copied.
            value.record_stream(external)
        return _native.from_dlpack(self._dlpack.to_dlpack(value.contiguous()))


class CudaArrayInterface(Dlpack):
    """Objects that have `__cuda_array_interface__`, and __dlpack__ too."""

    name = "cuda_array_interface"

    def give(self, array: Any) -> Any:
        if isinstance(array, np.ndarray):
            raise TypeError(
                f"arrays={self.name!r} are in the memory of an NVIDIA GPU, but this call has its arrays "
                "on the host; use arrays='torch' or 'dlpack', which are for both"
            )
        return array


class Cupy(CudaArrayInterface):
    """CuPy's arrays."""

    name = "cupy"

    def __init__(self) -> None:
        self._cupy: Any = importlib.import_module("cupy")
        self._streams = _Streams(self._external)

    def give(self, array: Any) -> Any:
        array = super().give(array)
        # Its own ways in wait for the stream, or need a library for dtypes that are not NumPy's.
        _, device = array.__dlpack_device__()
        size = math.prod(array.shape) * array.dtype.itemsize
        memory = self._cupy.cuda.UnownedMemory(array.pointer, size, array, device)
        pointer = self._cupy.cuda.MemoryPointer(memory, 0)
        return self._cupy.ndarray(array.shape, array.dtype, pointer)

    @contextlib.contextmanager
    def on_stream(self, gpu: int, stream: int) -> Iterator[None]:
        with self._cupy.cuda.Device(gpu), self._streams[gpu, stream]:
            yield

    def _external(self, gpu: int, stream: int) -> Any:
        with warnings.catch_warnings():
            # CuPy 14 deprecates it for Stream.from_external, whose streams end XLA's with themselves.
            warnings.simplefilter("ignore", DeprecationWarning)
            return self._cupy.cuda.ExternalStream(stream, gpu)

    def take(self, value: Any, stream: int | None) -> Any:
        if isinstance(value, self._cupy.ndarray):
            return super().take(self._cupy.ascontiguousarray(value), stream)
        return super().take(value, stream)


Arrays = Literal["numpy", "jax", "torch", "dlpack", "cupy", "cuda_array_interface"]
NAMES: tuple[Arrays, ...] = get_args(Arrays)
_LIBRARIES: dict[Arrays, type[Library]] = {
    "jax": Jax,
    "torch": Torch,
    "dlpack": Dlpack,
    "cupy": Cupy,
    "cuda_array_interface": CudaArrayInterface,
}
ON_GPU_ONLY = ("cupy", "cuda_array_interface")

# What has to be installed for one, and how.
_REQUIRED = {"torch": "pip install 'callbax[torch]'", "cupy": "pip install cupy-cuda13x"}


@functools.cache
def find(name: Arrays) -> Library:
    return _LIBRARIES[name]()


def check_installed(name: str, where: str) -> None:
    """Refuses a library that is not installed; imports nothing.

    Raises:
      ImportError: `where` asks for it.
    """
    if name in _REQUIRED and importlib.util.find_spec(name) is None:
        raise ImportError(
            f"{where} has arrays={name!r}, but {name} is not installed: {_REQUIRED[name]}"
        )
