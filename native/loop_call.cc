#include "loop_call.h"

#include <cfenv>

#include "interrupt.h"
#include "outcome.h"
#include "python.h"

namespace callbax {
namespace {

// The bits that NumPy uses for floating-point errors (and error_state.py).
constexpr int kDivide = 1;
constexpr int kOverflow = 2;
constexpr int kUnderflow = 4;
constexpr int kInvalid = 8;

int RaisedFlags() {
  const int raised = std::fetestexcept(FE_ALL_EXCEPT);
  return ((raised & FE_DIVBYZERO) ? kDivide : 0) | ((raised & FE_OVERFLOW) ? kOverflow : 0) |
         ((raised & FE_UNDERFLOW) ? kUnderflow : 0) | ((raised & FE_INVALID) ? kInvalid : 0);
}

}  // namespace

void PythonGuard::Drop() noexcept { Release(static_cast<PyObject*>(exception_.load())); }

bool PythonGuard::Run(const LoopCall& call, const ThreadPool& pool) noexcept {
  CallInFlight in_flight;
  if (!in_flight.allowed()) return false;
  RunLoop(site_, call, pool, this);
  return true;
}

// Needs the GIL.
void PythonGuard::KeepException() noexcept {
  if (!PyErr_Occurred()) return;
  nb::object exception = TakeException();
  void* none = nullptr;
  if (exception_.compare_exchange_strong(none, exception.ptr())) exception.release();
}

void PythonGuard::Enter() noexcept {
  if (site_.policy.empty()) {
    if (PyGILState_GetThisThreadState() == nullptr) GilScope adopts_this_thread;
    return;
  }
  {
    GilScope gil;
    nb::object done =
        nb::steal(PyObject_CallFunction(GetHooks().enter_loop, "s", site_.policy.c_str()));
    KeepException();
  }
  std::feclearexcept(FE_ALL_EXCEPT);
}

void PythonGuard::Leave() noexcept {
  if (site_.policy.empty()) {
    if (!ThreadHasException()) return;
    GilScope gil;
    KeepException();
    return;
  }
  flags_ |= RaisedFlags();
  GilScope gil;
  KeepException();
  nb::object done =
      nb::steal(PyObject_CallFunction(GetHooks().leave_loop, "s", site_.policy.c_str()));
  KeepException();
}

bool PythonGuard::Asks() const noexcept {
  return exception_.load() != nullptr || flags_.load() != 0 || ThreadAsks();
}

bool PythonGuard::ThreadAsks() noexcept { return ThreadHasException() || InterruptWaits(); }

Outcome PythonGuard::Judge(const std::vector<Buffer>& operands,
                           const std::vector<Buffer>& results) noexcept {
  const Loop& loop = *site_.loop;
  CallInFlight in_flight;
  if (!in_flight.allowed()) {
    return {false,
            "callbax: " + loop.name() + " was interrupted: the interpreter is shutting down"};
  }
  GilScope gil;
  if (InterruptWaits() && !PyErr_Occurred()) Interrupted();
  KeepException();
  auto* target = static_cast<PyObject*>(loop.target());
  if (exception_.load() == nullptr && flags_.load() != 0) {
    nb::object done = nb::steal(PyObject_CallFunction(GetHooks().judge_loop, "Osi", target,
                                                      site_.policy.c_str(), flags_.load()));
    KeepException();
  }
  const nb::object exception = nb::steal(static_cast<PyObject*>(exception_.exchange(nullptr)));
  if (!exception) return {};
  SetException(exception);
  Failure failure = ReportFailure(target, "ufunc", site_.number, FailedCall{-1, {}, operands});
  if (!failure.poison) return {false, std::move(failure.message)};
  Poison(results, nullptr);
  return {};
}

}  // namespace callbax
