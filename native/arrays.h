// The arrays that callbacks receive: owned copies of XLA's buffers, or views of them.
//
// Copies. An array that a callback keeps, or anything that views it (a slice, a memoryview, a DLPack
// export), stays valid and unchanged for ever. A small array is recycled only if the call left it
// exactly as it was made and nobody else holds a reference to it; every such view holds one. A large
// array owns its memory through a capsule, which each view keeps alive.
//
// Views. XLA uses the memory for other data after the call, so one that somebody still holds then is an
// error (see call_arrays.h). Every NumPy view of such an array, memoryview, DLPack capsule and foreign
// tensor holds a reference to the array object itself: the array has no owner behind it that they
// could refer to instead. So a reference count of one proves that nothing refers to the memory. Such an
// array is recycled.
//
// All need the GIL.
#pragma once

#include "call.h"
#include "dtypes.h"
#include "python.h"

namespace callbax {

// A new reference to an array with a copy of the operand, or null with an error set.
PyObject* TakeArgument(SpareArrays& spare, const Dtype& dtype, const Buffer& operand);

// Takes the reference back after the call.
void ReturnArgument(SpareArrays& spare, const Dtype& dtype, const Buffer& operand, PyObject* array);

// A new array with a copy of the operand that cannot be written to.
PyObject* NewReadOnlyCopy(const Dtype& dtype, const Buffer& operand);

// A new array like the buffer, with undefined content and memory that NumPy cannot resize.
PyObject* NewScratch(const Dtype& dtype, const Buffer& buffer);

// A new reference to an array over the buffer, or null with an error set.
PyObject* TakeView(SpareArrays& spare, const Dtype& dtype, const Buffer& buffer, bool writable);

// Takes the reference back after the call.
void ReturnView(SpareArrays& spare, const Dtype& dtype, const Buffer& buffer, bool writable,
                PyObject* view);

// A range of memory that was XLA's, and the copy of it that took its place.
struct Move {
  char* from = nullptr;
  char* to = nullptr;
  int64_t bytes = 0;
};

// Gives a view that is kept memory of its own, with the same content. What was made from it still refers
// to XLA's memory until it is moved too. Zero bytes moved: there was no need, or no memory.
Move Detach(PyObject* view, const Dtype& dtype, const Buffer& buffer) noexcept;

// Points an array or a memoryview to the copy, if it points into the range. What it was made from must
// own the copy.
void Follow(PyObject* object, const Move& move) noexcept;

}  // namespace callbax
