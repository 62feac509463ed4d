"""The one gateway to JAX's private modules.

Everything that callbax needs from `jax._src` is imported here and nowhere else (a test and a lint
rule keep it so); where versions of JAX differ, the branch is here, with the version and the
reason. Tested with JAX 0.10.0, 0.10.2 and 0.12.0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import array as _array
from jax._src import callback as _callback  # the effect objects of pure and io callbacks
from jax._src import config as _config
from jax._src import core, debugging, dispatch, sharding_impls
from jax._src import dtypes as _dtypes
from jax._src import shard_map as _shard_map
from jax._src import tree_util as _tree_util
from jax._src.interpreters import ad, batching, mlir
from jax._src.interpreters import partial_eval as _partial_eval
from jax._src.lax import lax as _lax
from jax._src.state import discharge as _discharge
from jax._src.state.types import AbstractRef as _AbstractRef
from jax._src.state.types import TransformedRef as _TransformedRef

# -- effects -------------------------------------------------------------------------------------
# The very objects that JAX's own callbacks use: vmap of cond, while_loop's batching rule and Pallas'
# interpreter test for exactly these, and ordered callbacks of both libraries then share one order.
IO_EFFECT = _callback._IOEffect
ORDERED_IO_EFFECT = _callback._OrderedIOEffect
DEBUG_EFFECT = debugging.debug_effect
ORDERED_DEBUG_EFFECT = debugging.ordered_debug_effect
NO_EFFECTS = core.no_effects

# -- primitives and their rules --------------------------------------------------------------------
Primitive = core.Primitive
ShapedArray = core.ShapedArray
primitive_jvps = ad.primitive_jvps
primitive_transposes = ad.primitive_transposes
primitive_batchers = batching.primitive_batchers
move_axis = batching.moveaxis
unmapped_aval = core.unmapped_aval
apply_primitive = dispatch.apply_primitive
partial_eval_custom_rules = _partial_eval.partial_eval_jaxpr_custom_rules


def register_dead_code_rule(primitive: Any, rule: Callable[..., Any]) -> None:
    """Has `rule(used results, equation)` say which arguments are used, and what is left.

    JAX 0.12 says between the two which arguments hold what is read later; those of callbacks do.
    """
    _partial_eval.dce_rules[primitive] = lambda used, *rest: rule(used, rest[-1])


def is_zero_tangent(tangent: Any) -> bool:
    """Whether a tangent is zero by its kind: symbolically, or because its type has no other."""
    return isinstance(tangent, ad.Zero) or tangent.dtype == jax.dtypes.float0


zero_tangent = ad.p2tz
instantiate_zeros = ad.instantiate_zeros
is_undefined_primal = ad.is_undefined_primal


def is_weakly_typed(value: Any) -> bool:
    """Whether `value` has its type from a Python scalar."""
    return _dtypes.is_weakly_typed(value)


def convert_element_type(value: Any, dtype: Any) -> Any:
    """`value` as an array of that dtype, weakly typed if it was."""
    return _lax._convert_element_type(value, dtype, weak_type=is_weakly_typed(value))


def require_devices_in_lowering(primitive: Any) -> None:
    """Makes JAX tell the lowering rule which devices the program will run on (for `sharding=`)."""
    dispatch.prim_requires_devices_during_lowering.add(primitive)


def register_discharge(primitive: Any) -> None:
    """Lets `primitive` take Refs: it reads them and leaves them as they are.

    JAX 0.10 calls a discharge rule as `rule(in_avals, out_avals, *args)`, 0.11 and later as
    `rule(context, *args)`; the values are what follows. What is not a Ref has no new value.
    """
    if "in_avals" in inspect.signature(debugging._debug_print_state_discharge_rule).parameters:

        def rule(in_avals: Any, out_avals: Any, *args: Any, **params: Any) -> Any:
            return _refs_in(in_avals, args), primitive.bind(*args, **params)
    else:

        def rule(context: Any, *args: Any, **params: Any) -> Any:  # type: ignore[misc]
            return _refs_in(context.in_avals, args), primitive.bind(*args, **params)

    _discharge.register_discharge_rule(primitive)(rule)


def _refs_in(avals: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    return [
        value if isinstance(aval, _AbstractRef) else None
        for aval, value in zip(avals, values, strict=True)
    ]


def call_per_shard_when_eager(primitive: Any) -> None:
    """In an eager shard_map, applies a primitive without results to each device's values in turn.

    Without such a rule JAX compiles the call for all devices, where ordered effects are refused.
    """

    def rule(mesh: Any, *args: Any, **params: Any) -> Any:
        with core.eval_context():
            shards = [list(arg) for arg in args]
            # With `check_vma` an array has a shard for each position on the axes along which it varies.
            of_device = [arg.sharding.devices_indices_map(arg.shape) for arg in args]
            for device in _manual_part(mesh):
                places = [indices[device][0].start or 0 for indices in of_device]
                primitive.impl(*(s[i] for s, i in zip(shards, places, strict=True)), **params)
        return []

    _shard_map.eager_rules[primitive] = rule


def _manual_part(mesh: Any) -> list[Any]:
    """The devices at index 0 of the axes over which JAX's own partitioner works."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    part = [slice(None if name in manual else 1) for name in mesh.axis_names]
    return list(mesh.devices[tuple(part)].flat)


def consumes_no_keys(primitive: Any) -> None:
    """Tells `jax_debug_key_reuse` that to hand a key to `primitive` is not to draw from it.

    JAX says so of its own debug callbacks. The register is in a module that JAX imports once the
    check is enabled, and it takes several milliseconds, so this waits for that, too.
    """
    bind = primitive.bind

    def bind_after_registration(*args: Any, **params: Any) -> Any:
        if _config.debug_key_reuse.value:
            from jax.experimental.key_reuse import _core as key_reuse

            key_reuse.key_reuse_signatures.setdefault(primitive, key_reuse.KeyReuseSignature())
        return bind(*args, **params)

    primitive.bind = bind_after_registration


def flatten_with_refs(tree: Any) -> tuple[list[Any], Any]:
    """`jax.tree.flatten`, which also takes views of Refs (`ref.at[...]`) apart.

    From JAX 0.11 on these are not pytrees, but nodes of a registry of its own.
    """
    leaves, structure = jax.tree.flatten(tree)
    registry = getattr(_tree_util, "tracing_registry", None)
    if registry is not None and any(isinstance(leaf, _TransformedRef) for leaf in leaves):
        return registry.flatten(tree)  # type: ignore[no-any-return]
    return leaves, structure


def is_array_like(value: Any) -> bool:
    """Whether JAX can trace `value`; what it cannot trace, debug callbacks take as static."""
    try:
        core.shaped_abstractify(value)
    except (AssertionError, TypeError):
        return False
    return True


# -- lowering --------------------------------------------------------------------------------------
lower_fun = mlir.lower_fun
register_lowering = mlir.register_lowering
TokenSet = mlir.TokenSet
ABSTRACT_TOKEN = core.abstract_token
SPMDAxisContext = sharding_impls.SPMDAxisContext
ShardingContext = sharding_impls.ShardingContext


def device_count(ctx: Any) -> int:
    """Of the program that is being lowered."""
    context = ctx.module_context.axis_context
    if isinstance(context, SPMDAxisContext):
        return int(context.mesh.size)
    return int(context.num_devices) if isinstance(context, ShardingContext) else 1


def is_partitioned_automatically(ctx: Any) -> bool:
    """Whether the compiler distributes the program over several devices, at least in part."""
    context = ctx.module_context.axis_context
    by_hand = isinstance(context, SPMDAxisContext) and set(context.manual_axes) == set(
        context.mesh.axis_names
    )
    return device_count(ctx) > 1 and not by_hand


def run_on_first_index(
    axes: Sequence[Any], function: Callable[[], Any], avals: Sequence[Any]
) -> Any:
    """Inside a partly manual program: what `function` returns where all of `axes` have index 0."""

    def body() -> Any:
        index = jax.lax.axis_index(tuple(axes))
        nothing = [jax.numpy.zeros(aval.shape, aval.dtype) for aval in avals]
        results = jax.lax.cond(index == 0, lambda: function(), lambda: nothing)
        return [jax.lax.psum(result, tuple(axes)) for result in results]

    specs = [jax.sharding.PartitionSpec()] * len(avals)
    return _shard_map.shard_map(body, in_specs=(), out_specs=specs)()


def is_exporting(ctx: Any) -> bool:
    """Whether the program that is being lowered is for `jax.export`."""
    return bool(ctx.module_context.lowering_parameters.for_export)


def keep_alive(ctx: Any, item: Any) -> None:
    """Keeps `item` as long as the program being lowered can be compiled or called from Python.

    JAX exports no program that does. An Exported keeps the jaxpr, and so the parameters of its calls.
    """
    if not is_exporting(ctx):
        ctx.module_context.add_keepalive(item)


def has_results(ctx: Any) -> bool:
    """Whether the program being lowered returns anything; True if that cannot be seen."""
    known = known_of(ctx)
    if (found := known.get("callbax has results")) is None:
        found = known["callbax has results"] = all(
            len(operation.type.results) > 0
            for operation in ctx.module_context.module.body.operations
            if isinstance(operation, mlir.func_dialect.FuncOp) and operation.name.value == "main"
        )
    return bool(found)


def known_of(ctx: Any) -> dict[Any, Any]:
    """Where to keep what was found out about the program being lowered: as long as its module."""
    return getattr(ctx.module_context, "lowering_cache", {})


def _never_called() -> None:
    raise AssertionError("a host callback that stands for others was called")


def is_for_cuda(ctx: Any) -> bool:
    """Whether the program being lowered is for NVIDIA GPUs, and for nothing else."""
    return tuple(ctx.module_context.platforms) == ("cuda",)


def run_synchronously(ctx: Any) -> None:
    """Makes the program being lowered run to its end before the call of it returns.

    JAX does this for programs that have host callbacks of its own kind, so that is what is entered;
    nothing ever calls it. JAX 0.10 does not keep such a program in its cache, nor exports it. JAX
    does it only if the inputs are ready and on one device: see `runtime.Waits`. Programs for a GPU are
    dispatched by the thread that calls in any case.
    """
    if not is_exporting(ctx) and not is_for_cuda(ctx) and not ctx.module_context.host_callbacks:
        ctx.module_context.add_host_callback(_never_called)


# -- runtime ---------------------------------------------------------------------------------------
DeviceArray = _array.ArrayImpl  # what a jax.Array is outside of traces, keys apart


def is_plain(value: Any) -> bool:
    """Whether it is an array of numbers, or a number: not a key array, nor a Ref."""
    if type(value) is DeviceArray or isinstance(value, (np.ndarray, np.generic)):
        return not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)
    return type(value) in (bool, int, float, complex)


def to_numpy(value: Any) -> np.ndarray:
    """The array that a compiled program would hand to a callback for `value`."""
    array = np.asarray(key_data(value))
    return array.astype(canonical_dtype(array.dtype), copy=False)


def key_data(value: Any) -> Any:
    """The uint32 data of PRNG keys, as callbacks get them; anything else as it is."""
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(value)
    return value


def canonical_dtype(dtype: np.dtype) -> np.dtype:
    return jax.dtypes.canonicalize_dtype(dtype)


def to_inexact_dtype(dtype: np.dtype) -> np.dtype:
    """What JAX makes of a dtype where it needs a floating-point or complex one."""
    return canonical_dtype(np.dtype(_dtypes.to_inexact_dtype(dtype)))
