"""A Tesseract: an elementwise product with its derivatives, in NumPy."""

import numpy as np
from pydantic import BaseModel
from tesseract_core.runtime import Array, Differentiable, Float32, ShapeDType


class InputSchema(BaseModel):
    x: Differentiable[Array[(None,), Float32]]
    scale: Differentiable[Float32]


class OutputSchema(BaseModel):
    y: Differentiable[Array[(None,), Float32]]


def apply(inputs: InputSchema) -> OutputSchema:
    if inputs.x.min() < 0:
        raise ValueError("x must not be negative")
    return OutputSchema(y=inputs.x**2 * inputs.scale)


def abstract_eval(abstract_inputs):
    return {"y": ShapeDType(shape=abstract_inputs.x.shape, dtype="float32")}


def jacobian_vector_product(inputs, jvp_inputs, jvp_outputs, tangent_vector):
    tangent = np.zeros_like(inputs.x)
    if "x" in jvp_inputs:
        tangent = tangent + 2 * inputs.x * inputs.scale * tangent_vector["x"]
    if "scale" in jvp_inputs:
        tangent = tangent + inputs.x**2 * tangent_vector["scale"]
    return {"y": tangent.astype(np.float32)}


def vector_jacobian_product(inputs, vjp_inputs, vjp_outputs, cotangent_vector):
    cotangents = {}
    if "x" in vjp_inputs:
        cotangents["x"] = (2 * inputs.x * inputs.scale * cotangent_vector["y"]).astype(np.float32)
    if "scale" in vjp_inputs:
        cotangents["scale"] = np.float32((inputs.x**2 * cotangent_vector["y"]).sum())
    return cotangents
