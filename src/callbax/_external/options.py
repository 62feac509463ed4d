"""The options of an external function, checked once, when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, get_args

import jax
import jax.numpy as jnp
import numpy as np

from callbax._callbacks.results import has_shape, without_shape
from callbax._external import results
from callbax._external.differences import parse_step
from callbax._external.executors import ExecutorSlot
from callbax._external.signature import Signature, parse
from callbax._host import libraries
from callbax._typing import HostVmapMethod

Effects = Literal["none", "io", "ordered", "debug", "ordered_debug"]
Derivative = Literal["central", "forward", "complex_step", "torch"]

_CHOICES = {
    "effects": get_args(Effects),
    "arrays": libraries.NAMES,
    "vmap_method": get_args(HostVmapMethod),
    "derivative": get_args(Derivative),
    "per_shard": (False, True),
    "device": (False, True),
}

ORDERED = ("ordered", "ordered_debug")  # the effects= whose calls keep the program's order


class _Missing:
    def __repr__(self) -> str:
        return "<not given>"


MISSING: Any = _Missing()


class Keywords(TypedDict, total=False):
    """The keywords of `callbax.external`, for its overloads."""

    result: Any  # any string, too: there is no type of pytrees that str is not of
    signature: str | None
    dtype: Any
    vmap_method: HostVmapMethod | None
    executor: Any
    effects: Effects
    derivative: Derivative | None
    step: Any
    per_shard: bool
    zero_copy: bool
    out: bool
    arrays: libraries.Arrays
    device: bool
    name: str | None


@dataclasses.dataclass(frozen=True)
class Options:
    """What `callbax.external` was told, in the form that the rest of the code uses.

    Attributes:
      result: gives the result's structs from the abstract arguments; None for no result.
      signature: the gufunc signature, or None.
      executor: where calls go; None for the threads that call.
      elementwise: each element of the result depends on the same element of the arguments alone.
    """

    result: results.Result | None
    signature: Signature | None
    elementwise: bool
    vmap_method: str
    executor: ExecutorSlot | None
    effects: str
    derivative: str | None
    step: tuple[float, float] | None
    per_shard: bool
    zero_copy: bool
    out: bool
    arrays: str
    device: bool
    name: str | None

    @property
    def observes(self) -> bool:
        """Whether calls only look on, so that derivatives pass them by."""
        return self.effects in ("debug", "ordered_debug")

    @property
    def whole_batch(self) -> bool:
        """Whether one call of the host function takes all lanes of a batch."""
        return self.executor is None and self.vmap_method in ("expand_dims", "broadcast_all")


def make_options(
    where: str,
    *,
    result: Any,
    signature: str | None,
    dtype: Any,
    vmap_method: str | None,
    executor: Any,
    step: Any,
    **plain: Any,
) -> Options:
    """Checks and combines the keywords of `callbax.external`; `where` describes the function."""
    effects, derivative, out = plain["effects"], plain["derivative"], plain["out"]
    for option, value in {**plain, "vmap_method": vmap_method}.items():
        is_default = value is None and option in ("vmap_method", "derivative")
        if option in _CHOICES and not is_default:
            _check_choice(where, option, value, _CHOICES[option])
    elementwise = isinstance(result, str) and result == "broadcast"
    parsed = None if signature is None else parse(signature)
    rule = _result_rule(where, result, parsed, dtype)
    if rule is None and effects == "none":
        raise ValueError(
            f"external function {where} has result=None and effects='none', so that nothing would "
            "ever run it; say effects='io', 'ordered', 'debug' or 'ordered_debug', or give it a "
            "result"
        )
    if isinstance(rule, results.Trial) and (effects != "none" or out):
        raise ValueError(
            f"external function {where} has result=callbax.infer, which calls it once more than the "
            "program does and without out=; with effects or out=True, give the result as a struct or "
            "as a function of the arguments"
        )
    _check_arrays(where, plain, vmap_method, executor, is_trial=isinstance(rule, results.Trial))
    if executor is not None and vmap_method is not None:
        raise ValueError(
            f"external function {where} has executor= and vmap_method={vmap_method!r}, but with an "
            "executor each lane is a call of its own there; omit vmap_method="
        )
    if derivative is not None and effects != "none":
        raise ValueError(
            f"external function {where} has effects={effects!r}, so it has no derivative: the "
            "transformed program would run it another number of times"
        )
    if plain["per_shard"] and effects in ORDERED:
        raise ValueError(
            f"external function {where} has per_shard=True and effects={effects!r}, but the devices of a "
            "program call at the same time, and there is no order across them; use effects='io'"
        )
    if step is not None and derivative in (None, "torch"):
        raise ValueError(
            f"external function {where}: step= goes with a numerical derivative=, whose steps it sets"
        )
    libraries.check_installed(plain["arrays"], f"external function {where}")
    return Options(
        result=rule,
        signature=parsed,
        elementwise=elementwise,
        vmap_method=vmap_method or ("expand_dims" if elementwise else "sequential"),
        executor=None if executor is None else ExecutorSlot(executor, where),
        step=parse_step(where, step),
        **plain,
    )


def _check_arrays(
    where: str, options: dict[str, Any], vmap_method: str | None, executor: Any, *, is_trial: bool
) -> None:
    """Refuses options that contradict the library whose arrays the function gets."""
    arrays, on_device, derivative = options["arrays"], options["device"], options["derivative"]

    def refuse(what: str) -> None:
        raise ValueError(f"external function {where} {what}")

    if arrays == "jax" and (options["zero_copy"] or options["out"]):
        refuse(
            "hands over NumPy views of XLA's memory (zero_copy=True, out=True), but arrays='jax' makes "
            "arrays of its own; choose one"
        )
    if options["zero_copy"] and arrays != "numpy":
        refuse(
            f"has zero_copy=True, which is for NumPy arrays; with arrays={arrays!r}, device=True hands "
            "over XLA's own memory"
        )
    if on_device and arrays in ("numpy", "jax"):
        refuse(
            f"has device=True, but arrays={arrays!r} are on the host; choose the library that computes "
            f"on the device ({_on_device()}), or, for NumPy without a copy, zero_copy=True"
        )
    if arrays in libraries.ON_GPU_ONLY and not on_device:
        refuse(f"has arrays={arrays!r}, whose arrays are in a GPU's memory; add device=True")
    if arrays in libraries.ON_GPU_ONLY and is_trial:
        refuse(
            f"has result=callbax.infer, which calls it on the host, but arrays={arrays!r} are in a "
            "GPU's memory; give the result as a struct or as a function of the arguments"
        )
    if on_device and (executor is not None or vmap_method == "threads"):
        refuse(
            "has device=True, so its calls belong to one thread and one stream, but executor= and "
            "vmap_method='threads' run them elsewhere; omit one of the two"
        )
    if derivative == "torch" and (arrays != "torch" or options["out"]):
        refuse(
            "has derivative='torch', which differentiates a function of tensors that returns tensors; "
            "say arrays='torch', without out=True"
        )


def _on_device() -> str:
    return ", ".join(repr(name) for name in libraries.NAMES if name not in ("numpy", "jax"))


def _check_choice(where: str, option: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise ValueError(
            f"external function {where}: {option}={value!r} is not one of {', '.join(map(repr, choices))}"
        )


_RESULTS = (
    "a struct or a pytree of structs, a function of the abstract arguments, 'broadcast', "
    "callbax.like(i), callbax.infer, or None"
)


def _result_rule(
    where: str, result: Any, signature: Signature | None, dtype: Any
) -> results.Result | None:
    dtypes = None if dtype is None else _dtypes(where, dtype, signature)
    declared = None if result is MISSING else _declared(where, result, dtypes)
    if signature is None:
        if result is MISSING:
            raise TypeError(
                f"external function {where} needs result=: {_RESULTS}; or a signature= such as "
                "'(n,k),(k)->(n)'"
            )
        if dtypes is not None and not isinstance(declared, results.Broadcast):
            raise TypeError(
                f"external function {where}: dtype= goes with signature= or result='broadcast'; here "
                "result= says the dtype"
            )
        return declared
    if declared is not None and dtypes is not None:
        raise TypeError(f"external function {where}: give result= or dtype=, not both")
    if declared is None and signature.unknown_outputs:
        raise ValueError(
            f"external function {where}: the signature {signature} has the result dimensions "
            f"{', '.join(signature.unknown_outputs)}, which no argument has; write their sizes as "
            "numbers, or give result= as a function of the arguments"
        )
    return results.BySignature(signature, dtypes, declared)


def _declared(where: str, result: Any, dtypes: Any) -> results.Result | None:
    if result is None:
        return None
    if isinstance(result, str):
        if result != "broadcast":
            raise ValueError(f"external function {where}: result={result!r} is not {_RESULTS}")
        return results.Broadcast(None if dtypes is None else dtypes[0])
    if isinstance(result, results.Like):
        return result
    if result is results.infer:
        return results.Trial()
    if result is results.like:
        raise TypeError(
            f"external function {where}: result=callbax.like lacks the argument that the result is like, "
            "as in callbax.like(0)"
        )
    is_type = isinstance(result, type)
    if isinstance(result, Callable) and not is_type and not hasattr(result, "shape"):  # type: ignore[arg-type]
        return results.Computed(result)
    for leaf in jax.tree.leaves(result):
        if not has_shape(leaf):
            raise without_shape(leaf, where, "result=")
    return results.Given(result)


def _dtypes(where: str, dtype: Any, signature: Signature | None) -> tuple[np.dtype, ...]:
    count = 1 if signature is None else len(signature.outputs)
    given = dtype if isinstance(dtype, (tuple, list)) else (dtype,) * count
    if len(given) != count:
        raise ValueError(
            f"external function {where}: dtype= names {len(given)} dtypes for {count} results"
        )
    return tuple(np.dtype(jnp.dtype(d)) for d in given)
