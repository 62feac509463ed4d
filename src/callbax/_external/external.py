"""callbax.external: a host function that knows its result, its batching and its derivatives."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Generic, Never, Unpack, overload

import jax
import jax.numpy as jnp

from callbax._callbacks.results import check_callable
from callbax._external import masks
from callbax._external.call import Call, Definition
from callbax._external.executors import ExecutorSlot
from callbax._external.host import eager_call, on_host
from callbax._external.host_code import offer_rules
from callbax._external.host_rules import rules_of
from callbax._external.options import MISSING, Keywords, Options, make_options
from callbax._external.results import Arguments
from callbax._external.rule_methods import RuleMethods
from callbax._external.rules import inexact_only
from callbax._external.signature import Shape, broadcast, equalise_ranks, over_batch
from callbax._external.transposes import TransposeRule
from callbax._host.structure import flatten, positional_parameters, signature_of
from callbax._host.trust import OptIn
from callbax._jax import frames, per_shard
from callbax._runtime.errors import describe_function
from callbax._runtime.wrapper import Wrapper
from callbax._typing import P, R, Values


class External(RuleMethods, Wrapper, Generic[P, R]):
    """A host function as a JAX function; `callbax.external` makes it.

    It has the name, the docstring and the signature of the host function. Two are equal if they wrap
    the same function with equal options and derivatives.

    >>> import callbax
    >>> float(callbax.external(lambda x: 2 * x, result="broadcast")(1.5))
    3.0
    """

    def __init__(self, function: Callable[..., Any], options: Options):
        self._signature = signature_of(function, without_out=options.out)
        self.definition = Definition(
            function,
            options,
            describe_function(function),
            parameters=tuple(positional_parameters(self._signature)),
            rules=rules_of(function, options),
        )
        self._offers = offer_rules(self.definition)
        # Programs of other processes find the function by its name, also before the first call.
        self._named = self.definition.host_function
        self._opt_in = OptIn(function)
        slot = options.executor
        self._executor_offer = slot and slot.offer(function, options.name)
        functools.update_wrapper(self, function, updated=())
        if self._signature is not None:
            self.__signature__ = self._signature

    @property
    def description(self) -> str:
        return self.definition.description

    @property
    def function(self) -> Callable[..., Any]:
        """The host function."""
        return self.definition.function

    @property
    def host_function(self) -> Callable[..., Any]:
        return self.function

    @property
    def options(self) -> Options:
        """What `callbax.external` was told."""
        return self.definition.options

    # What declares no result fits Never, too. JAX's arrays go where NumPy's are declared.
    @overload
    def __call__(self: External[..., Never], /, *args: Any, **kwargs: Any) -> Any: ...
    @overload
    def __call__(self: External[P, Values], /, *args: P.args, **kwargs: P.kwargs) -> jax.Array: ...
    @overload
    def __call__(self: External[..., Values], /, *args: Any, **kwargs: Any) -> jax.Array: ...
    @overload
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any: ...
    @frames.api_boundary
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the host function; arguments are pytrees of arrays and of static values."""
        if (eager := eager_call(type(self), self.definition, args, kwargs)) is not None:
            return eager()
        return self._call(masks.current(), args, kwargs)[0]

    @frames.api_boundary
    def call_where(self, mask: Any, /, *args: Any, otherwise: Any = 0, **kwargs: Any) -> Any:
        """Calls the host function where `mask` holds; elsewhere the result is `otherwise`.

        JAX computes all lanes of a batch, also those whose result is not used: those of the other
        branch of a `cond`, those in which a `while_loop` has ended. Here the host sees live lanes
        only, for every vmap_method and executor; if there is none, it is not called at all. A function
        that handles whole batches (vmap_method "expand_dims" or "broadcast_all") gets the live
        lanes of a batch stacked in one leading dimension. Derivatives are zero in dead lanes, and
        the host calls of derivatives see live lanes only, too.

        Args:
          mask: a boolean scalar (for each lane, under `vmap`); with a signature, or if the result is
            "broadcast", an array that broadcasts with the arguments' batch dimensions.
          *args, **kwargs: as for a call.
          otherwise: a pytree like the result, or one value for all of its leaves. 0 fits any dtype.

        Raises:
          TypeError: the mask is not boolean; `otherwise` does not fit the result.

        >>> import jax, numpy as np, callbax as cb
        >>> root = cb.external(np.sqrt, result="broadcast")
        >>> x = np.float32([4, -1, 9])
        >>> jax.vmap(lambda x: root.call_where(x > 0, x, otherwise=-1))(x)
        Array([ 2., -1.,  3.], dtype=float32)
        """
        where = self.definition.description
        mask = masks.both(masks.check_mask(mask, where), masks.current())
        result, batch = self._call(mask, args, kwargs)
        return masks.select(mask, result, otherwise, len(batch), where)

    def _call(self, mask: Any, args: Any, kwargs: Any) -> tuple[Any, Shape]:
        """The result, and its batch dimensions. `mask` is None where every lane is live."""
        definition, options, where = self.definition, self.options, self.description
        structure, leaves = flatten(self.function, self._signature, args, kwargs)
        names = tuple(structure.names(definition.parameters))
        if options.elementwise:
            leaves = equalise_ranks(leaves)
            if options.per_shard:  # a device's parts of all arrays belong together
                shape = broadcast(list(map(jnp.shape, leaves)), names, where)
                leaves = per_shard.spread(leaves, shape)
        avals = [jax.typeof(leaf) for leaf in leaves]
        shapes = [aval.shape for aval in avals]
        batches = masks.batch_shapes(definition, shapes, names, mask)
        structs = tuple(
            jax.ShapeDtypeStruct(aval.shape[len(own) :], jax.dtypes.canonicalize_dtype(aval.dtype))
            for aval, own in zip(avals, batches, strict=True)
        )
        weak = tuple(bool(aval.weak_type) for aval in avals)
        arguments = Arguments(definition.result_function, where, structure, structs, weak, names)
        result = None if options.result is None else options.result(arguments)
        call = Call.of(definition, structure, structs, result, masked=mask is not None)
        apply = functools.partial(_apply, call)
        if call.masked:
            leaves, batches = [mask, *leaves], [jnp.shape(mask), *batches]
            names = ("the mask of call_where", *names)
            apply = functools.partial(masks.apply, call, _apply)
        batch = broadcast(batches, names, f"{where}, before their core dimensions,")
        results = over_batch(apply, leaves, batches, batch)
        return jax.tree.unflatten(call.result_tree, results), batch

    @property
    def executor(self) -> Executor:
        """The executor that was given; assign another to replace it, also in compiled programs."""
        return self._executor_slot().get()

    @executor.setter
    def executor(self, executor: Executor | Callable[[], Executor]) -> None:
        self._executor_slot().replace(executor)

    def _executor_slot(self) -> ExecutorSlot:
        if self.options.executor is None:
            raise AttributeError(
                f"{self.definition.description} was made without executor=; no other can be assigned"
            )
        return self.options.executor

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method, the instance is the first argument, as it is for functions."""
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        rules = "".join(f", {rule.name}" for rule in self.definition.rules)
        return f"<callbax.external {self.definition.description}{rules}>"

    def __eq__(self, other: object) -> bool:
        return self is other or isinstance(other, External) and self.definition == other.definition

    def __hash__(self) -> int:
        return hash(self.definition)  # stays as it is when rules are added


@overload
def external(function: Callable[P, R], **options: Unpack[Keywords]) -> External[P, R]: ...
@overload
def external(
    function: None = None, **options: Unpack[Keywords]
) -> Callable[[Callable[P, R]], External[P, R]]: ...
def external(
    function: Callable[..., Any] | None = None,
    *,
    result: Any = MISSING,
    signature: str | None = None,
    dtype: Any = None,
    vmap_method: str | None = None,
    executor: Any = None,
    effects: str = "none",
    derivative: str | None = None,
    step: Any = None,
    per_shard: bool = False,
    zero_copy: bool = False,
    out: bool = False,
    arrays: str = "numpy",
    device: bool = False,
    name: str | None = None,
) -> Any:
    """Makes a host function (NumPy in, NumPy out) a JAX function.

    Used as a decorator, `@external(result=...)`, or as a call, `external(function, result=...)`. What
    it returns is called inside and outside `jit`. Arguments are pytrees; Python numbers count as arrays,
    and leaves that are not arrays (any hashable object) are static: they reach it as they are.

    Args:
      function: gets NumPy arrays, and returns a pytree of what `numpy.asarray` takes.
      result: what it returns. A pytree of structs (anything with shape and dtype); a function that
        computes it from the arguments, with a `jax.ShapeDtypeStruct` for each array; `like(i)`, as
        argument i; "broadcast": the function is elementwise, and its result has the arguments'
        broadcast shape and promoted floating-point or complex dtype; `infer`: whatever one trial call
        on zeros returns, made while tracing, once for each shape and dtype; None for no result.
      signature: a gufunc signature such as "(n,k),(k)->(n)": the core dimensions of each array of the
        arguments (those that can only be given by name come last, in the order of their names), and
        of each result. Any dimensions in front are batch dimensions, which broadcast. The function
        sees the core alone, or the batch too, as `vmap_method` says. With `result=` it must agree.
      dtype: of the results, for `signature` or "broadcast"; one, or one for each result. Default: the
        arguments' promoted floating-point or complex dtype.
      vmap_method: how a batch reaches the function. "sequential" (the default) and
        "sequential_unrolled": lane by lane; "threads": lane by lane, on a pool of threads;
        "expand_dims" (the default with "broadcast"): one call for all, the batch dimension in front,
        of size 1 for an argument without it; "broadcast_all": likewise, each argument repeated.
      executor: a `concurrent.futures.Executor`, which runs the lanes of a batch, or what makes one.
      effects: "none" (pure: calls may be dropped, merged and repeated), "io" (each call runs once, in
        any order), "ordered" (in the program's order; `vmap` needs a `vmap_method` that makes one
        call of a batch), or one that looks on, so that derivatives pass it by, and `jax.checkpoint`
        does not repeat it: "debug" (in any order) or "ordered_debug" (in the program's order on each
        device). A result that it may have is without derivative. (`callbax.debug.watch` looks on, too,
        and learns which lanes are live, and on which device it runs.)
      derivative: "central", "forward" or "complex_step": a numerical derivative; "torch", with
        arrays="torch": what PyTorch computes (`torch.func`). Others are defined by the methods
        `defjvp`, `defjvps`, `defvjp`, `def_host_jvp`, `def_host_vjp`, `def_transpose`.
      step: of numerical derivatives, relative to max(|x|, 1), or a pair (relative, absolute).
      per_shard: in a program that the compiler distributes over several devices, each calls for its
        own part of the batch, and the result stays distributed. The batch is what `vmap` adds, what
        is in front of the core of a signature, and all dimensions if the result is "broadcast".
        Without it, one device gathers everything and calls.
      zero_copy: arguments are read-only views of XLA's memory. Keeping one is an error.
      out: the function gets its result as another argument, `out`, to write it in place: a writable
        view of XLA's memory, or a pytree of them. It returns None or `out`.
      arrays: what it gets, and may return: "numpy"; "jax" for jax Arrays on CPU, which cost some 40 µs
        each; "torch"; "dlpack": what any library's `from_dlpack` takes; with device=True on NVIDIA
        GPUs "cupy" and "cuda_array_interface". Rules of host code get NumPy arrays.
      device: the arguments are XLA's own memory, of the CPU or of an NVIDIA GPU, to be read and not to
        be kept. On a GPU the function computes on XLA's stream: nothing is copied or waited for.
      name: its name in compiled programs, stable between processes, in place of the path from which
        it can be imported.

    Returns:
      An `External`.

    Raises:
      TypeError: `function` is not callable; no `result`; options that exclude one another.
      ValueError: an option has another value; a signature that does not parse; a name that another
        living function has. Calls raise them at trace time if the arguments contradict the signature
        or the result, and `jax.errors.JaxRuntimeError` if the function failed or returned something
        else.

    >>> import numpy as np, jax, callbax as cb
    >>> @cb.external(signature="(n)->(n)")
    ... def cumulative(x):
    ...     return np.cumsum(x)
    >>> jax.jit(cumulative)(np.ones((2, 3), np.float32))
    Array([[1., 2., 3.],
           [1., 2., 3.]], dtype=float32)
    """
    keywords = {name: value for name, value in locals().items() if name != "function"}
    if function is None:
        return functools.partial(external, **keywords)
    check_callable("external", function, "; options have names: external(function, result=...)")
    if isinstance(function, External):
        raise TypeError(f"{function!r} is external already; its host function is `.function`")
    return External(function, make_options(describe_function(function), **keywords))


def _apply(call: Call, leaves: Sequence[Any]) -> list[Any]:
    """Calls with the function's derivative, if it has one; flat results."""
    rules = call.definition.rules
    has_tangents = bool(inexact_only(call.result_structs))
    if rules and (has_tangents or isinstance(rules[0], TransposeRule)):
        return rules[0].apply(call, leaves)
    if not has_tangents and call.options.effects == "none" or call.options.observes:
        leaves = [jax.lax.stop_gradient(leaf) for leaf in leaves]
    return on_host(call, leaves)
