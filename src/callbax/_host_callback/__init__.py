"""Taps and calls: what `callbax.host_callback` is made of."""
