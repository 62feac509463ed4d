"""Predators and prey: a SciPy ODE solver, fitted to data by its adjoint.

    pip install '.[examples]' && python examples/lynx_and_hare.py

The Hudson's Bay Company recorded the pelts of hares and lynxes that it bought. The Lotka-Volterra
equations, with hares u and lynxes v in thousands,

    du/dt = (alpha - beta v) u,    dv/dt = (delta u - gamma) v,

are fitted to the 21 years 1900-1920: `scipy.integrate.solve_ivp` solves them on the host; JAX and
optax do the rest. The gradient comes from the continuous adjoint (Pontryagin et al., 1962): with
the right-hand side f(y) and the cotangents c of the solution at the years, the multipliers run back
in time,

    d lambda/dt = -(df/dy)^T lambda,    lambda jumps by c at each year,

and the cotangent of the parameters p is the integral of (df/dp)^T lambda.

Data: as tabulated in P. Howard, Modeling Basics (2009), and used in B. Carpenter, Predator-Prey
Population Dynamics: the Lotka-Volterra model in Stan (2018), to whose estimates the fit is
compared.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.integrate import solve_ivp

import callbax as cb

jax.config.update("jax_enable_x64", True)

# fmt: off
HARES = [30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1,
         40.3, 57, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7]
LYNXES = [4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4,
          8, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6]
# fmt: on
PELTS = np.stack([HARES, LYNXES], axis=1)
YEARS = np.arange(len(PELTS))
NAMES = ["alpha", "beta", "gamma", "delta"]
PUBLISHED = [0.55, 0.028, 0.80, 0.024]  # Carpenter (2018)


def solve(rate, span, start, **options):
    solution = solve_ivp(rate, span, start, method="DOP853", rtol=1e-8, atol=1e-8, **options)
    if not solution.success:
        raise RuntimeError(solution.message)
    return solution.y


@cb.external(result=lambda years, p, start: jax.ShapeDtypeStruct((years.size, 2), start.dtype))
def populations(years, p, start):
    """Hares and lynxes in each year (integers), from those in the first; p is a tuple."""
    alpha, beta, gamma, delta = p

    def rate(t, y):
        u, v = y
        return (alpha - beta * v) * u, (delta * u - gamma) * v

    return solve(rate, (years[0], years[-1]), start, t_eval=years).T


@populations.def_host_vjp
def populations_vjp(primals, outputs, cotangents):
    """Backwards year by year, each starting afresh from the solution that is known there."""
    years, (alpha, beta, gamma, delta), _ = primals

    def rate(t, state):
        u, v, a, b = state[:4]  # a and b are the multipliers of u and v
        growth, decline = alpha - beta * v, delta * u - gamma
        of_solution = growth * u, decline * v
        of_multipliers = -growth * a - delta * v * b, beta * u * a - decline * b
        return (*of_solution, *of_multipliers, -u * a, u * v * a, v * b, -u * v * b)

    multipliers, integrals = cotangents[-1], np.zeros(4)
    for i in reversed(range(1, len(years))):
        state = np.concatenate([outputs[i], multipliers, integrals])
        state = solve(rate, (years[i], years[i - 1]), state)[:, -1]
        multipliers, integrals = state[2:4] + cotangents[i - 1], state[4:]
    return None, tuple(integrals), multipliers


def residuals(logarithms):
    """In the logarithms of the pelts; the unknowns, all positive, are logarithms too."""
    p, start = jnp.split(jnp.exp(logarithms), [4])
    return jnp.log(populations(YEARS, tuple(p), start)) - jnp.log(PELTS)


def loss(logarithms):
    return jnp.sum(residuals(logarithms) ** 2)


@jax.jit
def fit(logarithms):
    optimizer = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(carry, _):
        x, state = carry
        value, gradient = value_and_gradient(x, state=state)
        updates, state = optimizer.update(
            gradient, state, x, value=value, grad=gradient, value_fn=loss
        )
        return (optax.apply_updates(x, updates), state), value

    (x, _), values = jax.lax.scan(step, (logarithms, optimizer.init(logarithms)), length=25)
    return x, values


# A cycle takes about 10 years, and its averages are the equilibrium (Volterra, 1926).
rate, (hares, lynxes) = 2 * np.pi / 10, PELTS.mean(axis=0)
guess = (rate, rate / lynxes, rate, rate / hares)

cb.check(populations, YEARS[:4], guess, PELTS[0], raise_on_failure=True)

solution, losses = fit(jnp.log(np.array([*guess, *PELTS[0]])))
found, start = jnp.split(jnp.exp(solution), [4])
before, after = np.sqrt(losses[0] / PELTS.size), np.sqrt(losses[-1] / PELTS.size)
slope = jnp.abs(jax.grad(loss)(solution)).max()

print(f"\nstandard deviation of log(pelts): {after:.3f}, from {before:.3f}")
print(f"steepest slope of the loss: {slope:.1e}")
for name, value, published in zip(NAMES, found, PUBLISHED, strict=True):
    print(f"{name:>5} {value:.4f}, published {published}")
    assert abs(value / published - 1) < 0.1
print(f"1900: {start[0]:.1f} thousand hares, {start[1]:.1f} thousand lynxes")
assert after < 0.23 and slope < 1e-3
