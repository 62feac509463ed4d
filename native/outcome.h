// How a call ends: its results are written into XLA's buffers (results.cc), or its exception is kept, logged
// and described by Python (failure.cc).
#pragma once

#include <string>
#include <vector>

#include "call.h"
#include "dtypes.h"
#include "python.h"

namespace callbax {

// Writes `value`, the callback's return value, into one buffer per result. The common cases (arrays
// and scalars of just the right type, alone or in a tuple or list) are done here; all others, and
// every complaint, go through the `convert` hook; so does each value of a function that was to write its
// results in place, and that is an error. False with a Python error set on failure.
// On a device, all values go through the hook.
bool WriteResults(const CallSite& site, PyObject* value, const std::vector<Buffer>& results,
                  Device* device);

// For a function that writes a result in place: before it does, and after. `array` is what it has
// written to, if that was not the buffer itself; it must be C-contiguous and of the buffer's size.
void PrepareToWrite(const Dtype& dtype, const Buffer& target) noexcept;
void FinishWriting(PyObject* array, const Dtype& dtype, const Buffer& target) noexcept;

// Fills the buffers with NaN, or with zero where the type has no NaN.
void Poison(const std::vector<Buffer>& results, Device* device) noexcept;

struct Failure {
  std::string message;  // what XLA carries to the caller
  bool poison = false;  // the run must go on, with poisoned results
};

// The number of calls whose failure nobody would hear of: a barrier is to raise it.
inline constexpr int64_t kUnheard = -1;

// Takes the exception that is set, and leaves it to Python to keep, log and describe it as one of
// `target`. The number is that of the call in numbered_calls, or 0, or kUnheard. Needs the GIL.
Failure ReportFailure(PyObject* target, const std::string& flavour, int64_t call_number,
                      const FailedCall& call);

}  // namespace callbax
