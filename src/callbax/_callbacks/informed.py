"""Informed: a host function that learns on which device it is called, and how vmap batched it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from jax.tree_util import treedef_tuple

from callbax import _jax
from callbax._host import names
from callbax._host.call import HostCall
from callbax._host.function import Hashable
from callbax._host.structure import Structure
from callbax._jax import host_callback as gateway
from callbax._runtime.errors import describe_function
from callbax._runtime.wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class Informed(Wrapper):
    """A host function of arrays, or of one pytree of them, with what it is told besides.

    Attributes:
      func: the user's function.
      with_device: whether it gets the device, as `device=`.
      device_index: which device of a program that is distributed automatically calls it.
      devices: known once the program is lowered. The device that calls; or, where each of several
        does, all of them, and then the number of the one that calls is an argument in front.
      device_is_optional: it is called without a device where that is not known.
      is_conditional: its first array says whether it is called at all: if any element is true.
    """

    device_is_optional: ClassVar[bool] = False

    func: Hashable
    with_device: bool
    device_index: int
    devices: tuple[jax.Device, ...] = dataclasses.field(default=(), kw_only=True)
    is_conditional: bool = dataclasses.field(default=False, kw_only=True)

    @property
    def description(self) -> str:
        return describe_function(self.func.value)

    def __str__(self) -> str:
        return self.description

    def batched(self, dims: tuple[int | None, ...]) -> Informed:
        """What is called for a batch with these axes, one for each array; None has none.

        Raises:
          NotImplementedError: it is not called for batches.
        """
        raise NotImplementedError(
            f"`vmap` has reached the call of {self.description}, which takes no batches. Use "
            "callbax.pure_callback or callbax.external with a vmap_method, or jax.lax.map over the batch."
        )

    def device(self, number: Any = 0) -> jax.Device:
        """The device with that number."""
        return self.devices[int(number)]


def lower(
    primitive: Any,
    rule: Callable[..., Any],
    ctx: Any,
    *operands: Any,
    host_call: HostCall,
    **params: Any,
) -> Any:
    """Lowers a call of an Informed by `rule`, that of its flavour, once its device is known."""
    # The calls that are made here, of functions that know it, are not in the jaxpr.
    with names.exports_kept_by(host_call.function):
        return _lower(primitive, rule, ctx, *operands, host_call=host_call, **params)


def _lower(
    primitive: Any,
    rule: Callable[..., Any],
    ctx: Any,
    *operands: Any,
    host_call: HostCall,
    **params: Any,
) -> Any:
    informed: Any = host_call.function
    if informed.is_conditional:
        always = host_call.with_function(dataclasses.replace(informed, is_conditional=False))
        return _lower_if_any(partial(primitive.bind, host_call=always, **params), ctx, *operands)
    devices = gateway.devices_of(ctx)
    if informed.devices or (informed.device_is_optional and not _knows_device(ctx, devices)):
        return rule(ctx, *operands, host_call=host_call, **params)
    if devices.each_calls:
        if not informed.with_device:
            return rule(ctx, *operands, host_call=host_call, **params)
        known = _known(devices, informed)
        args, kwargs = host_call.structure.tree.children()
        number = jax.tree.structure(0)
        structure = Structure(treedef_tuple((treedef_tuple((number, *args.children())), kwargs)))
        numbered = host_call.with_function(dataclasses.replace(informed, devices=known), structure)
        with_number = partial(rule, host_call=numbered, **params)
        return gateway.lower_with_device_number(with_number, ctx, *operands)
    if informed.with_device or informed.device_index:
        known = _known(devices, informed)
        if informed.device_index >= len(known):
            raise ValueError(
                f"device_index={informed.device_index} of {informed.description} is not the number of a "
                f"device: the program runs on {len(known)}, which are numbered from 0"
            )
        device = known[informed.device_index]
        host_call = host_call.with_function(dataclasses.replace(informed, devices=(device,)))
        if len(known) > 1:
            params["sharding"] = SingleDeviceSharding(device)
    return rule(ctx, *operands, host_call=host_call, **params)


def _lower_if_any(call: Callable[..., Any], ctx: Any, *operands: Any) -> Any:
    """The call under a condition: its first operand, or any element of it."""

    def conditional(condition: Any, *others: Any) -> Any:
        # Without lanes it is known where the call is made; XLA would compute it a second time.
        any_lane, live = (condition.any(), condition) if condition.ndim else (condition, np.True_)
        jax.lax.cond(any_lane, lambda: call(live, *others), lambda: [])
        return []

    return _jax.lower_fun(conditional)(ctx, *operands)


def _knows_device(ctx: Any, devices: gateway.Devices) -> bool:
    """Whether the program can say which device calls; one that is partly manual cannot."""
    partly = devices.each_calls and _jax.is_partitioned_automatically(ctx)
    return devices.all is not None and not partly


def _known(devices: gateway.Devices, informed: Informed) -> tuple[jax.Device, ...]:
    if devices.all is None:
        raise NotImplementedError(
            f"{informed.description} asks for its device, which is not known where this program is "
            "lowered, perhaps for an abstract mesh. Omit tap_with_device, "
            "call_with_device and device_index, or compile the program for devices."
        )
    return devices.all
