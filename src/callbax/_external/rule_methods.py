"""RuleMethods: the methods of an External that define its derivative and its rule for vmap."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from callbax._callbacks.results import check_callable
from callbax._external.call import Definition, Rule, VmapRule
from callbax._external.host_code import HostCode, offer_rules
from callbax._external.host_rules import HostRule
from callbax._external.jax_rules import JvpRule, JvpRules, VjpRule
from callbax._external.rules import check_rule, check_rules
from callbax._external.rules_on_host import WithObject
from callbax._external.transposes import Same, TransposeRule
from callbax._host.function import Hashable
from callbax._host.offers import Offer


class RuleMethods:
    """Methods that add rules to a definition; all serve as decorators too.

    A derivative rule sees `primals`, the tuple of positional arguments in their own structure.
    Arguments given by name count as positional where the host function's signature has a position
    for them; others reach the rule as the same keyword arguments. Tangents and cotangents follow the
    primals, with None in the places of what is not an array. A rule that cannot be called so is a
    TypeError.
    """

    definition: Definition
    _offers: list[Offer]  # what programs may name of it

    def defjvp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Defines the derivative by a JAX rule, as `jax.custom_jvp` has it.

        A rule that uses the external function itself gives derivatives of all orders.

        Args:
          rule: called as `rule(primals, tangents, **keyword_arguments)`; returns the result and its
            tangents, both in the result's structure. An integer or boolean array has a float0
            tangent; None means a zero tangent in what the rule returns.

        Returns:
          The rule.

        Raises:
          ValueError: the external function has effects, or a derivative of another kind.

        >>> import jax, numpy as np, callbax as cb
        >>> exp = cb.external(np.exp, result="broadcast")
        >>> @exp.defjvp
        ... def exp_jvp(primals, tangents):
        ...     y = exp(*primals)
        ...     return y, y * tangents[0]
        >>> jax.grad(jax.grad(exp))(0.0)
        Array(1., dtype=float32, weak_type=True)
        """
        check_rule(self.definition, "defjvp", rule, "primals", "tangents")
        self._define(JvpRule(Hashable(rule)))
        return rule

    def defjvps(self, *rules: Callable[..., Any] | None) -> None:
        """Defines the derivative by one JAX rule for each positional argument.

        Args:
          *rules: called as `rule(tangent, answer, *primals, **keyword_arguments)`; returns what the
            argument's tangent contributes to the result's tangents, in the result's structure. None
            contributes nothing.

        Raises:
          ValueError: the external function has effects, or a derivative of another kind; there are more
            rules than positional arguments.

        >>> import jax, numpy as np, callbax as cb
        >>> power = cb.external(np.power, result="broadcast")
        >>> power.defjvps(lambda t, answer, x, y: t * y * power(x, y - 1), None)
        >>> jax.grad(power)(3.0, 2.0)
        Array(6., dtype=float32, weak_type=True)
        """
        check_rules(self.definition, "defjvps", rules, "tangent", "answer", "*primals")
        self._define(JvpRules(tuple(map(Hashable, rules))))

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """Defines the derivative by a pair of JAX functions, as `jax.custom_vjp` has it.

        It serves reverse mode only.

        Args:
          forward: called as the function itself; returns the result, and residuals for `backward`.
          backward: called as `backward(residuals, cotangents)`; returns a tuple with the cotangent of
            each positional argument, in that argument's structure. None means zeros, for a whole
            argument or for an array of it.

        Raises:
          ValueError: the external function has effects, or a derivative of another kind.

        >>> import jax, numpy as np, callbax as cb
        >>> square = cb.external(np.square, result="broadcast")
        >>> square.defvjp(lambda x: (square(x), x), lambda x, ct: (2 * x * ct,))
        >>> jax.grad(square)(3.0)
        Array(6., dtype=float32)
        """
        check_callable("External.defvjp", forward)
        check_rule(self.definition, "defvjp", backward, "residuals", "cotangents")
        self._define(VjpRule(Hashable(forward), Hashable(backward)))

    def def_transpose(
        self,
        function: Callable[..., Any] | None = None,
        *,
        argnums: int | Sequence[int] | None = None,
    ) -> Any:
        """Says that the external function is linear, and defines its transpose.

        It then has derivatives of any order in both modes, and works in `jax.linear_transpose` and in
        solvers such as `jax.scipy.sparse.linalg.cg`.

        Args:
          function: the transpose. It is called with the arguments that the function is not linear in
            (the keyword arguments too), followed by the cotangents, in the result's structure, and
            returns the cotangents of the arguments that it is linear in: one, or a tuple if they are
            several. Either host code, with NumPy arrays, or another external function. Complex
            numbers are not conjugated.
          argnums: positions of the arguments that the function is linear in; default: all that have a
            floating-point or complex array.

        Returns:
          `function`; without it, a decorator.

        Raises:
          ValueError: the external function has effects, or a derivative of another kind.

        >>> import jax, numpy as np, callbax as cb
        >>> difference = cb.external(np.diff, signature="(3)->(2)")
        >>> @difference.def_transpose
        ... def difference_transpose(ct):
        ...     return np.array([-ct[0], ct[0] - ct[1], ct[1]])
        >>> jax.linear_transpose(difference, np.ones(3, "f"))(np.ones(2, "f"))
        (Array([-1.,  0.,  1.], dtype=float32),)
        """
        if function is None:
            return functools.partial(self.def_transpose, argnums=argnums)
        check_callable("External.def_transpose", function)
        if isinstance(argnums, int):
            argnums = (argnums,)
        if argnums is not None and (not argnums or min(argnums) < 0):
            raise ValueError(
                f"def_transpose of {self.definition.description}: argnums={argnums!r} must be the "
                "position of an argument, counted from 0, or several"
            )
        transpose = Same(function) if isinstance(function, RuleMethods) else HostCode(function)
        self._define(TransposeRule(transpose, None if argnums is None else tuple(argnums)))
        return function

    def def_host_jvp(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Defines the derivative by host code that maps tangents to tangents.

        With it alone, reverse mode calls it for each vector of a basis of the arguments, as one batch
        (through the function's own batching); define `def_host_vjp` too where that is much.

        Args:
          function: called as `function(primals, tangents, **keyword_arguments)` with NumPy arrays. An
            integer or boolean array has the tangent None, as has what is static. It returns the
            tangents of the result, in the result's structure, with None for an integer or boolean
            array or for zeros. Their shapes and dtypes are those of the result.

        Returns:
          The function.

        Raises:
          ValueError: the external function has effects, or a derivative of another kind.

        >>> import jax, numpy as np, callbax as cb
        >>> sine = cb.external(np.sin, result="broadcast")
        >>> @sine.def_host_jvp
        ... def sine_jvp(primals, tangents):
        ...     return np.cos(primals[0]) * tangents[0]
        >>> jax.grad(sine)(0.0)
        Array(1., dtype=float32)
        """
        check_rule(self.definition, "def_host_jvp", function, "primals", "tangents")
        self._define(HostRule(jvp=HostCode(function), vjp=self._host_rule().vjp))
        return function

    def def_host_vjp(
        self, function: Callable[..., Any] | None = None, *, residuals: bool = False
    ) -> Any:
        """Defines the derivative by host code that maps cotangents to cotangents (adjoint solvers).

        With it alone, forward mode calls it for each vector of a basis of the result, as one batch
        (through the function's own batching); define `def_host_jvp` too where that is much.

        Args:
          function: called as `function(primals, outputs, cotangents, **keyword_arguments)` with NumPy
            arrays; `outputs` and `cotangents` have the result's structure. The cotangent of an
            integer or boolean array is None. It returns a tuple with the cotangent of each positional
            argument, in that argument's structure; None means zeros, for a whole argument or for
            an array of it. Their shapes and dtypes are those of the primals. JAX's convention for
            complex numbers holds: no conjugate, f(z) = a z has the cotangent a c.
          residuals: the host function returns a pair, of its result and any object (a factorisation, a
            tape, a solver's state), and the derivative is called with that object after the
            cotangents. Several calls may get the same one, so it must not be changed. Where there is
            none any more, the host function is called again.

        Returns:
          The function; without it, a decorator.

        Raises:
          ValueError: the external function has effects, or a derivative of another kind; `residuals`
            for an elementwise function that is called per shard.

        >>> import jax, numpy as np, callbax as cb
        >>> solve = cb.external(np.linalg.solve, signature="(n,n),(n)->(n)")
        >>> @solve.def_host_vjp
        ... def solve_vjp(primals, outputs, cotangents):
        ...     of_b = np.linalg.solve(primals[0].T, cotangents)
        ...     return -np.outer(of_b, outputs), of_b
        >>> jax.grad(lambda b: solve(2 * np.eye(2, dtype="f"), b).sum())(np.ones(2, "f"))
        Array([0.5, 0.5], dtype=float32)
        """
        if function is None:
            return functools.partial(self.def_host_vjp, residuals=residuals)
        gets = ("primals", "outputs", "cotangents", *(("object",) if residuals else ()))
        check_rule(self.definition, "def_host_vjp", function, *gets)
        vjp = WithObject.of(self.definition, function) if residuals else HostCode(function)
        self._define(HostRule(jvp=self._host_rule().jvp, vjp=vjp))
        return function

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
        self.definition = dataclasses.replace(self.definition, vmap_rule=rule)
        return rule

    def _host_rule(self) -> HostRule:
        return next(
            (rule for rule in self.definition.rules if isinstance(rule, HostRule)), HostRule()
        )

    def _define(self, rule: Rule) -> None:
        where, options = self.definition.description, self.definition.options
        if options.effects != "none":
            raise ValueError(
                f"external function {where} has effects={options.effects!r}, so it has no "
                "derivative: the transformed program would run it another number of times"
            )
        if options.derivative is not None:
            raise ValueError(
                f"external function {where} has derivative={options.derivative!r} already; "
                f"omit that to define {rule.name}"
            )
        other = [known for known in self.definition.rules if _kind(known) is not _kind(rule)]
        if other:
            raise ValueError(
                f"external function {where} has the derivative {other[0].name} already, so "
                f"{rule.name} would never be used; define one of the two. (Only host_jvp and host_vjp "
                "go together.)"
            )
        self.definition = dataclasses.replace(self.definition, rules=(rule,))
        self._offers = offer_rules(self.definition)


def _kind(rule: Rule) -> type:
    """Rules of one kind replace each other."""
    return JvpRule if isinstance(rule, JvpRules) else type(rule)
