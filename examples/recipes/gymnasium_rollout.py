"""Reinforcement learning in one compiled program: the environments are gymnasium's.

    pip install '.[recipes]' && python examples/recipes/gymnasium_rollout.py

Sixteen cart-poles step in the host; policy, gradient and training loop are JAX (REINFORCE, Williams
1992). Ordered calls keep the environments' order, also between the iterations of the training.
"""

import jax
import jax.numpy as jnp
import numpy as np

import callbax as cb

try:
    import gymnasium
except ImportError:
    raise SystemExit("this recipe needs gymnasium: pip install '.[recipes]'") from None

LANES, STEPS, ITERATIONS = 16, 200, 40
environments = gymnasium.make_vec("CartPole-v1", num_envs=LANES)
FEATURES = jax.ShapeDtypeStruct((LANES, 4), np.float32)
FLAGS = jax.ShapeDtypeStruct((LANES,), np.bool_)


@cb.external(result=FEATURES, effects="ordered")
def reset(seed):
    return environments.reset(seed=int(seed))[0]


@cb.external(result=(FEATURES, FLAGS), effects="ordered")
def act(actions):
    features, _, fallen, _, _ = environments.step(actions)
    return features, fallen


def chances(weights, features):
    return jax.nn.log_sigmoid(jnp.stack([-features @ weights, features @ weights], axis=-1))


def episode(weights, key):
    """What was seen and done, and whether the pole of that lane still stood."""

    def step(state, key):
        features, stands = state
        actions = jax.random.categorical(key, chances(weights, features))
        after, fallen = act(actions)
        return (after, stands & ~fallen), (features, actions, stands)

    start = reset(jax.random.randint(key, (), 0, 2**30)), jnp.ones(LANES, bool)
    return jax.lax.scan(step, start, jax.random.split(key, STEPS))[1]


def iterate(weights, key):
    features, actions, stood = episode(weights, key)
    to_come = jnp.cumsum(stood[::-1], axis=0)[::-1]  # the return: how long it will go on standing
    advantage = stood * (to_come - to_come.mean(axis=1, keepdims=True)) / to_come.std()

    def loss(weights):
        chosen = jnp.take_along_axis(chances(weights, features), actions[..., None], axis=-1)
        return -(chosen[..., 0] * advantage).sum() / stood.sum()

    return weights - 8 * jax.grad(loss)(weights), stood.sum(axis=0).mean()


train = jax.jit(lambda weights, keys: jax.lax.scan(iterate, weights, keys))
_, lengths = train(jnp.zeros(4), jax.random.split(jax.random.key(0), ITERATIONS))
print("steps until the pole falls, of at most 200:", *np.asarray(lengths[::8]).round().astype(int))
assert lengths[-5:].mean() > 3 * lengths[0]
