"""A batching rule of the user's: External.def_vmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from callbax._callbacks.results import check_callable

if TYPE_CHECKING:
    from callbax._external.call import Call

VmapRule = Callable[..., tuple[Any, Any]]


class VmapRules:
    """The method of an External that takes a batching rule."""

    vmap_rule: VmapRule | None = None
    where: str

    def def_vmap(self, rule: VmapRule) -> VmapRule:
        """Defines what `vmap` does, in the place of `vmap_method`, as `jax.custom_batching` has it.

        Under nested `vmap` the rule itself is batched, so calls of the function in it come here again.
        Derivatives are around the rule: those of the function hold. `call_where` does not use it, as
        the rule knows nothing of live lanes. Serves as a decorator.

        Args:
          rule: `rule(axis_size, in_batched, *args)`, JAX-traceable, returns `(out, out_batched)`.
            `in_batched` has the structure of `args`, with True for arrays that have the batch as
            their leading axis, and None in the place of static leaves; `out_batched` has the
            structure of `out`, or is one bool for all. Static keyword-only arguments are passed by
            name.

        Raises:
          TypeError, ValueError: when a batch is traced, and the rule's result does not fit; an array
            is passed by keyword only.

        >>> import jax, jax.numpy as jnp, numpy as np, callbax as cb
        >>> total = cb.external(np.sum, result=jax.ShapeDtypeStruct((), np.float32))
        >>> @cb.external(result=lambda x: jax.ShapeDtypeStruct(x.shape[:1], x.dtype))
        ... def row_totals(x):
        ...     return np.sum(x, axis=1)
        >>> @total.def_vmap
        ... def rule(axis_size, in_batched, x):
        ...     return row_totals(x), True
        >>> jax.vmap(total)(np.ones((3, 5), np.float32))
        Array([5., 5., 5.], dtype=float32)
        """
        check_callable("def_vmap", rule)
        self.vmap_rule = rule
        return rule


def apply(
    call: Call, rule: VmapRule, function: Callable[..., list[Any]], leaves: Sequence[Any]
) -> list[Any]:
    """`function(*leaves)`, which `vmap` replaces by the rule; flat results."""

    def batched(axis_size: int, in_batched: Any, *leaves: Any) -> Any:
        args, kwargs = call.structure.unflatten(leaves)
        flags, named_flags = call.structure.unflatten_without_static(in_batched)
        if jax.tree.leaves(named_flags):
            raise TypeError(
                f"{call.where} has a rule for vmap (def_vmap), which gets arrays by position only, but "
                f"the keyword-only arguments {sorted(named_flags)} hold arrays; make them positional"
            )
        returned = rule(axis_size, flags, *args, **kwargs)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(
                f"the rule for vmap (def_vmap) of {call.where} must return (out, out_batched), but "
                f"returned {returned!r}"
            )
        return _checked(call, axis_size, *returned)

    mapped = jax.custom_batching.custom_vmap(function)
    mapped.def_vmap(batched)
    return mapped(*leaves)


def _checked(call: Call, axis_size: int, out: Any, out_batched: Any) -> tuple[Any, Any]:
    leaves, tree = jax.tree.flatten(out)
    who = f"the rule for vmap (def_vmap) of {call.where}"
    if tree != call.result_tree:
        raise TypeError(
            f"{who} returned the structure {tree}, but the result has {call.result_tree}"
        )
    flags = [out_batched] * len(leaves)
    if not isinstance(out_batched, bool):
        flags, flags_tree = jax.tree.flatten(out_batched)
        if flags_tree != tree:
            raise TypeError(
                f"{who} returned out_batched of the structure {flags_tree}, but out has {tree}"
            )
    for i, (leaf, flag, struct) in enumerate(zip(leaves, flags, call.result_structs, strict=True)):
        shape = (axis_size, *struct.shape) if flag else struct.shape
        if jnp.shape(leaf) != shape or jnp.result_type(leaf) != struct.dtype:
            raise ValueError(
                f"{who} returned result {i} of shape {jnp.shape(leaf)} and dtype "
                f"{jnp.result_type(leaf)}, but {shape} and {struct.dtype} are expected where "
                f"out_batched is {bool(flag)}"
            )
    return [jnp.asarray(leaf) for leaf in leaves], [bool(flag) for flag in flags]
