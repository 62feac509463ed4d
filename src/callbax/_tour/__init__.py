"""What `python -m callbax` shows: the tour, the benchmarks, facts about the installation.

Nothing here is imported by `import callbax`, and each optional package only where it is used.
"""
