"""What people do with callbacks every day: progress, logs, checks, taps, data.

Each tool is built on callbax's public functions alone.
"""

import inspect

from callbax.tools._progress import Progress as Progress
from callbax.tools.batches import Batches as Batches
from callbax.tools.checks import checked as checked
from callbax.tools.checks import raise_if as raise_if
from callbax.tools.every import every as every
from callbax.tools.finite import check_finite as check_finite
from callbax.tools.log import Log as Log
from callbax.tools.log import LogError as LogError
from callbax.tools.loops import fori_loop as fori_loop
from callbax.tools.loops import map as map
from callbax.tools.loops import scan as scan
from callbax.tools.loops import while_loop as while_loop
from callbax.tools.taps import Taps as Taps
from callbax.tools.taps import collect as collect
from callbax.tools.taps import tap as tap
from callbax.tools.timeline import TimelineWarning as TimelineWarning
from callbax.tools.timeline import timeline as timeline


def __dir__() -> list[str]:
    """The public names: no modules."""
    named = globals().items()
    return sorted(n for n, tool in named if not n.startswith("_") and not inspect.ismodule(tool))
