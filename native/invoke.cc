// One call from XLA into Python: GIL, arguments, call, results, exception.
#include <atomic>
#include <mutex>
#include <set>
#include <utility>

#include "arrays.h"
#include "call.h"
#include "floating_point.h"
#include "interrupt.h"
#include "lanes.h"
#include "observer.h"
#include "outcome.h"
#include "python.h"
#include "surroundings.h"

namespace callbax {
namespace {

PyObject* Target(const CallSite& site) { return static_cast<PyObject*>(site.callback->target()); }

// Runs of several devices in which a callback has failed. In such a run the failing device must not
// leave its peers waiting in a collective, so it completes with poisoned results and calls nothing
// more; the error is raised by the next effects barrier. Only the newest runs are remembered, and of a
// run without an id nothing is.
class FailedRuns {
 public:
  void Add(int64_t run) {
    if (run == kNoRun) return;
    std::lock_guard<std::mutex> lock(mutex_);
    runs_.insert(run);
    if (runs_.size() > kRemembered) runs_.erase(runs_.begin());
    any_ = true;
  }
  bool Has(int64_t run) {
    if (run == kNoRun || !any_.load(std::memory_order_acquire)) return false;
    std::lock_guard<std::mutex> lock(mutex_);
    return runs_.count(run) > 0;
  }

 private:
  static constexpr size_t kRemembered = 256;
  std::mutex mutex_;
  std::set<int64_t> runs_;  // run ids grow, so the smallest is the oldest; guarded by mutex_
  std::atomic<bool> any_{false};
};

FailedRuns& failed_runs() {
  static FailedRuns* instance = new FailedRuns;
  return *instance;
}

// Calls the function and takes its results. False with an error set on failure. (This and what calls it
// have two callers each, with and without an observer; a call would cost 5 % of a scan's step.)
[[gnu::always_inline]] inline bool CallFunction(const CallSite& site, CallArrays& arrays) {
  auto* function = static_cast<PyObject*>(site.callback->function.get());
  auto* keywords = static_cast<PyObject*>(site.callback->keywords.get());
  const size_t named = keywords ? static_cast<size_t>(PyTuple_GET_SIZE(keywords)) : 0;
  // The free place in front may be used for a bound method's self.
  nb::object value = nb::steal(
      PyObject_Vectorcall(function, arrays.arguments(),
                          (arrays.size() - named) | PY_VECTORCALL_ARGUMENTS_OFFSET, keywords));
  return value && arrays.TakeResults(value.ptr());
}

// Sets the exception that the target makes of a kernel's failure. Needs the GIL.
void RaiseKernelFailure(const CallSite& site, const KernelFailure& failure) {
  nb::object function = nb::steal(PyObject_GetAttrString(Target(site), "function"));
  if (!function) return;
  nb::object message = nb::steal(PyUnicode_DecodeUTF8(
      failure.message.data(), static_cast<Py_ssize_t>(failure.message.size()), "replace"));
  if (!message) return;
  nb::object error =
      nb::steal(PyObject_CallMethod(function.ptr(), "failure", "iO", failure.code, message.ptr()));
  if (error) SetException(error);
}

[[gnu::always_inline]] inline bool RunLane(CallSite& site, const std::vector<Buffer>& operands,
                                           const std::vector<Buffer>& results, Device* device) {
  CallArrays arrays(site, operands, results, device);
  return arrays.Finish(arrays.Make() && CallFunction(site, arrays)) && !Interrupted();
}

bool RunLanes(CallSite& site, const std::vector<Buffer>& operands,
              const std::vector<Buffer>& results, Device* device, FailedCall* failed) {
  ExpandedBuffers in(operands);
  ExpandedBuffers out(results);
  in.Load();
  LaneCursor cursor(site.lanes, in.whole(), out.whole());
  if (cursor.problem() != nullptr) {
    PyErr_SetString(PyExc_ValueError, cursor.problem());
    failed->arguments = operands;
    return false;
  }
  for (int64_t lane = 0; lane < cursor.count(); ++lane) {
    cursor.Seek(lane, in.whole(), out.whole());
    if (RunLane(site, cursor.operands(), cursor.results(), device)) continue;
    *failed = {lane, cursor.sizes(), cursor.operands()};
    return false;
  }
  out.Store();
  return true;
}

[[gnu::always_inline]] inline bool Run(CallSite& site, const std::vector<Buffer>& operands,
                                       const std::vector<Buffer>& results, Device* device,
                                       FailedCall* failed) {
  if (!site.lanes.sizes.empty()) return RunLanes(site, operands, results, device, failed);
  if (RunLane(site, operands, results, device)) return true;
  failed->arguments = operands;
  return false;
}

}  // namespace

CallSite::~CallSite() {
  for (SpareArrays& arrays : spare) {
    for (void* array : arrays.arrays) Release(static_cast<PyObject*>(array));
  }
}

CalleePtr ResolveCallee(const std::string& name, std::string* why) {
  if (CalleePtr callee = FindCallee(name)) return callee;
  PyObject* resolve = GetHooks().resolve;
  if (!InterpreterAlive() || resolve == nullptr) {
    *why = "a host function, but the interpreter is shutting down";
    return nullptr;
  }
  GilScope gil;
  // A registration, which keeps the callee alive until it is taken over below, or why there is none.
  nb::object answer =
      nb::steal(PyObject_CallFunction(resolve, "s#", name.data(), (Py_ssize_t)name.size()));
  if (!answer) {
    *why = name + ", which could not be looked up: " + TakeErrorText();
  } else if (PyUnicode_Check(answer.ptr())) {
    nb::object bytes =
        nb::steal(PyUnicode_AsEncodedString(answer.ptr(), "utf-8", "backslashreplace"));
    *why = bytes ? PyBytes_AS_STRING(bytes.ptr()) : TakeErrorText();
  }
  return FindCallee(name);
}

// With an observer's two classes: of the whole call, and of its part that holds the GIL.
template <class Observed, class InPython>
Outcome InvokeObserved(CallSite& site, const std::vector<Buffer>& operands,
                       const std::vector<Buffer>& results, int64_t run_id,
                       Device* device) noexcept {
  try {
    CallInFlight in_flight;
    if (!in_flight.allowed()) {
      return {false, "callbax: " + site.flavour + " was not run: the interpreter is shutting down"};
    }
    if (site.shared_run && failed_runs().Has(run_id)) {
      Poison(results, device);
      return {};
    }
    Observed observed(site, operands, results, run_id);
    OrdinaryFloatingPoint floating_point;
    const bool is_kernel = site.callback->kernel.function != nullptr;
    KernelFailure kernel_failure;
    const bool kernel_is_done = is_kernel && RunKernel(site, operands, results, &kernel_failure);
    if (kernel_is_done && !InterruptWaits()) return {};
    GilScope gil;
    InPython in_python(observed);
    ReleasePending();
    RunningCallback running(Target(site));
    FailedCall failed;
    Surroundings surroundings(in_flight.others(), running.outermost(), site);
    if (kernel_is_done) {
      if (!Interrupted()) return {};
    } else if (is_kernel) {
      failed = kernel_failure.call;
      RaiseKernelFailure(site, kernel_failure);
    } else if (surroundings.entered() && Run(site, operands, results, device, &failed)) {
      return {};
    }
    observed.Fail();
    // On CPU, XLA hands the failure to the call on the thread that calls the program.
    const bool is_lost = site.unheard && (site.deferred || GilScope::OnForeignThread());
    const int64_t number = is_lost ? kUnheard : site.number;
    Failure failure = ReportFailure(Target(site), site.flavour, number, failed);
    if (!failure.poison) return {false, std::move(failure.message)};
    failed_runs().Add(run_id);
    Poison(results, device);
    return {};
  } catch (const std::exception& error) {
    return {false, std::string("callbax: the runtime failed: ") + error.what()};
  }
}

Outcome Invoke(CallSite& site, const std::vector<Buffer>& operands,
               const std::vector<Buffer>& results, int64_t run_id, Device* device) noexcept {
  if (watched.load(std::memory_order_relaxed) != 0) {
    return InvokeObserved<ObservedCall, CallInPython>(site, operands, results, run_id, device);
  }
  return InvokeObserved<UnobservedCall, UnobservedInPython>(site, operands, results, run_id,
                                                            device);
}

}  // namespace callbax
