"""The fixtures of tests/process, for programs in processes of their own."""

from process.conftest import run_program, warm  # noqa: F401
