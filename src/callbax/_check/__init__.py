"""callbax.check: tries an external function, and reports what does not hold."""
