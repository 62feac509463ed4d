"""What people do with callbacks every day: progress, logs, checks, taps, data.

Each tool is built on callbax's public functions alone.
"""
