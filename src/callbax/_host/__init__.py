"""Host functions: their options, their calls, their results, and their names in programs."""
