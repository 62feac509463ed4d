"""Batches: data into compiled loops."""

from __future__ import annotations

import dataclasses
import operator
import weakref
from types import TracebackType
from typing import Any

import jax
import numpy as np

import callbax
from callbax.tools._batch_sources import Form, source_of
from callbax.tools._prefetch import Prefetcher


class Batches:
    """Data for compiled code: each `next()` in a program takes the next batch of a source.

    It works wherever JAX code is traced: in jit, scan, while_loop, cond, grad, checkpoint, vmap and
    shard_map, also inside of what is differentiated. A batch is taken each time the program comes by,
    in the program's order; derivatives and `jax.checkpoint` do not take it again, and the lanes of
    `vmap` share it. Where each device runs the program on its own (shard_map, pmap), each takes
    batches of its own.

    A thread reads the source ahead; programs copy what is there into XLA's memory, which is the only
    copy. So an array that the source has handed out must stay as it is until it is taken: a source that
    fills the same array again and again needs `prefetch=0`, or yields copies.

    The source must not compute with JAX, since its computations could wait for the program that waits
    for it. So a jax Array in a batch is an error; only an array, a list or a tuple may hold such ones.

    What the source raises is the error of the program that would take that batch, and of each one
    after it, until `restart`. A program keeps the Batches that it takes from.

    Args:
      source: the batches. A batch is a pytree of arrays; all have the same structure, shapes and
        dtypes.

        - Anything with `__getitem__` and `__len__`: a list, an array (memory-mapped, too), a data set
          whose item i is a batch.
        - An iterable, which is iterated anew at each `restart`.
        - An iterator or a generator, which cannot begin anew.
      like: what each batch is like, a pytree of anything with shape and dtype. None: as the first one,
        which is read when the Batches is made. 64-bit dtypes are narrowed unless x64 is enabled when
        the Batches is made, as everywhere in JAX.
      prefetch: how many batches are read ahead, at most. 0: there is no thread; the program reads, which
        is faster where reading takes less than some 50 µs.

    Raises:
      TypeError: the source is none of these; something in `like` or in the first batch is not an array,
        or it is a jax Array.
      ValueError: `prefetch` is negative; the source is empty and there is no `like`.
      Exception: the source's own, in its first batch.

    >>> import jax, numpy as np
    >>> from callbax import tools
    >>> batches = tools.Batches(np.arange(6.0).reshape(3, 2))
    >>> @jax.jit
    ... def total():
    ...     def add(state):
    ...         total, (batch, valid) = state
    ...         return total + batch.sum(), batches.next()
    ...     return jax.lax.while_loop(lambda s: s[1][1], add, (0.0, batches.next()))[0]
    >>> total(), batches.position
    (Array(15., dtype=float32), 3)
    """

    def __init__(self, source: Any, like: Any = None, prefetch: int = 2):
        limit = operator.index(prefetch)
        if limit < 0:
            raise ValueError(f"prefetch={limit} is negative")
        self._source = source_of(source)
        name = f"Batches({getattr(source, '__name__', type(source).__name__)})"
        self._form = Form(name)
        if like is not None:
            self._form.set(like, "like=")
        self._prefetcher = Prefetcher(name, self._source.begin, self._form.arrays_of, limit)
        # Programs keep the Batches. When the last is gone, the thread ends.
        self._end = weakref.finalize(self, self._prefetcher.end)
        self._end.atexit = False  # the prefetching threads end together there
        self._prefetcher.start()
        try:
            if like is None and self._prefetcher.first() is None:
                raise ValueError(f"{name} is empty, so say by like= what its batches would be")
        except BaseException:
            self._prefetcher.end()
            raise

    def next(self) -> tuple[Any, jax.Array]:
        """Takes a batch, in compiled code.

        Returns:
          The batch, a pytree of jax Arrays, and whether it is one: after the last it is zeros, and
          `valid` is False.

        Raises:
          RuntimeError: the Batches is closed.
        """
        self._prefetcher.check_open()
        valid = jax.ShapeDtypeStruct((), np.bool_)
        result = (*self._form.structs, valid)
        taken = callbax.external(_Take(self), result=result, effects="ordered_debug")()
        # To each device its own: else JAX takes them for the same, and sums no gradients.
        axes = tuple(jax.sharding.get_abstract_mesh().manual_axes)
        if axes:
            taken = [jax.lax.pcast(array, axes, to="varying") for array in taken]
        *leaves, valid = taken
        return jax.tree.unflatten(self._form.tree, leaves), valid

    @property
    def position(self) -> int:
        """How many batches programs have taken; those that are only read ahead do not count.

        It can be saved, and given to `restart` in another process.
        """
        return self._prefetcher.position

    def restart(self, position: int = 0) -> None:
        """Begins anew, with the batch of that number.

        A source with `__getitem__` goes there at once; an iterable is iterated anew, and what comes
        before is read and dropped.

        Raises:
          TypeError: the source is an iterator or a generator.
          ValueError: there are not so many batches. Of an iterable this shows only when it is read.
          RuntimeError: the Batches is closed.
        """
        position = operator.index(position)
        self._source.check_restart(self._prefetcher.name, position)
        self._prefetcher.restart(position)

    def close(self) -> None:
        """Drops what has been read ahead, and ends the thread. Later use is an error.

        If the source is being read, close waits for that.
        """
        self._prefetcher.end()
        self._prefetcher.join()

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._prefetcher.end()  # a source that hangs must not hold up the error

    def __repr__(self) -> str:
        return f"<{self._prefetcher.name}, position {self.position}>"


@dataclasses.dataclass(frozen=True)
class _Take:
    """What compiled code calls. Equal for equal Batches, so that programs are traced once."""

    batches: Batches

    @property
    def __name__(self) -> str:
        return self.batches._prefetcher.name

    def __call__(self) -> tuple[Any, ...]:
        taken = self.batches._prefetcher.take()
        if taken is None:
            return (*self.batches._form.zeros, np.False_)
        return (*taken, np.True_)
