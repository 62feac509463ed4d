"""What `callbax.host_callback` needs of JAX: an effect, the devices of a program, the layout of text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax._src import core, effects, sharding_impls
from jax._src import pretty_printer as _pretty_printer
from jax._src.interpreters import ad
from jax._src.lib.mlir.dialects import hlo

# -- the effect ------------------------------------------------------------------------------------


class HostCallbackEffect(effects.Effect):
    """The effect of taps and calls: ordered on each device, and allowed wherever they were.

    It is not that of ordered IO, which JAX refuses in checkpointed functions and in custom
    derivatives, nor that of ordered debug callbacks, which it refuses on several devices.
    """

    def __str__(self) -> str:
        return "HostCallback"

    def __eq__(self, other: object) -> bool:
        return type(other) is HostCallbackEffect

    def __hash__(self) -> int:
        return hash(HostCallbackEffect)


HOST_CALLBACK_EFFECT = HostCallbackEffect()
for _allowed in (
    effects.lowerable_effects,
    effects.ordered_effects,
    effects.shardable_ordered_effects,
    effects.control_flow_allowed_effects,
    effects.remat_allowed_effects,
    effects.custom_derivatives_allowed_effects,
    getattr(effects, "partial_eval_kept_effects", effects.EffectTypeSet()),
):
    _allowed.add_type(HostCallbackEffect)

# -- devices ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Devices:
    """Those on which a program runs.

    Attributes:
      all: in the program's order; None if it is not known, as in a program that is exported.
      each_calls: whether each runs the call on its own values, and not one for all.
    """

    all: tuple[jax.Device, ...] | None
    each_calls: bool


def devices_of(ctx: Any) -> Devices:
    """The devices of the program that is being lowered."""
    context = ctx.module_context.axis_context
    if not isinstance(context, sharding_impls.SPMDAxisContext):
        return Devices(getattr(context, "device_assignment", None), each_calls=False)
    mesh = context.mesh
    known = tuple(mesh.devices.flat) if isinstance(mesh, jax.sharding.Mesh) else None
    return Devices(known, each_calls=mesh.size > 1)


def lower_with_device_number(rule: Callable[..., Any], ctx: Any, *operands: Any) -> Any:
    """Lowers by a rule that takes one more operand, in front: which of the devices this is."""
    number = core.ShapedArray((), np.dtype(np.uint32))
    with_number = dataclasses.replace(ctx, avals_in=[number, *ctx.avals_in])
    results = rule(with_number, hlo.PartitionIdOp().result, *operands)
    ctx.set_tokens_out(with_number.tokens_out)
    return results


# -- linear functions ------------------------------------------------------------------------------
def define_identity(primitive: Any, transpose: Callable[..., Any]) -> None:
    """Makes `primitive` return its operands, of which tangents pass by.

    Args:
      primitive: a primitive; it needs a batching rule besides.
      transpose: called with the cotangents, zeros written out, and its parameters; returns those of
        the operands.
    """
    primitive.multiple_results = True
    primitive.def_impl(lambda *values, **_: [jax.numpy.asarray(value) for value in values])
    primitive.def_abstract_eval(lambda *avals, **_: avals)
    ad.primitive_jvps[primitive] = lambda primals, tangents, **params: (
        primitive.bind(*primals, **params),
        tangents,
    )

    def rule(cotangents: Any, *operands: Any, **params: Any) -> Any:
        passed = transpose(*map(ad.instantiate_zeros, cotangents), **params)
        return [
            cotangent if ad.is_undefined_primal(operand) else None
            for cotangent, operand in zip(passed, operands, strict=True)
        ]

    ad.primitive_transposes[primitive] = rule


# -- text ------------------------------------------------------------------------------------------
def layout(value: Any, show: Callable[[Any], str]) -> str:
    """A pytree in at most 80 columns where possible, as `id_print` shows it: `( 6. { a=9. } )`."""
    return _document(value, show).format(width=80, use_color=False)


def _document(value: Any, show: Callable[[Any], str]) -> _pretty_printer.Doc:
    if isinstance(value, tuple):
        return _enclosed("( ", value, " )", show)
    if isinstance(value, list):
        return _enclosed("[ ", value, " ]", show)
    if isinstance(value, dict):
        return _enclosed("{ ", dict(sorted(value.items())), " }", show)
    return _pretty_printer.text(show(value))


def _enclosed(opening: str, values: Any, closing: str, show: Callable[[Any], str]) -> Any:
    named = isinstance(values, Mapping)
    names = [f"{name}=" for name in values] if named else [""] * len(values)
    items = [
        _pretty_printer.text(name) + _document(value, show)
        for name, value in zip(names, values.values() if named else values, strict=True)
    ]
    inside = _pretty_printer.nest(2, _pretty_printer.join(_pretty_printer.brk(), items))
    parts = [_pretty_printer.text(opening), inside, _pretty_printer.text(closing)]
    return _pretty_printer.group(_pretty_printer.concat(parts))
