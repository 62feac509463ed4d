// Python and NumPy: the interpreter's lock and lifetime, as seen from threads that Python did not make.
//
// Guarantees
//  * GilScope may be used on any thread, nested or not. A thread keeps one Python thread state for
//    as long as it lives, so `threading.local` data survives from one callback to the next, and the
//    7-10 us of making and freeing a state are paid once per thread and not once per call.
//  * Release may be called from anywhere, with or without the GIL, also after the interpreter
//    has gone (then the reference is leaked, as the process is ending).
//
// Race avoided: executables are destroyed on whichever thread drops them. One that is not Python's
// must not wait for the GIL there (whoever holds it may be waiting for that thread), so references
// are then queued, and dropped from the main thread's eval loop once it has passed the GIL on, or
// before the next callback.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

// NumPy's table of functions is one for all files; dtypes.cc imports it.
#define PY_ARRAY_UNIQUE_SYMBOL callbax_numpy_api
#ifndef CALLBAX_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <nanobind/nanobind.h>
#include <numpy/arrayobject.h>
#include <numpy/arrayscalars.h>

#include <string>

namespace nb = nanobind;

namespace callbax {

// True until interpreter shutdown has begun; afterwards no thread may ask for the GIL.
bool InterpreterAlive() noexcept;

class GilScope {
 public:
  GilScope();
  ~GilScope() { PyGILState_Release(state_); }
  GilScope(const GilScope&) = delete;
  GilScope& operator=(const GilScope&) = delete;

  // True on a thread that Python did not make (an XLA worker).
  static bool OnForeignThread() noexcept;

  // Gives this thread its lasting state, if it is not Python's and has one for the moment only: that of
  // whoever has called Python on it. Needs the GIL.
  static void KeepThread();

 private:
  PyGILState_STATE state_;
};

// Drops a reference now if this thread holds the GIL, else soon.
void Release(PyObject* object) noexcept;
// Drops what Release queued. Needs the GIL.
void ReleasePending();

// Functions of the Python half of the runtime, set once when callbax is imported (see _start.py).
struct Hooks {
  PyObject* report = nullptr;   // see failures.report
  PyObject* convert = nullptr;  // (target, value, shapes, dtypes, canonicalize, casting) -> arrays
  PyObject* resolve = nullptr;  // (name) -> Registration, or why there is none
  PyObject* enter_worker = nullptr;      // () -> None, once on each XLA worker thread
  PyObject* clear_tracebacks = nullptr;  // (exception) -> None
  PyObject* report_kept = nullptr;       // (target, positions, operands, moves, exception?) -> None
  PyObject* go_deeper = nullptr;         // (level) -> () -> None, which goes back
  PyObject* configure = nullptr;         // (configuration) -> None, on XLA's threads
  PyObject* follow_tracing = nullptr;    // () -> None, on XLA's threads
  PyObject* keep_failure = nullptr;      // (message) -> None: the next barrier raises it
  PyObject* annotate = nullptr;          // (target) -> what is left when its call has ended
  PyObject* enter_loop = nullptr;        // (policy) -> None, on each thread before a checked loop
  PyObject* leave_loop = nullptr;        // (policy) -> None, on each thread after a checked loop
  PyObject* judge_loop = nullptr;        // (loop's owner, policy, flags) -> None, or raises
};
Hooks& GetHooks() noexcept;

// Whether an exception is set on this thread. Does not need the GIL.
bool ThreadHasException() noexcept;

// The exception that is set, which is cleared; null if none is. Needs the GIL, as what follows.
nb::object TakeException();
void SetException(nb::handle exception);

// str() of an object; empty if that fails. Needs the GIL.
std::string TextOf(PyObject* object);

// A tuple of Python's ints, or null with an error set. Needs the GIL.
nb::object TupleOf(const int64_t* numbers, int64_t count);

// "Type: message" of the exception that is set, which is cleared. Never fails.
std::string TakeErrorText();

}  // namespace callbax
