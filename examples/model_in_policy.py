"""A scikit-learn model inside a jitted, vmapped policy.

    pip install '.[examples]' && python examples/model_in_policy.py

A random forest tells three cultivars of grapes apart by 13 measurements of their wine (178 wines,
bundled with scikit-learn). What is the smallest change in a wine's measurements after which the
forest takes it for another cultivar? Such a counterfactual explains a decision of the model.

A forest is piecewise constant and has no gradient, so the policy searches by the cross-entropy
method (Rubinstein, 1999): draw candidates from a normal distribution, keep the best, fit the
distribution to them. The search is JAX (`lax.scan` under `vmap` under `jit`); the forest is a host
function. Since its signature says how to batch it, each step of the search asks the forest once,
for all candidates of all wines.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

import callbax as cb

STEPS, CANDIDATES, ELITE = 40, 64, 8
TARGET = 0  # the cultivar that the wines should be taken for
SURE = 0.6  # the probability from which they are

data = load_wine()
wines = data.data.astype(np.float32)
forest = RandomForestClassifier(50, random_state=0).fit(wines, data.target)
calls = 0


@cb.external(signature="(features)->(3)", dtype=np.float32, vmap_method="broadcast_all")
def probabilities(x):
    """Of the three cultivars, for one wine or for wines in any number of leading dimensions."""
    global calls
    calls += 1
    rows = forest.predict_proba(x.reshape(-1, x.shape[-1]))
    return rows.reshape(*x.shape[:-1], 3)


spread = wines.std(axis=0)


def cost(wine, change):
    """The size of the change, in standard deviations, and a penalty if it is not enough."""
    probability = probabilities(wine + spread * change)[TARGET]
    return jnp.abs(change).sum() + 100 * jnp.maximum(SURE - probability, 0)


def policy(key, wine):
    """The cheapest change found for one wine, in standard deviations of each measurement."""

    def step(state, key):
        centre, width, best, lowest = state
        changes = centre + width * jax.random.normal(key, (CANDIDATES, wine.size))
        costs = jax.vmap(cost, (None, 0))(wine, changes)
        order = jnp.argsort(costs)
        elite = changes[order[:ELITE]]
        better = costs[order[0]] < lowest
        best = jnp.where(better, elite[0], best)
        lowest = jnp.where(better, costs[order[0]], lowest)
        # Halfway to the elite, lest the search end at the first good place.
        centre, width = (centre + elite.mean(0)) / 2, (width + elite.std(0)) / 2
        return (centre, width, best, lowest), lowest

    nothing = jnp.zeros_like(wine)
    start = (nothing, jnp.ones_like(wine), nothing, jnp.inf)
    (_, _, best, _), costs = jax.lax.scan(step, start, jax.random.split(key, STEPS))
    return best, costs


# The function keeps its promises, and gives what scikit-learn gives.
cb.check(probabilities, wines[0], raise_on_failure=True)
expected = forest.predict_proba(wines).astype(np.float32)
assert np.array_equal(jax.jit(probabilities)(wines), expected)

others = wines[data.target != TARGET][::12]
keys = jax.random.split(jax.random.key(0), len(others))
calls = 0
changes, costs = jax.block_until_ready(jax.jit(jax.vmap(policy))(keys, others))
assert calls == STEPS, calls

before = forest.predict_proba(others)[:, TARGET]
after = forest.predict_proba(others + spread * np.asarray(changes))[:, TARGET]
print(
    f"\n{calls} calls of the forest: {len(others)} wines, {STEPS} steps of {CANDIDATES} candidates"
)
for i, change in enumerate(np.asarray(changes)):
    largest = np.argsort(-np.abs(change))[:3]
    what = ", ".join(f"{data.feature_names[j]} {spread[j] * change[j]:+.2f}" for j in largest)
    print(f"wine {i}: {before[i]:.2f} -> {after[i]:.2f} with {what}")
assert (before < 0.5).all() and (after >= SURE - 1e-6).all()
assert (costs[:, -1] < 0.7 * costs[:, 0]).all()
