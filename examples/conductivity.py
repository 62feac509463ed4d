"""What a plate is made of: a PDE solved by a sparse factorisation, which its adjoint uses again.

    pip install '.[examples]' && python examples/conductivity.py [size of the grid]

A square plate is heated evenly and kept cold at its rim. Its temperature u solves

    -div(k grad u) = 1,    u = 0 on the rim,

where k, its conductivity, is to be found from noisy measurements of u. The host assembles the matrix
and factorises it (SciPy's SuperLU). The adjoint system has the same matrix, so the derivative with
respect to k is one more solve with the same factors: `def_host_vjp(residuals=True)` hands them over.
L-BFGS then minimises the misfit and the roughness of log k, both written in JAX.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.sparse.linalg

import callbax as cb

jax.config.update("jax_enable_x64", True)

SIZE = int(sys.argv[1]) if len(sys.argv) > 1 else 48  # 270 for 72,900 unknowns
factorisations = 0


def differences():
    """From values at the points of the grid to the slopes along its edges, of both directions."""
    along = scipy.sparse.diags_array([1.0, -1.0], offsets=[0, -1], shape=(SIZE + 1, SIZE))
    one = scipy.sparse.eye_array(SIZE)
    both = [scipy.sparse.kron(along, one), scipy.sparse.kron(one, along)]
    return (SIZE + 1) * scipy.sparse.vstack(both, format="csr")


slopes = differences()
at_edges = abs(slopes) / abs(slopes).sum(1)[:, None]  # from points to edges: means of neighbours
at_edges = scipy.sparse.csr_array(at_edges)


@cb.external(result=cb.like(0))
def temperature(conductivity):
    global factorisations
    factorisations += 1
    diagonal = scipy.sparse.diags_array(at_edges @ conductivity)
    factors = scipy.sparse.linalg.splu((slopes.T @ diagonal @ slopes).tocsc())
    return factors.solve(np.ones(SIZE**2)), factors


@temperature.def_host_vjp(residuals=True)
def temperature_vjp(primals, u, cotangents, factors):
    adjoint = factors.solve(cotangents)
    return (-at_edges.T @ ((slopes @ adjoint) * (slopes @ u)),)


def truth():
    """A plate with a disk that conducts well."""
    y, x = np.mgrid[0 : 1 : SIZE * 1j, 0 : 1 : SIZE * 1j]
    return 1 + 2.0 * (np.hypot(x - 0.4, y - 0.55) < 0.22).ravel()


noise = 1e-4 * np.random.default_rng(0).normal(size=SIZE**2)
measured = np.asarray(temperature(truth())) + noise


@jax.jit
@jax.value_and_grad
def loss(logarithm):
    misfit = jnp.mean((temperature(jnp.exp(logarithm)) - measured) ** 2) / 1e-8
    image = logarithm.reshape(SIZE, SIZE)
    roughness = sum(jnp.mean(jnp.sqrt(jnp.diff(image, axis=a) ** 2 + 1e-4)) for a in (0, 1))
    return misfit + 10 * roughness


cb.check(temperature, truth(), raise_on_failure=True)
factorisations = 0
found = scipy.optimize.minimize(
    lambda x: tuple(map(np.asarray, loss(x))),
    np.zeros(SIZE**2),
    jac=True,
    method="L-BFGS-B",
    options={"maxiter": 60},
)
print(f"{found.nfev} values with gradients, {factorisations} factorisations")
assert factorisations == found.nfev

conductivity = np.exp(found.x)
error = np.sqrt(np.mean((conductivity - truth()) ** 2))
print(
    f"misfit {found.fun:.2f}, from {loss(np.zeros(SIZE**2))[0]:.0f}; error of a pixel {error:.2f}"
)
assert error < 0.4
for rows in np.hstack([truth().reshape(SIZE, -1), conductivity.reshape(SIZE, -1)])[::3, ::2]:
    print("".join(" .:-=+*#%@"[i] for i in np.clip(rows * 3, 0, 9).astype(int)))
