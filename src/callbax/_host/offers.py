"""What programs may name that has no path of its own: the parts of a function, and C functions.

A derivative by host code is often a lambda, and an executor is an object of one process. A program
names them by what they belong to ("the host vjp of my.models:solve"), and a C function by its
library. Whoever makes such a thing offers it, for as long as it lives; a file makes nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from typing import Any

from callbax._runtime import threads

_lock = threads.new_lock(reentrant=True)  # a finaliser may run anywhere, and make an Offer


class Offer:
    """Lets programs name `value` by `key`, for as long as this object lives."""

    __slots__ = ("__weakref__", "key", "value")

    def __init__(self, key: Hashable, value: Any):
        self.key, self.value = key, value
        with _lock:
            _offers.add(self)


_offers: weakref.WeakSet[Offer] = weakref.WeakSet()  # guarded by _lock


class Offerable:
    """What `callbax.allow` lets programs name, as it is given to it."""

    __slots__ = ()

    def offer(self) -> Offer:
        """Lets programs name it, as long as the offer lives.

        Raises:
          ValueError: it has no name that another process could find it by.
        """
        raise NotImplementedError


def find(key: Hashable, what: str, missing: str) -> Any:
    """The one thing that is offered under that key.

    Args:
      what: describes it, for messages.
      missing: how the sentence goes on if there is none.

    Raises:
      LookupError: there is none; or several, among which nothing decides.
    """
    with _lock:
        found = [offer.value for offer in _offers if offer.key == key]
    if not found:
        raise LookupError(f"{what}, {missing}")
    if any(other is not found[0] and other != found[0] for other in found):
        raise LookupError(
            f"{what}, of which this process has several. Give each function that has one a name of its "
            "own, with callbax.external(name=...)."
        )
    return found[0]
