// The arrays that callbacks receive: owned copies of XLA's buffers, recycled where that is safe.
//
// Promise: an array that a callback keeps, or anything that views it (a slice, a memoryview, a
// DLPack export), stays valid and unchanged for ever. A small array is recycled only if the call left
// it exactly as it was made and nobody else holds a reference to it; every such view holds one. A
// large array owns its memory through a capsule, which each view keeps alive.
#pragma once

#include "call.h"
#include "dtypes.h"
#include "python.h"

namespace callbax {

// A new reference to an array with a copy of the operand, or null with an error set. Needs the GIL.
PyObject* TakeArgument(SpareArrays& spare, const Dtype& dtype, const Buffer& operand);

// Takes the reference back after the call.
void ReturnArgument(SpareArrays& spare, const Dtype& dtype, const Buffer& operand, PyObject* array);

// A new array with a copy of the operand that cannot be written to.
PyObject* NewReadOnlyCopy(const Dtype& dtype, const Buffer& operand);

// A new array like the buffer, with undefined content and memory that NumPy cannot resize.
PyObject* NewScratch(const Dtype& dtype, const Buffer& buffer);

// Memory and the capsule that owns it, or null with an error set.
PyObject* NewMemory(int64_t bytes, void** memory);

// Whether the callback left an array just as it was made, with nobody else holding it. `flags` are
// those that it was made with, of OWNDATA, C_CONTIGUOUS, ALIGNED and WRITEABLE.
bool Pristine(PyObject* array, const Dtype& dtype, const Buffer& buffer, int flags);

}  // namespace callbax
