"""What a self-test found: rows of a table."""

from __future__ import annotations

import dataclasses

from callbax._runtime.errors import CallbackError


class CheckError(CallbackError, AssertionError):
    """`callbax.check` found a fault, and was asked to raise.

    >>> import numpy as np, callbax as cb
    >>> wrong = cb.external(np.sin, result=cb.like(0))
    >>> _ = wrong.defjvp(lambda x, answer: (lambda t: 2 * t,))  # the derivative is cos(x)
    >>> cb.check(wrong, np.float32(1), raise_on_failure=True, print_table=False)
    Traceback (most recent call last):
    callbax.CheckError: ...
    """


CheckError.__module__ = "callbax"


class NotTested(Exception):
    """Why a test does not apply."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One row of the table that `callbax.check` prints.

    Attributes:
      name: what was tested.
      ok: whether it held; None if it does not apply, or could not be tested.
      detail: what was compared, what came out wrong, or why it was not tested.

    >>> import numpy as np, callbax as cb
    >>> report = cb.check(cb.external(np.sin, result=cb.like(0)), np.float32(1), print_table=False)
    >>> report.findings[0].ok
    True
    """

    name: str
    ok: bool | None
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `callbax.check` returns; as text it is the table that `check` prints.

    Attributes:
      function: the description of the function.
      findings: a `Finding` for each row of the table.

    >>> import numpy as np, callbax as cb
    >>> report = cb.check(cb.external(np.sin, result=cb.like(0)), np.float32(1), print_table=False)
    >>> report.ok, report.failures
    (True, ())
    """

    function: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The rows that did not hold."""
        return tuple(finding for finding in self.findings if finding.ok is False)

    def __str__(self) -> str:
        words = {True: "ok", False: "FAILED", None: "-"}
        width = max((len(finding.name) for finding in self.findings), default=0)
        lines = [f"callbax.check of {self.function}"]
        for finding in self.findings:
            line = f"  {finding.name:<{width}}  {words[finding.ok]:<6}  {finding.detail}"
            lines.append(line.rstrip())
        return "\n".join(lines)
