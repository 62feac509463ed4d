"""debug.watch: a debug callback that is called once for a batch, and only where there is reason to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from callbax._callbacks import primitives
from callbax._callbacks.flavours import WATCH
from callbax._callbacks.informed import Informed
from callbax._callbacks.results import check_callable
from callbax._host.call import HostCall
from callbax._host.function import Hashable
from callbax._host.structure import Structure
from callbax._jax import frames


@dataclasses.dataclass(frozen=True)
class Batch:
    """The lanes for which a function of `callbax.debug.watch` is called.

    Attributes:
      sizes: the lengths of the axes that `vmap` has put in front of each array, the outermost first.
      live: which lanes are to be looked at, a boolean array of the shape `sizes`: those for which
        `when` holds, and which are not merely computed along in a condition or loop under `vmap`.
      device: the device that calls, or None if the program does not know.
      devices: how many devices call, each for itself. Where one calls for all, it is 1.

    >>> import jax, jax.numpy as jnp, callbax as cb
    >>> logs = []
    >>> def report(batch, x):
    ...     logs.append((batch.sizes, x[batch.live].tolist()))
    >>> jax.vmap(lambda x: cb.debug.watch(report, x, when=x > 1))(jnp.arange(4.0))
    >>> cb.effects_barrier()
    >>> logs
    [((4,), [2.0, 3.0])]
    """

    sizes: tuple[int, ...]
    live: np.ndarray[Any, np.dtype[np.bool_]]
    device: jax.Device | None
    devices: int = 1


@frames.api_boundary
def watch(
    callback: Callable[..., Any],
    *args: Any,
    when: Any = True,
    ordered: bool = False,
    quiet: bool = False,
    **kwargs: Any,
) -> None:
    """Calls a Python function on the host for its side effect, once for a whole batch.

    As `callbax.debug.callback`, it leaves the program as it is, and autodiff passes it by. Other than
    there, the lanes of `vmap` share one call; a pass of a checkpointed function that computes values
    again does not call again; and where `when` is false, the program has nothing to do but to test it.

    Args:
      callback: the host function, called as `callback(batch, *args, **kwargs)`, with a
        `callbax.debug.Batch` and NumPy arrays, which have the axes of the batch in front; what all
        lanes share is repeated along them, without a copy, and read-only. What it returns is ignored.
      *args: pytrees; leaves that are not arrays are passed as they are.
      when: a boolean scalar. The function is called if it holds in one lane at least.
      ordered: keep the program's order among ordered calls of this kind and those of
        `callbax.host_callback`, on each device.
      quiet: what the function raises is meant for the caller of the program: it is not logged, and
        gets no note about the call.
      **kwargs: keyword arguments for the callback, like `args`.

    Raises:
      TypeError: `callback` cannot be called; `when` is not boolean.
      ValueError: `when` is not a scalar.

    >>> import jax, callbax
    >>> def show(batch, x):
    ...     print(x[batch.live], "of", batch.sizes)
    >>> f = jax.jit(jax.vmap(lambda x: callbax.debug.watch(show, x, when=x > 1)))
    >>> f(jax.numpy.arange(4))
    [2 3] of (4,)
    """
    check_callable("debug.watch", callback)
    _check_when(when)
    leaves, tree = jax.tree.flatten((args, kwargs))
    structure, arrays = Structure.split(tree, leaves)
    kind = QuietWatch if quiet else Watch
    function = kind(
        Hashable(callback),
        with_device=True,
        device_index=0,
        structure=structure,
        is_conditional=when is not True,
    )
    values = (np.bool_(True) if when is True else when, *arrays)
    host_call, operands = HostCall.from_arguments(function, values, {})
    primitives.bind(WATCH, host_call, operands, ordered=ordered)


def _check_when(when: Any) -> None:
    dtype, shape = jax.dtypes.result_type(when), jnp.shape(when)
    if dtype != np.bool_:
        raise TypeError(f"when= of debug.watch is of dtype {dtype}, but must be boolean")
    if shape:
        raise ValueError(
            f"when= of debug.watch has the shape {shape}, but must be a scalar: use .any() or .all()"
        )


@dataclasses.dataclass(frozen=True)
class Watch(Informed):
    """What the runtime calls for a batch.

    It gets arrays: whether each lane is live, and those of the arguments.

    Attributes:
      structure: of the arguments.
      applied: for each `vmap`, the innermost first, the batch axis of each array, or None.
    """

    device_is_optional: ClassVar[bool] = True
    structure: Structure = dataclasses.field(kw_only=True)
    applied: tuple[tuple[int | None, ...], ...] = dataclasses.field(default=(), kw_only=True)

    def batched(self, dims: tuple[int | None, ...]) -> Watch:
        return dataclasses.replace(self, applied=(*self.applied, dims))

    def __call__(self, *given: Any) -> None:
        number, live, arrays = self._split(given)
        if self.applied:
            live, *arrays = self._with_axes_in_front([live, *arrays])
        if live.any() if self.applied else live:
            args, kwargs = self.structure.unflatten(arrays)
            device = self.device(*number) if self.devices else None
            batch = Batch(live.shape, live, device, len(self.devices) or 1)
            self.func.value(batch, *args, **kwargs)

    def _split(self, given: Sequence[Any]) -> tuple[Sequence[Any], Any, Sequence[Any]]:
        """The number of the device, if it comes along; which lanes are live; the arguments' arrays."""
        place = len(given) - 1 - self.structure.arrays
        return given[:place], given[place], given[place + 1 :]

    def _with_axes_in_front(self, arrays: Sequence[Any]) -> Sequence[Any]:
        """Each array with the axes of all lanes in front, the outermost first."""
        for axis, dims in enumerate(reversed(self.applied)):
            arrays = [
                np.expand_dims(array, axis) if dim is None else np.moveaxis(array, axis + dim, axis)
                for array, dim in zip(arrays, dims, strict=True)
            ]
        rank = len(self.applied)
        sizes = np.broadcast_shapes(*(array.shape[:rank] for array in arrays))
        return [
            array
            if array.shape[:rank] == sizes
            else np.broadcast_to(array, sizes + array.shape[rank:])
            for array in arrays
        ]


@dataclasses.dataclass(frozen=True)
class QuietWatch(Watch):
    """One whose exceptions are what it is for."""

    is_quiet: ClassVar[bool] = True
    notes_its_calls: ClassVar[bool] = True


for _public in (Batch,):
    _public.__module__ = "callbax.debug"  # where users find it
