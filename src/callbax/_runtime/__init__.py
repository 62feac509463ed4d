"""What a call needs while it runs: errors, threads, settings, JAX work inside callbacks."""
