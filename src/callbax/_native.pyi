"""callbax's native runtime: XLA FFI handlers that call Python."""

from collections.abc import Sequence

import numpy

class Registration:
    """Keeps a registered callee alive."""

    @property
    def name(self) -> str: ...
    @property
    def target(self) -> object: ...
    def keep_context(self, context: object | None) -> None:
        """
        Sets the contextvars.Context of calls compiled from now on, on XLA's threads.
        """

def register_callback(
    name: str,
    target: object,
    function: object,
    keywords: object | None,
    kernel: tuple[int, int] = (0, 0),
) -> Registration:
    """
    Enters a callback under a name, unless a living callee has it; returns its holder.
    """

def register_loop(
    name: str,
    target: object,
    function: int,
    data: int,
    operands: Sequence[int],
    results: Sequence[int],
    core: Sequence[Sequence[int]],
    may_raise: bool,
) -> Registration:
    """
    Enters a loop under a name, unless a living callee has it; returns its holder.
    """

def lookup(name: str) -> object | None:
    """The living target of that name, or None."""

def set_hooks(
    report: object,
    convert: object,
    resolve: object,
    enter_worker: object,
    clear_tracebacks: object,
    report_kept: object,
    go_deeper: object,
    configure: object,
    follow_tracing: object,
    keep_failure: object,
) -> None:
    """Sets the Python functions that the runtime calls."""

def set_loop_hooks(enter: object, leave: object, judge: object) -> None:
    """Sets the Python functions that loops may need."""

def dtype_code(name: str) -> int:
    """XLA's code of a dtype, by its name; -1: none."""

def ufunc_loop(ufunc: object, index: int) -> tuple[int, int]:
    """The addresses of a ufunc's loop and of its data."""

def has_scalar_loop(signature: str) -> bool:
    """Whether scalar C functions of that signature can be called."""

def scalar_ufunc(
    name: str, doc: str, signature: str, function: int, user_data: int, owner: object | None
) -> object:
    """
    A NumPy ufunc that calls a scalar C function, and keeps its owner alive.
    """

def keep_library(address: int) -> tuple[str, str]:
    """
    Name and library of the function at an address; the library stays loaded.
    """

def follow(object: object, from_: int, to: int, bytes: int) -> None:
    """
    Points an array or memoryview into the copy of memory that it points into.
    """

def callback_handlers() -> tuple[dict, dict]:
    """
    Capsules of the FFI handlers of callbacks, by stage, and of their state type.
    """

def loop_handlers() -> tuple[dict, dict]:
    """
    Capsules of the FFI handlers of loops, by stage, and of their state type.
    """

def cuda_callback_handlers() -> tuple[dict, dict]:
    """The same of callbacks of programs on NVIDIA GPUs."""

def cuda_loop_handlers() -> tuple[dict, dict]:
    """The same of loops in programs on NVIDIA GPUs."""

class CallbackSite:
    """A callback's call in a program, made by JAX."""

    def __init__(self, attributes: dict) -> None: ...
    def __call__(self, operands: list, results: list) -> str | None:
        """
        Calls the callee; returns the message of its failure. The arrays are contiguous.
        """

class LoopSite:
    """A loop's call in a program, made by JAX."""

    def __init__(self, attributes: dict) -> None: ...
    def __call__(self, operands: list, results: list) -> str | None:
        """
        Calls the callee; returns the message of its failure. The arrays are contiguous.
        """

class DeviceArray:
    """An array that other libraries take by DLPack."""

    def __init__(self, array: numpy.ndarray) -> None:
        """Over a NumPy array's memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> numpy.dtype: ...
    @property
    def stream(self) -> int | None:
        """XLA's stream, which the memory belongs to; None: no GPU's."""

    @property
    def pointer(self) -> int:
        """The address of the memory."""

    @property
    def __cuda_array_interface__(self) -> dict:
        """Of arrays on NVIDIA's GPUs."""

    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object: ...

def device_of_call() -> tuple[int, int] | None:
    """
    The GPU, and XLA's stream, of the call on this thread whose function gets arrays there.
    """

def from_dlpack(object: object, stream: int | None = None) -> object:
    """
    A NumPy array, or a DeviceArray on a GPU, over what exports itself by DLPack, or a capsule.
    """

def cuda_problem() -> str:
    """Why NVIDIA's driver cannot be used; empty: it can."""

def cuda_statistics() -> dict:
    """Page-locked memory, by state; empty without a driver."""

def await_detached(seconds: float) -> bool:
    """
    Waits for the calls that are detached from their programs so far; false on time-out.
    """

def forget_detached() -> None:
    """In a forked child: such calls are the parent's."""

def watch_cuda_calls(seconds: float, tell: object) -> None:
    """
    Has tell(target) called for each call in a program on a GPU that takes longer.
    """

def watch_calls(what: int, annotate: object | None) -> None:
    """
    Sets what is watched of calls: 1 totals, 2 records, 4 annotations by annotate(target).
    """

def call_totals(forget: bool) -> list:
    """
    [(name, target, (calls, errors, ns in Python, ns waiting, bytes in, bytes out))].
    """

def limit_records(limit: int) -> None:
    """Keeps at most so many records of calls; forgets those that there are."""

def take_records() -> tuple:
    """
    ([(target, flavour, thread, run, begin, end, numbers as in call_totals)], number lost).
    """

def statistics() -> dict:
    """Counts of what the runtime holds."""

def numbered_calls() -> int:
    """How many calls XLA has been given in programs on several devices."""

def watch_interrupts() -> None:
    """Chains the Ctrl-C watcher to Python's handler."""

def take_last_site() -> int:
    """
    Which call site ended a call on this thread, if it was not asked for since; 0: none.
    """

def finish_call(plan: tuple, leaves: object) -> object:
    """Puts a call's results together, when the program has ended."""

def level() -> int:
    """The level of JAX work on this thread."""

def set_level(level: int) -> int:
    """Sets the level of JAX work on this thread; returns the one before."""

def renew_tracing() -> None:
    """
    Lets XLA's threads look anew at what traces and profiles Python's threads.
    """

def forget_threads() -> None:
    """
    In a forked child: forgets the threads, and the calls in flight, of the parent.
    """

def close(seconds: float) -> bool:
    """Refuses new calls and waits for those in flight; false on time-out."""
