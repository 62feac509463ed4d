"""optimistix: verbose solvers, and solves that fail."""

import jax
import jax.numpy as jnp
import optimistix


def _rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def verbose_bfgs():
    solver = optimistix.BFGS(rtol=1e-3, atol=1e-3, verbose=True)
    return optimistix.minimise(lambda x, _: _rosenbrock(x), solver, jnp.array([-1.0, 1.5])).value


def _say_loss(**values):
    name, loss = values["loss_this_step"]
    jax.debug.print(name + " {loss:.4f}", loss=loss)


def verbose_levenberg_marquardt():
    solver = optimistix.LevenbergMarquardt(rtol=1e-3, atol=1e-3, verbose=_say_loss)

    def residuals(x, _):
        return jnp.array([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]])

    return optimistix.least_squares(residuals, solver, jnp.zeros(2)).value


def too_few_steps():
    solver = optimistix.BFGS(rtol=1e-8, atol=1e-8)
    return optimistix.minimise(
        lambda x, _: _rosenbrock(x), solver, jnp.array([-1.0, 1.5]), max_steps=3
    ).value


def too_few_steps_without_throwing():
    solver = optimistix.Newton(rtol=1e-8, atol=1e-8)
    solution = optimistix.root_find(
        lambda x, _: x**3 - 2, solver, jnp.array(5.0), max_steps=2, throw=False
    )
    return solution.value, solution.result


def verbose_under_vmap():
    solver = optimistix.BFGS(rtol=1e-2, atol=1e-2, verbose=True)

    def solve(x):
        return optimistix.minimise(lambda x, _: _rosenbrock(x), solver, x).value

    return jax.jit(jax.vmap(solve))(jnp.array([[-1.0, 1.5], [0.5, 0.5]]))
