// The path of an exception out of a call: kept, logged and described by Python (failures.report).
#pragma once

#include <string>

#include "call.h"
#include "python.h"

namespace callbax {

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
