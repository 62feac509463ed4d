"""The flavours of callback as JAX primitives, and the public functions that bind them."""
