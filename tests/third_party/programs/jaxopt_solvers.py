"""jaxopt: verbose solvers, jitted and differentiated, and regression on the host."""

import jax
import jax.numpy as jnp
import jaxopt


def _rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def bfgs():
    return jaxopt.BFGS(_rosenbrock, maxiter=4, verbose=True).run(jnp.array([-1.0, 1.5])).params


def lbfgs_under_jit():
    solver = jaxopt.LBFGS(_rosenbrock, maxiter=4, verbose=True, jit=True)
    return jax.jit(lambda x: solver.run(x).params)(jnp.array([-1.0, 1.5]))


def gradient_descent_with_all_it_says():
    solver = jaxopt.GradientDescent(_rosenbrock, maxiter=5, verbose=2, jit=True)
    return solver.run(jnp.array([-1.0, 1.5])).params


def levenberg_marquardt():
    def residuals(x):
        return jnp.array([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]])

    return jaxopt.LevenbergMarquardt(residuals, maxiter=5, verbose=True).run(jnp.zeros(2)).params


def osqp():
    q, c = jnp.eye(2), jnp.array([-1.0, 1.0])
    a, b = jnp.array([[1.0, 1.0]]), jnp.array([1.0])
    solver = jaxopt.OSQP(verbose=2, maxiter=20, jit=True)
    return solver.run(params_obj=(q, c), params_eq=(a, b)).params.primal


def isotonic_regression():
    y = jnp.array([1.0, 3.0, 2.0, 4.0, 3.5])
    regress = jaxopt.isotonic.isotonic_l2_pav
    return jax.jit(regress)(y), jax.jit(jax.vmap(regress))(jnp.stack([y, -y]))


def isotonic_regression_differentiated():
    y = jnp.array([1.0, 3.0, 2.0, 4.0, 3.5])
    return jax.jit(jax.grad(lambda y: jaxopt.isotonic.isotonic_l2_pav(y)[1] * 2.0))(y)


def under_implicit_differentiation():
    def solve(ridge):
        solver = jaxopt.LBFGS(lambda x, r: _rosenbrock(x) + r * x @ x, maxiter=30, verbose=True)
        return solver.run(jnp.array([-1.0, 1.5]), ridge).params[0]

    return jax.value_and_grad(solve)(0.1)
