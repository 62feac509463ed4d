"""The versions of JAX that callbax is tested with, and the warning about a newer one.

Imported before everything else that knows JAX, so that the warning is there even if that fails.
"""

from __future__ import annotations

import os
import warnings

import jax

OLDEST = (0, 10)
NEWEST = (0, 12)

VARIABLE = "CALLBAX_UNTESTED_JAX"
_ALLOW = "allow"


def _warn_if_untested() -> None:
    """JAX's second number stands for changes that matter, so the third does not count."""
    setting = os.environ.get(VARIABLE, "") or None
    if setting not in (None, _ALLOW):
        raise ValueError(
            f"the environment variable {VARIABLE} must be {_ALLOW!r} (no warning about a JAX that is "
            f"newer than callbax is tested with) or not set, but it is {setting!r}"
        )
    if jax.__version_info__[:2] <= NEWEST or setting == _ALLOW:
        return
    oldest, newest = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
    message = (
        f"this JAX is {jax.__version__}, and this callbax is tested with JAX {oldest} to {newest}: "
        f"look for a newer callbax. `python -m callbax info` says what works with this JAX. "
        f"{VARIABLE}={_ALLOW} in the environment silences this warning."
    )
    warnings.warn(message, RuntimeWarning, stacklevel=4)  # the line that imports callbax


_warn_if_untested()
