"""A PyTorch model in a JAX loss, differentiated by its inputs and by its parameters.

    pip install '.[recipes]' && python examples/recipes/torch_model.py

The derivative is PyTorch's: the forward call leaves what `torch.func.vjp` has recorded, and the rule
calls it. Under `vmap`, `"broadcast_all"` gives all lanes to one call, each argument with that axis.
"""

import jax
import jax.numpy as jnp
import numpy as np

import callbax as cb

try:
    import torch
except ImportError:
    raise SystemExit("this recipe needs torch: pip install '.[recipes]'") from None

torch.manual_seed(0)
torch.set_num_threads(1)  # the model is small
layers = torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
model = torch.nn.Sequential(*layers)
parameters = {name: jnp.asarray(p.detach().numpy()) for name, p in model.named_parameters()}


def apply(parameters, x):
    return torch.func.functional_call(model, parameters, (x,))[..., 0]


@cb.external(
    result=lambda parameters, x: jax.ShapeDtypeStruct((), x.dtype), vmap_method="broadcast_all"
)
def network(parameters, x):
    """For one x of two numbers, or for any axes of lanes in front of all arguments."""
    function = apply
    for _ in x.shape[:-1]:
        function = torch.func.vmap(function)
    tensors = jax.tree.map(torch.from_numpy, (parameters, x))
    value, pull_back = torch.func.vjp(function, *tensors)
    return value.numpy(), pull_back


@network.def_host_vjp(residuals=True)
def network_vjp(primals, output, cotangent, pull_back):
    gradients = pull_back(torch.from_numpy(np.asarray(cotangent)))
    return jax.tree.map(torch.Tensor.numpy, gradients)


@jax.jit
@jax.value_and_grad
def loss(parameters, xs):
    values = jax.vmap(network, (None, 0))(parameters, xs)
    return jnp.mean((values - xs[:, 0] * xs[:, 1]) ** 2)


xs = jax.random.uniform(jax.random.key(0), (64, 2), minval=-1.0)
before, _ = loss(parameters, xs)
for _ in range(300):
    after, gradient = loss(parameters, xs)
    parameters = jax.tree.map(lambda p, g: p - 0.3 * g, parameters, gradient)
print(f"loss {before:.3f}, after 300 steps by the parameters {after:.4f}")

x = jnp.array([0.5, -0.25])
slope = jax.grad(network, argnums=1)(parameters, x)
print("slopes of x y at (0.5, -0.25), by the inputs:", slope.round(1))
assert after < 0.3 * before and np.allclose(slope, x[::-1], atol=0.2)
