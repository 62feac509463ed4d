"""Compiled host code as JAX functions, with no Python on the path."""
