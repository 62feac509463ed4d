"""JAX's external callbacks done anew: the same API on a native runtime."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from callbax import _versions as _versions
from callbax import debug as debug
from callbax import scipy as scipy
from callbax._callbacks.effects import effects_barrier as effects_barrier
from callbax._callbacks.effects import on_barrier as on_barrier
from callbax._callbacks.export_checks import EXPORT_CHECKS as EXPORT_CHECKS
from callbax._callbacks.io import io_callback as io_callback
from callbax._callbacks.lower_callback import lower_callback as lower_callback
from callbax._callbacks.pure import pure_callback as pure_callback
from callbax._host import names as _names
from callbax._host.names import ExportWarning as ExportWarning
from callbax._host.trust import allow as allow
from callbax._runtime.errors import CallbackError as CallbackError
from callbax._runtime.errors import CallbackResultError as CallbackResultError
from callbax._runtime.errors import CallbackViewError as CallbackViewError
from callbax._runtime.errors import ExecutorError as ExecutorError
from callbax._runtime.errors import KernelError as KernelError
from callbax._runtime.errors import MissingDerivativeError as MissingDerivativeError
from callbax._runtime.failures import original_exception as original_exception
from callbax._runtime.failures import reraise as reraise
from callbax._runtime.listeners import on_failure as on_failure
from callbax._runtime.observation import CallRecord as CallRecord
from callbax._runtime.observation import CallStatistics as CallStatistics
from callbax._runtime.observation import Recording as Recording
from callbax._runtime.observation import Statistics as Statistics
from callbax._runtime.observation import record_calls as record_calls
from callbax._runtime.observation import statistics as statistics

if TYPE_CHECKING:  # the same names as below
    from callbax import host_callback as host_callback
    from callbax import tools as tools
    from callbax._check.check import check as check
    from callbax._check.report import CheckError as CheckError
    from callbax._check.report import Finding as Finding
    from callbax._check.report import Report as Report
    from callbax._compiled.kernels import Kernel as Kernel
    from callbax._compiled.native import get_include as get_include
    from callbax._compiled.native import native as native
    from callbax._compiled.ufunc import Ufunc as Ufunc
    from callbax._compiled.ufunc import ufunc as ufunc
    from callbax._external.external import External as External
    from callbax._external.external import external as external
    from callbax._external.linear import CostlyDerivativeWarning as CostlyDerivativeWarning
    from callbax._external.results import Like as Like
    from callbax._external.results import infer as infer
    from callbax._external.results import like as like
    from callbax._install.install import install as install
    from callbax._install.install import installed as installed
    from callbax._install.install import uninstall as uninstall

__version__ = "0.1.0"

# What is imported when it is asked for, by module: programs that do not use it start sooner.
_LAZY = {
    "callbax._check.check": ("check",),
    "callbax._check.report": ("CheckError", "Finding", "Report"),
    "callbax._compiled.kernels": ("Kernel",),
    "callbax._compiled.native": ("get_include", "native"),
    "callbax._compiled.ufunc": ("Ufunc", "ufunc"),
    "callbax._external.external": ("External", "external"),
    "callbax._external.linear": ("CostlyDerivativeWarning",),
    "callbax._external.results": ("Like", "infer", "like"),
    "callbax._install.install": ("install", "installed", "uninstall"),
    "callbax": ("host_callback", "tools"),
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}


def _get(name: str) -> Any:
    if name not in _MODULE_OF:
        module = sys.modules[__name__]
        raise AttributeError(f"module 'callbax' has no attribute {name!r}", name=name, obj=module)
    if _MODULE_OF[name] == "callbax":
        return importlib.import_module(f"callbax.{name}")
    value = globals()[name] = getattr(importlib.import_module(_MODULE_OF[name]), name)
    return value


if not TYPE_CHECKING:  # a checker is to take any other name for a mistake
    __getattr__ = _get


def __dir__() -> list[str]:
    """The public names."""
    own = {"Any", "TYPE_CHECKING", "importlib", "sys"}
    return sorted(name for name in {*globals(), *_MODULE_OF} - own if not name.startswith("_"))


def _import_all() -> None:
    """So that programs from elsewhere may name what is not in use here yet."""
    for name in _MODULE_OF:
        _get(name)


_names.when_unknown.append(_import_all)
