"""debug.breakpoint: stop in a program, and look at what is there."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from callbax._callbacks.debug import debug_callback
from callbax._callbacks.pure import pure_callback
from callbax._host.adapters import WithArrays
from callbax._host.function import Hashable
from callbax._jax import frames
from callbax._runtime.wrapper import Wrapper


def debug_breakpoint(
    *,
    backend: str | None = None,
    filter_frames: bool = True,
    num_frames: int | None = None,
    ordered: bool = False,
    token: Any = None,
    **kwargs: Any,
) -> Any:
    """Stops the program here, each time that it comes here, in JAX's interactive debugger.

    The debugger shows the stack of the Python code that was traced, with the values that its variables
    have in this run. `vmap` stops once for each lane.

    Args:
      backend: the front end, `"cli"`, `"web"` or `"colab"`; by default, JAX's choice.
      filter_frames: leave out frames of JAX's, and of libraries that ask for it.
      num_frames: how many frames to show, from this one up.
      ordered: keep the program's order among ordered debug callbacks; one device only.
      token: a pytree of arrays that is returned. The program stops once it is computed, and only if
        what is returned is used. It cannot be combined with `ordered`.
      **kwargs: options of the front end, such as `stdin` and `stdout` of `"cli"`.

    Returns:
      `token`; None without one.

    Raises:
      ValueError: `ordered` and `token` are both given.

    >>> import io, jax, callbax
    >>> def f(x):
    ...     y = x + 1
    ...     callbax.debug.breakpoint(stdin=io.StringIO("p y\\nc\\n"))
    >>> jax.jit(f)(2)  # doctest: +NORMALIZE_WHITESPACE
    Entering jdb:
    (jdb) Array(3, dtype=int32)
    (jdb)
    """
    if ordered and token is not None:
        raise ValueError("`ordered` and `token` are mutually exclusive arguments")
    leaves, structure = jax.tree.flatten(frames.frames_of_caller(filter_frames, num_frames))
    stop = _Stop(structure, frames.line_of_caller(), backend, kwargs)
    if token is None:
        debug_callback(WithArrays(Hashable(stop)), *leaves, ordered=ordered)
        return None
    token, leaves = jax.lax.stop_gradient((token, leaves))
    struct = jax.tree.map(jax.typeof, token)
    return pure_callback(WithArrays(Hashable(stop.before)), struct, token, *leaves)


@dataclasses.dataclass(frozen=True, eq=False)
class _Stop(Wrapper):
    """Gives frames their values, and starts the debugger.

    Attributes:
      frames: their structure.
      line: file and line of the breakpoint.
      backend, options: of `debug_breakpoint`.
    """

    frames: Any
    line: tuple[str, int]
    backend: str | None
    options: dict[str, Any]

    @property
    def description(self) -> str:
        return "breakpoint ({}:{})".format(*self.line)

    def __call__(self, *values: Any) -> None:
        frames.run_debugger(jax.tree.unflatten(self.frames, values), self.backend, self.options)

    def before(self, token: Any, *values: Any) -> Any:
        self(*values)
        return token
