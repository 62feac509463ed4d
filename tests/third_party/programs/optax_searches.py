"""optax: verbose line searches."""

import jax
import jax.numpy as jnp
import optax


def _rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def _minimise(solver, steps):
    @jax.jit
    def run(x):
        def step(carry, _):
            x, state = carry
            value, gradient = jax.value_and_grad(_rosenbrock)(x)
            updates, state = solver.update(
                gradient, state, x, value=value, grad=gradient, value_fn=_rosenbrock
            )
            return (optax.apply_updates(x, updates), state), value

        return jax.lax.scan(step, (x, solver.init(x)), None, length=steps)[1]

    return run(jnp.array([-1.0, 1.5]))


def zoom():
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=15, verbose=True)
    return _minimise(optax.lbfgs(linesearch=search), 4)


def zoom_that_fails():
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=1, verbose=True, curv_rtol=1e-9)
    return _minimise(optax.lbfgs(linesearch=search), 3)


def backtracking():
    search = optax.scale_by_backtracking_linesearch(
        max_backtracking_steps=15, store_grad=False, verbose=True
    )
    return _minimise(optax.chain(optax.sgd(1.0), search), 4)
