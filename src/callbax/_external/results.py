"""What an external function returns: from its `result=`, `signature=` and `dtype=` to structs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from callbax._external.signature import Signature, broadcast, is_constant
from callbax._host.function import Hashable
from callbax._host.structure import Structure
from callbax._jax import eager


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The abstract arguments of one call, as result inference sees them.

    Attributes:
      function: the host function.
      where: its description in messages.
      structure: the tree, and static leaves.
      structs: shape and dtype of each array.
      weak: whether each array's dtype is only that of a Python number.
      names: what messages call each array.
    """

    function: Callable[..., Any]
    where: str
    structure: Structure
    structs: tuple[jax.ShapeDtypeStruct, ...]
    weak: tuple[bool, ...]
    names: tuple[str, ...]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [struct.shape for struct in self.structs]

    def promoted_inexact(self) -> np.dtype:
        """The dtype that JAX's promotion gives, at least a floating-point one."""
        arrays = [
            jax.ShapeDtypeStruct((), struct.dtype, weak_type=weak)
            for struct, weak in zip(self.structs, self.weak, strict=True)
        ]
        if not arrays:
            return np.dtype(jnp.result_type(float))
        dtype = np.dtype(jnp.result_type(*arrays))
        inexact = jnp.issubdtype(dtype, jnp.inexact)
        return dtype if inexact else np.dtype(jnp.result_type(float))


class Result(Protocol):
    """A way to know the result's structs from the abstract arguments.

    `chosen_dtype` says that the dtype is our choice, by promotion, and not the user's word: then
    NumPy's own promotion may come out wider, and the result is narrowed.
    """

    @property
    def chosen_dtype(self) -> bool: ...

    def __call__(self, arguments: Arguments) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Given:
    """A pytree of structs, the same for all arguments."""

    spec: Any = dataclasses.field(compare=False)
    chosen_dtype: bool = False
    _key: Any = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        leaves, tree = jax.tree.flatten(self.spec)
        described = [(leaf.shape, leaf.dtype) for leaf in leaves]  # also of arrays
        object.__setattr__(self, "_key", (tree, tuple(map(Hashable, described))))

    def __call__(self, arguments: Arguments) -> Any:
        return self.spec


@dataclasses.dataclass(frozen=True)
class Computed:
    """A function of the abstract arguments."""

    function: Callable[..., Any]
    chosen_dtype: bool = False

    def __call__(self, arguments: Arguments) -> Any:
        args, kwargs = arguments.structure.unflatten(arguments.structs)
        try:
            return self.function(*args, **kwargs)
        except Exception as error:
            error.add_note(
                f"callbax: in the function that is result= of {arguments.where}; it is called with the "
                "arguments, a jax.ShapeDtypeStruct in the place of each array"
            )
            raise


@dataclasses.dataclass(frozen=True)
class Broadcast:
    """The arguments' broadcast shape, and `dtype` or their promoted inexact dtype."""

    dtype: np.dtype | None

    @property
    def chosen_dtype(self) -> bool:
        return self.dtype is None

    def __call__(self, arguments: Arguments) -> Any:
        shape = broadcast(arguments.shapes, arguments.names, arguments.where)
        return jax.ShapeDtypeStruct(shape, self.dtype or arguments.promoted_inexact())


@dataclasses.dataclass(frozen=True)
class Like:
    """Shape and dtype, or the whole tree, of one argument; `callbax.like` makes it.

    >>> import numpy as np, callbax as cb
    >>> cb.external(np.copy, result=cb.like(0))(np.ones(3, np.float32)).shape
    (3,)
    """

    argument: int | str
    chosen_dtype: bool = False

    def __call__(self, arguments: Arguments) -> Any:
        args, kwargs = arguments.structure.unflatten_without_static(arguments.structs)
        try:
            found = args[self.argument] if isinstance(self.argument, int) else kwargs[self.argument]
        except (IndexError, KeyError):
            names = [*map(str, range(len(args))), *(f"{name!r}" for name in sorted(kwargs))]
            raise TypeError(
                f"{arguments.where} has the result like({self.argument!r}), but the arguments of this "
                f"call are {', '.join(names) or 'none'}. Positional ones are numbered from 0, and have "
                "no name here."
            ) from None
        if not jax.tree.leaves(found):
            raise TypeError(
                f"{arguments.where} has the result like({self.argument!r}), but that argument is "
                "static: it has no shape. Name an argument that is an array."
            )
        return found


def like(argument: int | str) -> Like:
    """A result with shape and dtype of one of the arguments, for `external(result=...)`.

    Args:
      argument: the index of a positional argument, or the name of a keyword-only one. If that
        argument is a pytree, so is the result.

    Returns:
      What `external` takes as `result`.

    Raises:
      TypeError: neither an index nor a name.

    >>> import numpy as np, callbax as cb
    >>> cumulative = cb.external(np.cumsum, result=cb.like(0))
    >>> cumulative(np.arange(4.0, dtype=np.float32))
    Array([0., 1., 3., 6.], dtype=float32)
    """
    if not isinstance(argument, (int, str)):
        raise TypeError(
            "like takes the index of a positional argument or the name of a keyword-only one, but "
            f"got {argument!r} of type {type(argument).__name__}"
        )
    return Like(argument)


@dataclasses.dataclass(frozen=True)
class BySignature:
    """Shapes by a gufunc signature; dtypes by `dtype`, by another rule, or by promotion."""

    signature: Signature
    dtypes: tuple[np.dtype, ...] | None
    declared: Result | None

    @property
    def chosen_dtype(self) -> bool:
        return self.declared.chosen_dtype if self.declared else self.dtypes is None

    def __call__(self, arguments: Arguments) -> Any:
        """`arguments` are the core arguments: without batch dimensions."""
        sizes = self.signature.bind(arguments.shapes, arguments.names, arguments.where)
        if self.declared is not None:
            spec = self.declared(arguments)
            self._check(jax.tree.leaves(spec), sizes, arguments)
            return spec
        shapes = self.signature.result_shapes(sizes)
        dtypes = self.dtypes or (arguments.promoted_inexact(),) * len(shapes)
        structs = tuple(map(jax.ShapeDtypeStruct, shapes, dtypes))
        return structs[0] if len(structs) == 1 else structs

    def _check(self, leaves: Sequence[Any], sizes: dict[str, int], arguments: Arguments) -> None:
        if len(leaves) != len(self.signature.outputs):
            raise ValueError(
                f"result= of {arguments.where} gives {len(leaves)} results, but the signature "
                f"{self.signature} has {len(self.signature.outputs)}"
            )
        sizes = dict(sizes)
        for i, (core, leaf) in enumerate(zip(self.signature.outputs, leaves, strict=True)):
            expected = tuple(
                d if isinstance(d, int) else sizes.setdefault(d, size)
                for d, size in zip(core, leaf.shape, strict=False)
            )
            if len(core) != len(leaf.shape) or expected != tuple(leaf.shape):
                raise ValueError(
                    f"result= of {arguments.where} gives result {i} the shape {tuple(leaf.shape)}, "
                    f"but the signature {self.signature}, with these arguments, {expected}"
                )


class _Infer:
    """For `callbax.external(result=callbax.infer)`: the result is what one call on zeros returns.

    The call is made while the program is traced, once for arguments of each structure, shape and dtype.

    >>> import numpy as np, callbax as cb
    >>> cb.external(np.cumsum, result=cb.infer)(np.ones(3, np.float32))
    Array([1., 2., 3.], dtype=float32)
    """

    def __repr__(self) -> str:
        return "callbax.infer"


infer = _Infer()


class Trial:
    """One call on zeros at trace time, remembered for each abstract value of the arguments.

    All are equal: what they find is a part of the key of each call.
    """

    chosen_dtype = False

    def __init__(self) -> None:
        # Entries are small, and as many as a program has call sites of different shapes.
        self._known: dict[Any, Any] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trial)

    def __hash__(self) -> int:
        return hash(Trial)

    def __call__(self, arguments: Arguments) -> Any:
        key = (
            arguments.structure,
            tuple((struct.shape, struct.dtype) for struct in arguments.structs),
            jax.config.jax_enable_x64,
        )
        if key not in self._known:
            self._known[key] = self._try(arguments)
        return self._known[key]

    def _try(self, arguments: Arguments) -> Any:
        if not all(is_constant(struct.shape) for struct in arguments.structs):
            raise ValueError(
                f"{arguments.where} has result=callbax.infer, which calls it on zeros, but the shapes "
                f"of its arguments are symbolic here: {', '.join(map(str, arguments.shapes))}. Give "
                "the result as a function of the arguments."
            )
        zeros = [np.zeros(struct.shape, struct.dtype) for struct in arguments.structs]
        args, kwargs = arguments.structure.unflatten(zeros)
        try:
            with eager.outside_of_traces():
                value = arguments.function(*args, **kwargs)
        except Exception as error:
            raise ValueError(
                f"{arguments.where} has result=callbax.infer, so it is called once on zeros while it "
                f"is traced, and that call raised {type(error).__name__}: {error}. If zeros are "
                "not valid input, give the result as a struct or as a function of the arguments."
            ) from error
        try:
            return jax.tree.map(_struct_of, value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{arguments.where} has result=callbax.infer, but the call on zeros returned "
                f"{value!r}, which is neither an array of numbers nor a pytree of them: {error}"
            ) from error


def _struct_of(leaf: Any) -> jax.ShapeDtypeStruct:
    array = np.asarray(leaf)
    if array.dtype.kind in "OSUMm":
        raise TypeError(f"JAX has no dtype {array.dtype}")
    return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))
