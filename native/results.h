// What a callback returned, written into XLA's result buffers.
#pragma once

#include <vector>

#include "call.h"
#include "dtypes.h"
#include "python.h"

namespace callbax {

// Writes `value`, the callback's return value, into one buffer per result. The common cases (arrays
// and scalars of just the right type, alone or in a tuple or list) are done here; all others, and
// every complaint, go through the `convert` hook; so does each value of a function that was to write its
// results in place, and that is an error. False with a Python error set on failure.
bool WriteResults(const CallSite& site, PyObject* value, const std::vector<Buffer>& results);

// For a function that writes a result in place: before it does, and after. `array` is what it has
// written to, if that was not the buffer itself; it must be C-contiguous and of the buffer's size.
void PrepareToWrite(const Dtype& dtype, const Buffer& target) noexcept;
void FinishWriting(PyObject* array, const Dtype& dtype, const Buffer& target) noexcept;

// Fills the buffers with NaN, or with zero where the type has no NaN.
void Poison(const std::vector<Buffer>& results) noexcept;

}  // namespace callbax
