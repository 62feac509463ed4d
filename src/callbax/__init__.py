"""JAX's external callbacks done anew: the same API on a native runtime."""

from callbax import debug as debug
from callbax import scipy as scipy
from callbax._callbacks.effects import effects_barrier as effects_barrier
from callbax._callbacks.io import io_callback as io_callback
from callbax._callbacks.pure import pure_callback as pure_callback
from callbax._check.check import check as check
from callbax._check.report import CheckError as CheckError
from callbax._check.report import Finding as Finding
from callbax._check.report import Report as Report
from callbax._errors import CallbackError as CallbackError
from callbax._errors import CallbackResultError as CallbackResultError
from callbax._errors import CallbackViewError as CallbackViewError
from callbax._errors import ExecutorError as ExecutorError
from callbax._errors import KernelError as KernelError
from callbax._external.external import External as External
from callbax._external.external import external as external
from callbax._external.probing import CostlyDerivativeWarning as CostlyDerivativeWarning
from callbax._external.results import Like as Like
from callbax._external.results import infer as infer
from callbax._external.results import like as like
from callbax._failures import original_exception as original_exception
from callbax._failures import reraise as reraise
from callbax._names import ExportWarning as ExportWarning
from callbax._trust import allow as allow
from callbax.interop.kernels import Kernel as Kernel
from callbax.interop.native import get_include as get_include
from callbax.interop.native import native as native
from callbax.interop.ufunc import Ufunc as Ufunc
from callbax.interop.ufunc import ufunc as ufunc

__version__ = "0.1.0"
