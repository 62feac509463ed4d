"""The gateway's part for custom calls: how they are written into a program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax._src.interpreters import mlir
from jax._src.lib.mlir.dialects import hlo

from callbax import _jax

_ATTRIBUTES = "mhlo.backend_config"  # where JAX (0.10 to 0.12) writes those of a call
_MAKERS = {str: mlir.ir.StringAttr.get, bool: mlir.ir.BoolAttr.get}


def emit(
    ctx: Any,
    target: str,
    operands: Sequence[Any],
    attributes: Mapping[str, Any],
    *,
    has_side_effect: bool,
) -> Any:
    """Writes a call of an FFI target; operands and results are as `ctx` says.

    JAX writes the first of its kind in a program. What does not depend on the callback (types, layouts,
    and so on) is taken from there for the others, as it takes longer to make than everything else.
    """
    known = _jax.known_of(ctx)
    values = {name: _attribute(known, value) for name, value in attributes.items()}
    key = "callbax", target, has_side_effect, tuple(ctx.avals_in), tuple(ctx.avals_out)
    if key not in known:
        build = jax.ffi.build_ffi_lowering_function(
            target, backend_config=values, has_side_effect=has_side_effect
        )
        operation = build(ctx, *operands)
        if len(operation.operands) == len(operands):  # symbolic shapes are operands, too
            known[key] = _parts_of(operation)
        return operation
    types, shared = known[key]
    return hlo.CustomCallOp.build_generic(
        results=types,
        operands=operands,
        attributes={**shared, _ATTRIBUTES: mlir.ir.DictAttr.get(values)},
    )


def _attribute(known: dict[Any, Any], value: Any) -> Any:
    make = _MAKERS.get(type(value))
    if make is None:
        return mlir.ir_attribute(value)
    key = "callbax attribute", type(value), value
    if (made := known.get(key)) is None:
        made = known[key] = make(value)
    return made


def _parts_of(operation: Any) -> tuple[list[Any], dict[str, Any]]:
    """Its results' types, and its attributes but for those of the target."""
    every = operation.operation.attributes
    # By position: what iterating over them gives depends on the version.
    named = [every[i] for i in range(len(every))]
    attributes = {each.name: each.attr for each in named if each.name != _ATTRIBUTES}
    return [result.type for result in operation.results], attributes
