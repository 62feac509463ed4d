"""callbax's native runtime: XLA FFI handlers that call Python."""

class Registration:
    """Keeps a registered callback alive."""

    @property
    def name(self) -> str: ...
    @property
    def target(self) -> object: ...

def register(name: str, target: object, function: object, keywords: object | None) -> Registration:
    """
    Enters a callable under a name, unless a living one has it; returns the one that has it.
    """

def lookup(name: str) -> object | None:
    """The living target of that name, or None."""

def set_hooks(
    report: object,
    convert: object,
    resolve: object,
    enter_worker: object,
    clear_tracebacks: object,
    report_kept: object,
) -> None:
    """Sets the Python functions that the runtime calls."""

def handlers() -> dict:
    """Capsules of the FFI handlers, by stage."""

def state_type() -> dict:
    """Capsules of the handlers' state type."""

def statistics() -> dict:
    """Counts of what the runtime holds."""

def watch_interrupts() -> None:
    """Chains the Ctrl-C watcher to Python's handler."""

def close(seconds: float) -> bool:
    """Refuses new calls and waits for those in flight; false on time-out."""
