"""Self-tests of the host function and of its values under JAX's transformations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from callbax._check.samples import Sample, difference
from callbax._host.call import HostCall
from callbax._host.results import convert_results


def on_host(sample: Sample, leaves: Sequence[np.ndarray] | None = None) -> Any:
    """Calls the host function itself, as its options say; on copies of the example by default."""
    call, structs = _host_call(sample)
    outs = [] if call.out is None else [np.zeros(s.shape, s.dtype) for s in structs]
    value = call.call([*(sample.copies() if leaves is None else leaves), *outs])
    return value if call.out is None else jax.tree.unflatten(call.out, outs)


def _host_call(sample: Sample) -> tuple[HostCall, list[jax.ShapeDtypeStruct]]:
    """The call of the host function, and what its results must be."""
    structs, result = jax.tree.flatten(jax.eval_shape(sample.call, *sample.leaves))
    function = sample.function.definition.host_function
    return HostCall.of(function, sample.structure, result), structs


def result_fits(sample: Sample) -> str:
    """The host function returns what `result=` or `signature=` says."""
    call, structs = _host_call(sample)
    shapes = [struct.shape for struct in structs]
    dtypes = [np.dtype(struct.dtype) for struct in structs]
    value = on_host(sample)
    convert_results(call, value, shapes, dtypes, not jax.config.jax_enable_x64, call.casting)
    sample.seen.append(_copied(value))
    return ""


def inputs_unmodified(sample: Sample) -> str:
    """The host function does not write to its arguments."""
    given = sample.copies()
    sample.seen.append(_copied(on_host(sample, given)))
    for name, before, after in zip(sample.names, sample.leaves, given, strict=True):
        if found := difference(after, before, 0):
            return f"it wrote to {name}: {found}; work on a copy"
    return ""


def same_outputs(sample: Sample) -> str:
    """The same arguments give the same results, however often it is called."""
    sample.seen.append(_copied(on_host(sample)))
    for value in (*sample.seen[1:], on_host(sample)):
        if found := difference(value, sample.seen[0], 0):
            return f"another call with the same arguments gave {found}"
    return ""


def _copied(value: Any) -> list[np.ndarray]:
    return [np.array(leaf) for leaf in jax.tree.leaves(value)]


def jit_agrees(sample: Sample) -> str:
    """Eager, compiled and direct calls give the same values."""
    expected = on_host(sample)
    narrowed = jax.tree.map(np.asarray, sample.call(*sample.leaves))
    if found := _unlike_host(narrowed, expected):
        return f"called eagerly: {found}"
    if found := difference(jax.jit(sample.call)(*sample.leaves), narrowed, 0):
        return f"under jit: {found}"
    return ""


def _unlike_host(values: Any, expected: Any) -> str:
    """Compares with the host's own results, which may be of wider dtypes."""
    leaves = jax.tree.leaves(values)
    wide = [
        np.asarray(host).astype(leaf.dtype)
        for host, leaf in zip(jax.tree.leaves(expected), leaves, strict=True)
    ]
    return difference(leaves, wide, 0)


def vmap_agrees(sample: Sample) -> str:
    """A batch gives what a loop over its lanes gives, whichever arguments have lanes."""
    tolerance = rounding(sample)
    for batched in _choices(len(sample.leaves)):
        leaves = [sample.lanes(i) if i in batched else x for i, x in enumerate(sample.leaves)]
        axes = [0 if i in batched else None for i in range(len(leaves))]
        actual = jax.vmap(sample.call, axes)(*leaves)
        expected = _loop(sample.call, leaves, axes)
        if found := difference(actual, expected, tolerance):
            which = ", ".join(sample.names[i] for i in batched)
            return (
                f"vmap over {which} (vmap_method={sample.function.options.vmap_method!r}): {found}"
            )
    return ""


def nested_vmap_agrees(sample: Sample) -> str:
    """Two batch dimensions, in either order, give what loops give."""
    first, *others = range(len(sample.leaves))
    outer = others or [first]
    leaves = [sample.lanes(i) for i in range(len(sample.leaves))]
    inner_axes = [0 if i == first else None for i in range(len(leaves))]
    outer_axes = [0 if i in outer else None for i in range(len(leaves))]
    if not others:
        leaves[first] = np.stack([leaves[first], leaves[first][::-1]])
    nested = jax.vmap(jax.vmap(sample.call, inner_axes), outer_axes)(*leaves)
    expected = _loop(lambda *row: _loop(sample.call, row, inner_axes), leaves, outer_axes)
    return difference(nested, expected, rounding(sample))


def scan_agrees(sample: Sample) -> str:
    """`lax.scan` over lanes gives what a loop gives."""
    leaves = [sample.lanes(i) for i in range(len(sample.leaves))]
    _, actual = jax.lax.scan(lambda carry, lane: (carry, sample.call(*lane)), None, leaves)
    return difference(actual, _loop(sample.call, leaves, [0] * len(leaves)), 0)


def rounding(sample: Sample) -> float:
    """A batched routine may add in another order than a single one: some bits are let go."""
    dtypes = [leaf.dtype for leaf in sample.leaves]
    precise = all(np.dtype(d).itemsize >= 8 for i, d in enumerate(dtypes) if i in sample.floating)
    return 1e-10 if precise else 1e-4


def _choices(count: int) -> list[tuple[int, ...]]:
    """Each argument alone, and all together."""
    everything = tuple(range(count))
    return list(dict.fromkeys([*((i,) for i in everything), everything]))


def _loop(function: Callable[..., Any], leaves: Sequence[Any], axes: Sequence[int | None]) -> Any:
    lanes = []
    for lane in range(next(len(x) for x, axis in zip(leaves, axes, strict=True) if axis == 0)):
        one = [x[lane] if axis == 0 else x for x, axis in zip(leaves, axes, strict=True)]
        lanes.append(jax.tree.map(np.asarray, function(*one)))
    return jax.tree.map(lambda *parts: np.stack(parts), *lanes)
