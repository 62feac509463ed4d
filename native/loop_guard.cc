#include "loop_guard.h"

#include <cfenv>

#include "failure.h"
#include "python.h"
#include "results.h"

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

PyObject* TakeException() {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  return value;
}

}  // namespace

PythonGuard::~PythonGuard() { Release(static_cast<PyObject*>(exception_.load())); }

// Needs the GIL.
void PythonGuard::KeepException() noexcept {
  if (!PyErr_Occurred()) return;
  PyObject* exception = TakeException();
  void* none = nullptr;
  if (!exception_.compare_exchange_strong(none, exception)) Py_XDECREF(exception);
}

void PythonGuard::Enter() noexcept {
  if (policy_.empty()) {
    if (PyGILState_GetThisThreadState() == nullptr) GilScope adopts_this_thread;
    return;
  }
  {
    GilScope gil;
    Owned done(PyObject_CallFunction(GetHooks().enter_loop, "s", policy_.c_str()));
    KeepException();
  }
  std::feclearexcept(FE_ALL_EXCEPT);
}

void PythonGuard::Leave() noexcept {
  if (policy_.empty()) {
    if (!ThreadHasException()) return;
    GilScope gil;
    KeepException();
    return;
  }
  flags_ |= RaisedFlags();
  GilScope gil;
  KeepException();
  Owned done(PyObject_CallFunction(GetHooks().leave_loop, "s", policy_.c_str()));
  KeepException();
}

Outcome PythonGuard::Judge(const Loop& loop, int64_t call_number,
                           const std::vector<Buffer>& operands,
                           const std::vector<Buffer>& results) noexcept {
  if (exception_.load() == nullptr && flags_.load() == 0 && !ThreadHasException()) return {};
  GilScope gil;
  KeepException();
  if (exception_.load() == nullptr && !policy_.empty()) {
    Owned done(PyObject_CallFunction(GetHooks().judge_loop, "Osi", loop.owner, policy_.c_str(),
                                     flags_.load()));
    KeepException();
  }
  auto* exception = static_cast<PyObject*>(exception_.exchange(nullptr));
  if (exception == nullptr) return {};
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception)), exception);
  Py_DECREF(exception);
  Failure failure = ReportFailure(static_cast<PyObject*>(loop.owner), "ufunc", call_number,
                                  FailedCall{-1, {}, operands});
  if (!failure.poison) return {false, std::move(failure.message)};
  Poison(results);
  return {};
}

bool LoopHasRaised() noexcept { return ThreadHasException(); }

LoopPtr ResolveLoop(const std::string& name, std::string* why) {
  LoopPtr loop = FindLoop(name);
  if (loop || !CanResolve(why)) return loop;
  GilScope gil;
  // Keeps the loop alive until it is taken over below.
  const Owned registration = ResolveName(GetHooks().resolve_loop, name, why);
  return FindLoop(name);
}

}  // namespace callbax
