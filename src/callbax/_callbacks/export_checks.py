"""EXPORT_CHECKS: what `jax.export` must be told, so that it exports programs that call callbax."""

from __future__ import annotations

from jax import export

from callbax import _start
from callbax._jax import placement, saved_programs

# JAX exports only calls of which it knows that they mean the same in other versions. Of callbax's,
# their user says so. The list has one entry for each name by which programs call callbax.
_TARGETS = (*_start.TARGETS, *placement.ON_CUDA.values())
EXPORT_CHECKS: list[export.DisabledSafetyCheck] = [
    export.DisabledSafetyCheck.custom_call(target) for target in _TARGETS
]
"""For `jax.export.export(..., disabled_checks=callbax.EXPORT_CHECKS)`, which else refuses callbacks."""

saved_programs.note_at_refusals(
    _TARGETS,
    "callbax: to export it all the same, call jax.export.export(..., "
    "disabled_checks=callbax.EXPORT_CHECKS); callbax.allow says what may be called where it is loaded",
)
