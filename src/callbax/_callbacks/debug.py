"""debug.callback and debug.print: look into a program without changing what it computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, overload

import numpy as np

from callbax._callbacks import primitives
from callbax._callbacks.flavours import DEBUG
from callbax._callbacks.printing import FormatChecker, LogPrinter, Printer
from callbax._callbacks.results import check_callable
from callbax._host import identity, trust
from callbax._host.call import HostCall
from callbax._host.function import Hashable
from callbax._jax import frames
from callbax._runtime.errors import describe_function, full_name
from callbax._runtime.wrapper import Wrapper


@overload
def debug_callback(
    callback: Callable[..., Any],
    *args: Any,
    ordered: bool = False,
    partitioned: bool = False,
    **kwargs: Any,
) -> None: ...
@overload
def debug_callback(*, ordered: bool = False, partitioned: bool = False) -> Callable[..., None]: ...
@frames.api_boundary
def debug_callback(
    callback: Callable[..., Any] | None = None,
    *args: Any,
    ordered: bool = False,
    partitioned: bool = False,
    **kwargs: Any,
) -> Callable[..., None] | None:
    """Calls a Python function on the host for its side effect, leaving the program as it is.

    It follows what JAX really executes: it may be dropped, repeated or reordered together with the
    code around it. Autodiff passes it by; vmap calls it once for each lane.

    Args:
      callback: the host function; what it returns is ignored. It gets NumPy arrays.
      *args: pytrees; leaves that are not arrays (strings, dtypes, functions) are passed as they are.
      ordered: keep the program's order among ordered debug callbacks; one device only.
      partitioned: in a sharded program, call once for each device on its own shard, without a
        gather; otherwise once, with the whole value.
      **kwargs: keyword arguments for the callback, like `args`.

    Returns:
      None, or in the form `callback(ordered=True)` a function `(callback, *args, **kwargs)`.

    Raises:
      TypeError: `callback` cannot be called, or the two-call form got more than options.

    >>> import jax, callbax
    >>> jax.jit(lambda x: callbax.debug.callback(print, "x is", x))(2)
    x is 2
    """
    if callback is not None:
        _call(callback, args, kwargs, ordered, partitioned)
        return None
    if args or kwargs:
        raise TypeError(
            f"debug_callback received unexpected arguments in the two-call form: {args=} {kwargs=}"
        )

    def with_options(callback: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        _call(callback, args, kwargs, ordered, partitioned)

    return with_options


@overload
def debug_print(
    fmt: str,
    *args: Any,
    ordered: bool = False,
    partitioned: bool = False,
    skip_format_check: bool = False,
    **kwargs: Any,
) -> None: ...
@overload
def debug_print(
    *, ordered: bool = False, partitioned: bool = False, skip_format_check: bool = False
) -> Callable[..., None]: ...
@frames.api_boundary
def debug_print(
    fmt: str | None = None,
    *args: Any,
    ordered: bool = False,
    partitioned: bool = False,
    skip_format_check: bool = False,
    **kwargs: Any,
) -> Callable[..., None] | None:
    """Prints values from inside compiled code.

    Args:
      fmt: a format string as for `str.format` (not an f-string: the values exist only at run time).
        NumPy's print options are those in force where this is traced.
      *args: values for positional fields.
      ordered, partitioned: as for `callbax.debug.callback`.
      skip_format_check: do not compare `fmt` with the arguments; a string without fields is then
        followed by the arguments, separated by spaces.
      **kwargs: values for named fields.

    Returns:
      None, or in the form `print(ordered=True)` a function `(fmt, *args, **kwargs)`.

    Raises:
      KeyError, IndexError: `fmt` has a field without an argument.
      ValueError: an argument has no field.
      TypeError: `fmt` is not a string; the two-call form got more than options.

    >>> import jax, callbax
    >>> jax.jit(lambda x: callbax.debug.print("x = {x:.2f}", x=x))(2.0)
    x = 2.00
    """
    return _print("debug_print", fmt, args, kwargs, ordered, partitioned, skip_format_check)


@overload
def debug_log(
    fmt: str,
    *args: Any,
    ordered: bool = False,
    partitioned: bool = False,
    skip_format_check: bool = False,
    **kwargs: Any,
) -> None: ...
@overload
def debug_log(
    *, ordered: bool = False, partitioned: bool = False, skip_format_check: bool = False
) -> Callable[..., None]: ...
@frames.api_boundary
def debug_log(
    fmt: str | None = None,
    *args: Any,
    ordered: bool = False,
    partitioned: bool = False,
    skip_format_check: bool = False,
    **kwargs: Any,
) -> Callable[..., None] | None:
    """Logs values from inside compiled code: `debug.print` that writes to a log.

    The logger is `callbax.debug`, the level INFO; file and line are those of the traced call. As with
    `jax.debug.log`, the level of the logger is not asked, only those of its handlers are.

    Args:
      fmt, args, ordered, partitioned, skip_format_check, kwargs: as for `callbax.debug.print`.

    Returns:
      As `callbax.debug.print`, and it raises what that raises.

    >>> import jax, logging, sys, callbax
    >>> handler = logging.StreamHandler(sys.stdout)
    >>> logging.getLogger("callbax.debug").addHandler(handler)
    >>> jax.jit(lambda x: callbax.debug.log("x = {x:.2f}", x=x))(2.0)
    x = 2.00
    >>> logging.getLogger("callbax.debug").removeHandler(handler)
    """
    return _print(
        "debug_log",
        fmt,
        args,
        kwargs,
        ordered,
        partitioned,
        skip_format_check,
        frames.line_of_caller(),
    )


def _call(
    callback: Callable[..., Any], args: Any, kwargs: Any, ordered: bool, partitioned: bool
) -> None:
    check_callable("debug.callback", callback)
    _bind(ResultIgnored(callback), args, kwargs, ordered, partitioned)


def _print(
    name: str,
    fmt: str | None,
    args: Any,
    kwargs: Any,
    ordered: bool,
    partitioned: bool,
    skip_format_check: bool,
    logged_from: tuple[str, int] | None = None,
) -> Callable[..., None] | None:
    def with_options(fmt: str, *args: Any, **kwargs: Any) -> None:
        if not isinstance(fmt, str):
            called = full_name(name.replace("_", "."))
            raise TypeError(
                f"{called} takes a format string before the values, as in "
                f'{called}("x = {{}}", x), but got an object of type {type(fmt)}'
            )
        if not skip_format_check:
            FormatChecker().format(fmt, *args, **kwargs)
        options = tuple(sorted(np.get_printoptions().items(), key=lambda item: item[0]))
        printer = LogPrinter(fmt, options, *logged_from) if logged_from else Printer(fmt, options)
        _bind(printer, args, kwargs, ordered, partitioned)

    if fmt is None and (args or kwargs):
        raise TypeError(
            f"{name} received unexpected arguments in the two-call form: {args=} {kwargs=}"
        )
    if fmt is None:
        return with_options
    with_options(fmt, *args, **kwargs)
    return None


def _bind(
    function: Callable[..., Any], args: Any, kwargs: Any, ordered: bool, partitioned: bool
) -> None:
    host_call, values = HostCall.from_arguments(function, args, kwargs, split_static=True)
    primitives.bind(DEBUG, host_call, values, ordered=ordered, partitioned=partitioned)


@dataclasses.dataclass(frozen=True, eq=False)
class ResultIgnored(Wrapper):
    """A host function for the sake of its side effect."""

    func: Callable[..., Any]
    ignores_result = True

    @property
    def program_name(self) -> dict[str, Any] | None:
        path = trust.stable_path(self.func)
        return None if path is None else {"debug": path}

    @property
    def host_function(self) -> Callable[..., Any]:
        return self.func

    @property
    def description(self) -> str:
        return describe_function(self.func)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResultIgnored) and Hashable(self.func) == Hashable(other.func)

    def __hash__(self) -> int:
        return hash(Hashable(self.func))

    def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        self.func(*args, **kwargs)


identity.add_kind("debug", lambda name: ResultIgnored(identity.find_function(name, "debug")))
