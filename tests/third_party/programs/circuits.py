"""pennylane: circuits inside JAX programs, run on the host by NumPy and by C++."""

import jax
import jax.numpy as jnp
import pennylane as qml


def _circuit(device, **options):
    @qml.qnode(device, interface="jax-jit", **options)
    def circuit(x, y):
        qml.RX(x, wires=0)
        qml.RY(y, wires=1)
        qml.CNOT(wires=[0, 1])
        return qml.expval(qml.PauliZ(1))

    return circuit


_X, _Y = 0.4, 0.7


def adjoint_differentiation_in_lightning():
    circuit = _circuit(qml.device("lightning.qubit", wires=2), diff_method="adjoint")
    return jax.jit(jax.value_and_grad(circuit, argnums=(0, 1)))(_X, _Y)


def parameter_shift():
    circuit = _circuit(qml.device("default.qubit", wires=2), diff_method="parameter-shift")
    return jax.jit(jax.value_and_grad(circuit))(_X, _Y)


def finite_differences_in_lightning():
    circuit = _circuit(
        qml.device("lightning.qubit", wires=2),
        diff_method="finite-diff",
        gradient_kwargs={"h": 0.1},
    )
    return jax.jit(jax.grad(circuit))(_X, _Y)


def a_hessian_by_parameter_shift():
    circuit = _circuit(
        qml.device("lightning.qubit", wires=2), diff_method="parameter-shift", max_diff=2
    )
    return jax.jit(jax.hessian(circuit))(_X, _Y)


def vectorised():
    circuit = _circuit(qml.device("lightning.qubit", wires=2), diff_method="adjoint")
    return jax.jit(jax.vmap(circuit, in_axes=(0, None)))(jnp.linspace(0.0, 1.0, 5), _Y)


def vectorised_on_a_device_that_broadcasts():
    circuit = _circuit(qml.device("reference.qubit", wires=2), diff_method="parameter-shift")
    return jax.jit(jax.vmap(circuit, in_axes=(0, None)))(jnp.linspace(0.0, 1.0, 5), _Y)


def in_a_training_loop():
    circuit = _circuit(qml.device("lightning.qubit", wires=2), diff_method="adjoint")

    def step(x, _):
        value, slope = jax.value_and_grad(circuit)(x, _Y)
        return x - 0.3 * slope, value

    return jax.jit(lambda x: jax.lax.scan(step, x, None, length=6))(_X)


def several_results():
    @qml.qnode(qml.device("lightning.qubit", wires=2), interface="jax-jit", diff_method="adjoint")
    def circuit(x):
        qml.RX(x, wires=0)
        qml.CNOT(wires=[0, 1])
        return qml.expval(qml.PauliZ(0)), qml.expval(qml.PauliX(1))

    return jax.jit(jax.jacobian(circuit))(_X), jax.jit(circuit)(_X)


def a_state_vector():
    @qml.qnode(qml.device("lightning.qubit", wires=2), interface="jax-jit", diff_method=None)
    def circuit(x):
        qml.RX(x, wires=0)
        qml.CNOT(wires=[0, 1])
        return qml.state()

    return jax.jit(lambda x: jnp.abs(circuit(x)))(_X)


def a_device_that_fails():
    class Failing(type(qml.device("default.qubit"))):
        def execute(self, circuits, execution_config=None):
            raise RuntimeError("the device is not calibrated")

    circuit = _circuit(Failing(wires=2), diff_method="parameter-shift")
    return jax.jit(circuit)(_X, _Y)
