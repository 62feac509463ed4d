"""numpyro: bars of chains that run in parallel, and of those that need no callback."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import HMC, MCMC
from numpyro.util import fori_collect


def _model(y):
    mean = numpyro.sample("mean", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def _chains(method, chains, **options):
    kernel = HMC(_model, num_steps=3, step_size=0.2, adapt_step_size=False, adapt_mass_matrix=False)
    return MCMC(
        kernel, num_warmup=8, num_samples=16, num_chains=chains, chain_method=method, **options
    )


def _run(mcmc):
    y = jax.random.normal(jax.random.key(1), (20,)) + 2
    mcmc.run(jax.random.key(0), y)
    return mcmc.get_samples(group_by_chain=True)


def parallel_chains():
    return _run(_chains("parallel", 4))


def parallel_chains_that_run_twice():
    mcmc = _chains("parallel", 2)
    first = _run(mcmc)
    mcmc.post_warmup_state = mcmc.last_state
    return first, _run(mcmc)


def parallel_chains_that_are_thinned():
    return _run(_chains("parallel", 3, thinning=4))


def vectorised_chains():
    return _run(_chains("vectorized", 3))


def a_loop_that_collects():
    def body(x):
        return jnp.cos(x)

    return fori_collect(2, 12, body, jnp.array([0.1, 0.2]), progbar=True, thinning=2)
