// What a callback returned, written into XLA's result buffers.
#pragma once

#include <vector>

#include "call.h"
#include "python.h"

namespace callbax {

// Writes `value`, the callback's return value, into one buffer per result. The common cases (arrays
// and scalars of just the right type, alone or in a tuple or list) are done here; all others, and
// every complaint, go through the `convert` hook. False with a Python error set on failure.
bool WriteResults(const CallSite& site, PyObject* value, const std::vector<Buffer>& results);

// Fills the buffers with NaN, or with zero where the type has no NaN.
void Poison(const std::vector<Buffer>& results) noexcept;

}  // namespace callbax
