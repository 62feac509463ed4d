"""Tomography: conjugate gradients with a SciPy sparse matrix and its transpose, differentiated.

    pip install '.[examples]' && python examples/sparse_operator.py

A body is seen by parallel rays from many angles. What a detector measures is linear in the image of
the body: A x, with A a sparse matrix that lives on the host. From noisy measurements b the image is
found by Tikhonov's method,

    (A^T A + w I) x = A^T b,

with `jax.scipy.sparse.linalg.cg`. `def_transpose` tells JAX that A is linear and what A^T is; all
else follows: `jax.linear_transpose` is A^T, and the solution has derivatives, both in the
measurements b and in the weight w, which gradient descent chooses by rays that were held back.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jax.scipy.sparse.linalg import cg

import callbax as cb

jax.config.update("jax_enable_x64", True)

SIZE, ANGLES = 32, 30


def body():
    """A head, with ellipses of (density, centre, half axes), as in Shepp and Logan (1974)."""
    y, x = np.mgrid[1 : -1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    ellipses = [
        (1.0, (0, 0), (0.7, 0.9)),
        (-0.6, (0, 0), (0.6, 0.8)),
        (0.4, (0, 0.35), (0.2, 0.25)),
        (-0.3, (-0.25, -0.1), (0.12, 0.35)),
        (-0.3, (0.25, -0.1), (0.16, 0.4)),
    ]
    inside = [((x - u) / a) ** 2 + ((y - v) / b) ** 2 <= 1 for _, (u, v), (a, b) in ellipses]
    return sum(density * of for (density, _, _), of in zip(ellipses, inside, strict=True)).ravel()


def projections():
    """The matrix, with a row for each angle and detector: a pixel is shared by two detectors."""
    middle = (SIZE - 1) / 2
    y, x = np.mgrid[:SIZE, :SIZE] - middle
    detectors, blocks, pixels = int(1.5 * SIZE), [], np.arange(SIZE**2)
    for angle in np.arange(ANGLES) * np.pi / ANGLES:
        place = (x * np.cos(angle) + y * np.sin(angle)).ravel() + detectors / 2
        left = np.floor(place).astype(int)
        rows, columns = np.concatenate([left, left + 1]), np.concatenate([pixels, pixels])
        shares = np.concatenate([left + 1 - place, place - left])
        blocks.append(scipy.sparse.coo_array((shares, (rows, columns)), (detectors, SIZE**2)))
    return scipy.sparse.vstack(blocks, format="csr")


matrix = projections()
seen = np.arange(matrix.shape[0]) % 5 != 0  # every fifth ray is held back


@cb.external(result=lambda x: jax.ShapeDtypeStruct(matrix.shape[:1], x.dtype))
def project(x):
    return matrix @ x


@project.def_transpose
def back_project(c):
    return matrix.T @ c


def adjoint(c):
    (image,) = jax.linear_transpose(project, jnp.zeros(SIZE**2))(c)
    return image


def reconstruct(b, logarithm):
    """The image from the rays that are not held back, with the weight exp(logarithm)."""
    weight = jnp.exp(logarithm)
    image, _ = cg(lambda x: adjoint(seen * project(x)) + weight * x, adjoint(seen * b), tol=1e-10)
    return image


def loss(b, logarithm):
    """The error of the reconstruction on the rays that were held back."""
    errors = ~seen * (project(reconstruct(b, logarithm)) - b)
    return jnp.sum(errors**2) / jnp.sum(~seen)


@jax.jit
def choose_weight(b, logarithm):
    """Gradient descent, with the loss at each step."""

    def step(x, _):
        value, gradient = jax.value_and_grad(loss, argnums=1)(b, x)
        return x - 4 * gradient, value

    return jax.lax.scan(step, logarithm, length=15)


def show(*images):
    """Images side by side, every other row only, as letters are tall."""
    for rows in np.hstack([np.reshape(image, (SIZE, SIZE)) for image in images])[::2]:
        print("".join(" .:-=+*#%@"[i] for i in np.clip(rows * 10, 0, 9).astype(int)))


truth = body()
cb.check(project, truth, raise_on_failure=True)
b = matrix @ truth + 0.5 * np.random.default_rng(0).normal(size=matrix.shape[0])

logarithm, losses = choose_weight(b, -3.0)
curvature = jax.jit(jax.hessian(loss, argnums=1))(b, logarithm)
weight = float(np.exp(logarithm))
print(f"\nweight {weight:.3f}: loss {losses[-1]:.4f}, from {losses[0]:.4f}; {curvature=:.3f}")
assert losses[-1] < 0.9 * losses[0] and curvature > 0

# What CG and its derivative give is what SciPy's direct solver gives.
image = reconstruct(b, logarithm)
part = matrix[seen]
normal = part.T @ part + weight * scipy.sparse.eye_array(SIZE**2)
direct = scipy.sparse.linalg.spsolve(normal.tocsc(), part.T @ b[seen])
assert np.allclose(image, direct, atol=1e-7)

gradient = jax.jit(jax.grad(lambda b: jnp.sum((reconstruct(b, logarithm) - truth) ** 2)))(b)
expected = np.zeros_like(b)
expected[seen] = part @ scipy.sparse.linalg.spsolve(normal.tocsc(), 2 * (direct - truth))
assert np.allclose(gradient, expected, atol=1e-7)

first = reconstruct(b, -3.0)
errors = [np.sqrt(np.mean((found - truth) ** 2)) for found in (first, image)]
print(f"error of a pixel: {errors[1]:.3f}, from {errors[0]:.3f}")
assert errors[1] < 0.9 * errors[0]
print("the body; its reconstruction with the first weight; with the chosen one:")
show(truth, first, image)
