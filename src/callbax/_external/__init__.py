"""callbax.external: host functions that know their result, batching and derivatives."""
