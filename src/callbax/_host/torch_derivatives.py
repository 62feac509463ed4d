"""Derivatives of functions of PyTorch's tensors, by PyTorch: `torch.func`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

Flat = Callable[..., tuple[Any, ...]]  # of tensors, to tensors


def jvp(function: Flat, primals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
    """The tangents of the function's results."""
    func: Any = importlib.import_module("torch.func")
    _, of_results = func.jvp(function, tuple(primals), tuple(tangents))
    return list(of_results)


def vjp(function: Flat, primals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    """The cotangents of the primals, as JAX has them.

    For complex numbers PyTorch's are the conjugates of JAX's.
    """
    func: Any = importlib.import_module("torch.func")
    results, pull_back = func.vjp(function, *primals)
    pairs = zip(cotangents, results, strict=True)
    returned = pull_back(tuple(cotangent.conj().to(result.dtype) for cotangent, result in pairs))
    return [cotangent.conj() for cotangent in returned]


def repeated(tensors: Sequence[Any], batch: tuple[int, ...]) -> list[Any]:
    """The tensors with all of the batch's dimensions in front, where some have size 1."""
    shapes = [(*batch, *tensor.shape[len(batch) :]) for tensor in tensors]
    return [x.expand(shape).contiguous() for x, shape in zip(tensors, shapes, strict=True)]
