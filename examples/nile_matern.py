"""How rough is the flow of the Nile? A Gaussian process whose smoothness is fitted by gradients.

    pip install '.[examples]' && python examples/nile_matern.py

The Matérn kernel of order ν, with the modified Bessel function K, is

    k(r) = σ² 2^(1-ν)/Γ(ν) s^ν K_ν(s),    s = √(2ν) r/ℓ      (Rasmussen and Williams, 2006, 4.2.1)

The larger ν is, the smoother are its sample paths. Libraries for Gaussian processes fix ν at
1/2, 3/2 or 5/2, where K is elementary; scikit-learn cannot fit it. With `cb.scipy.special.kv` it
is one parameter among three. The derivative of K in s, and so in the length scale ℓ, has a closed
form; in the order it has none, and is computed numerically: `derivative="central"`.

The answer, ν = 0.11 with correlations over a dozen years, is far from the usual choices: the flow
is rough from year to year, and yet has a long memory. This is the river in which Hurst (1951) found
long memory.

Data: the annual flow at Aswan, 1871-1970, in 10⁸ m³; Cobb, Biometrika 65 (1978), Table 1. The
likelihood is checked against scikit-learn's at the same ν.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from scipy.optimize import minimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

import callbax as cb

jax.config.update("jax_enable_x64", True)
kv = cb.ufunc(cb.scipy.special.kv, derivative="central")

# fmt: off
FLOW = np.array([
    1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960, 1180,
    799, 958, 1140, 1100, 1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694, 940, 833,
    701, 916, 692, 1020, 1050, 969, 831, 726, 456, 824, 702, 1120, 1100, 832, 764, 821, 768, 845,
    864, 862, 698, 845, 744, 796, 1040, 759, 781, 865, 845, 944, 984, 897, 822, 1010, 771, 676, 649,
    846, 812, 742, 801, 1040, 860, 874, 848, 890, 744, 749, 838, 1050, 918, 986, 797, 923, 975, 815,
    1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740,
])
# fmt: on
YEARS = np.arange(1871.0, 1971.0)
DEVIATION = (FLOW - FLOW.mean()) / 100
LAGS = np.abs(YEARS[:, None] - YEARS).astype(int)


def covariance(sigma, length, order):
    """Between all pairs of years. At lag 0, where s^ν K(s) is 0 times infinity, it is σ²."""
    s = jnp.sqrt(2 * order) * np.arange(1.0, len(YEARS)) / length
    log_factor = (1 - order) * jnp.log(2.0) - gammaln(order)
    correlation = jnp.exp(log_factor + order * jnp.log(s)) * kv(order, s)
    return sigma**2 * jnp.concatenate([jnp.ones(1), correlation])[LAGS]


@jax.jit
def surprise(logarithms):
    """Minus the logarithm of the marginal likelihood; the positive parameters are logarithms."""
    factor = jnp.linalg.cholesky(covariance(*jnp.exp(logarithms)))
    white = jax.scipy.linalg.solve_triangular(factor, DEVIATION, lower=True)
    constant = len(YEARS) / 2 * jnp.log(2 * jnp.pi)
    return white @ white / 2 + jnp.sum(jnp.log(jnp.diag(factor))) + constant


def scikit_learns_surprise(sigma, length, order):
    kernel = ConstantKernel(sigma**2, "fixed") * Matern(length, "fixed", nu=order)
    process = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None)
    process.fit(YEARS[:, None], DEVIATION)
    return -process.log_marginal_likelihood_value_


def main():
    gradient = jax.jit(jax.grad(surprise))
    start = np.log([1.5, 5.0, 0.5])

    # The gradient, by reverse mode through the Cholesky factor and K, is that of the function.
    steps = 1e-5 * np.eye(3)
    differences = [(surprise(start + h) - surprise(start - h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(gradient(start), differences, rtol=1e-5)

    fit = minimize(surprise, start, jac=gradient, method="L-BFGS-B", options={"ftol": 1e-13})
    assert fit.success, fit.message
    sigma, length, order = np.exp(fit.x)
    print(f"order {order:.3f}, correlation over {length:.1f} years, {100 * sigma:.0f} of 10⁸ m³")
    print(f"likelihood exp(-{fit.fun:.3f}) after {fit.nfev} evaluations")
    np.testing.assert_allclose(gradient(fit.x), 0, atol=1e-3)
    np.testing.assert_allclose(fit.fun, scikit_learns_surprise(sigma, length, order), rtol=1e-9)
    assert 0.10 < order < 0.12
    assert 11 < length < 13

    for usual in (0.5, 1.5):
        pinned = np.log(usual)
        best = minimize(
            surprise,
            [*start[:2], pinned],
            jac=gradient,
            method="L-BFGS-B",
            bounds=[(None, None), (None, None), (pinned, pinned)],
        )
        print(f"  with the order {usual}: exp(-{best.fun:.3f})")
        assert best.fun > fit.fun + 2


if __name__ == "__main__":
    main()
