"""EXPORT_CHECKS: what `jax.export` must be told, so that it exports programs that call callbax."""

from __future__ import annotations

from jax import export

from callbax import _start
from callbax._jax import placement

# JAX exports only calls of which it knows that they mean the same in other versions. Of callbax's,
# their user says so. The list has one entry for each name by which programs call callbax.
EXPORT_CHECKS: list[export.DisabledSafetyCheck] = [
    export.DisabledSafetyCheck.custom_call(target)
    for target in (*_start.TARGETS, *placement.ON_CUDA.values())
]
"""For `jax.export.export(..., disabled_checks=callbax.EXPORT_CHECKS)`, which else refuses callbacks."""
