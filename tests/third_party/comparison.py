"""Comparing what two runs of a program were seen to do, but for what each run has of its own."""

import re
from itertools import groupby

import numpy as np

# In the text of an exception, and in what is logged of it: its frames, and what stands around them.
_FRAME = re.compile(r'^ *File ".*\n?(?: {4}.*\n?)*', re.MULTILINE)
_AROUND = re.compile(
    r"Traceback \(most recent call last\):|INTERNAL: .*(error calling callback|failed):.*|"
    r"callbax: in the call of .*|\[callbax error .*\]"
)
# What an exception came from: callbax's message has it too, JAX's has the exception alone.
_CAUSE = re.compile(r"\n(?:The above exception was|During handling of the above exception).*\n")
_MODULE = re.compile(r"^(?:\w+\.)+(?=\w+: )")  # of an exception's type; JAX's messages have none
_XLA_LOG = re.compile(r"[IWE]\d{4} \d\d:\d\d:.*")
_BAR = re.compile(r"\|[^|\n]*\| ?")
_TIME = re.compile(r"\[[\d:]+(?:<[\d:?]+)?, *[\d.?]+[^\s,\]]*")
_CURSOR = re.compile(r"\x1b\[A")
_ADDRESS = re.compile(r"0x[0-9a-f]+")


def assert_same_values(theirs, ours):
    assert (theirs is None) == (ours is None)
    structure, *leaves = theirs
    assert ours[0] == structure
    for left, right in zip(leaves, ours[1:], strict=True):
        if not isinstance(left, dict):
            assert left == right
            continue
        assert (left["dtype"], left["shape"]) == (right["dtype"], right["shape"])
        np.testing.assert_allclose(right["values"], left["values"], rtol=1e-5, atol=1e-7)


def error_lines(error):
    """The type of an exception, and its text line by line."""
    if error is None:
        return None
    text = _CAUSE.split(error[1])[-1]
    return [error[0], *(_MODULE.sub("", line) for line in _lines(text))]


def output_lines(text):
    """What was written, line by line. Each state of a progress bar is a line."""
    text = _TIME.sub("[", _BAR.sub("|", _CURSOR.sub("", text.replace("\r", "\n"))))
    lines = [line for line in _lines(text) if not _XLA_LOG.fullmatch(line)]
    return [line for line, _ in groupby(lines)] if "|" in text else lines


def _lines(text):
    lines = [_ADDRESS.sub("0x", line).rstrip() for line in _FRAME.sub("", text).splitlines()]
    return [line for line in lines if line and not _AROUND.fullmatch(line)]
