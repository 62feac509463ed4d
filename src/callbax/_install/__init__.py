"""JAX's own callbacks on callbax's runtime."""
