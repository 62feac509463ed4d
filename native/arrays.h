// The arrays that callbacks receive, one by one and those of a call: owned copies of XLA's buffers, or
// views of them.
//
// Copies. An array that a callback keeps, or anything that views it (a slice, a memoryview, a DLPack
// export), stays valid and unchanged for ever. A small array is recycled only if the call left it
// exactly as it was made and nobody else holds a reference to it; every such view holds one. A large
// array owns its memory through a capsule, which each view keeps alive. An operand's memory that is not
// XLA's, but on its way from a GPU, is not copied once more: the array adopts it.
//
// Views. XLA uses the memory for other data after the call, so one that somebody still holds then is an
// error. Every NumPy view of such an array, memoryview, DLPack capsule and foreign tensor holds a
// reference to the array object itself: the array has no owner behind it that they could refer to
// instead. So a reference count of one proves that nothing refers to the memory. Such an array is
// recycled.
//
// Kept views. The reference counts are looked at once the results are written and the returned value is
// dropped, so that a view may be returned. What only looks like keeping is not an error: frames of a
// traceback, whose variables are cleared; cycles, which are collected; another thread on its way to let
// go, which is given a moment.
//
// The memory of an array that was kept is safe as far as it can be:
//  * A call site's first call gets copies in the place of views, and is judged as if they were views.
//    Only a function that has let go of them gets views. So one that always keeps is found out while
//    that is harmless. After an array was kept the site begins anew.
//  * A view that is kept is given memory of its own, with the same content, and so are the arrays and
//    memoryviews made from it that Python's garbage collector can reach.
//  * Not safe: what only C code refers to (a tensor of another library, an iterator of NumPy's), and a
//    variable of a function that runs on another thread. The error says so.
//
// All need the GIL.
#pragma once

#include <vector>

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

// The arrays that one call exchanges with its function: made before it, taken back after it.
class CallArrays {
 public:
  CallArrays(CallSite& site, const std::vector<Buffer>& operands,
             const std::vector<Buffer>& results, Device* device);
  ~CallArrays();
  CallArrays(const CallArrays&) = delete;
  CallArrays& operator=(const CallArrays&) = delete;

  // False with an error set if an array could not be made.
  bool Make();
  // In the order of the operands; with out, those of the results follow. One place in front is free.
  PyObject** arguments() { return arguments_; }
  size_t size() const { return count_; }

  // Takes what the function returned as its results. False with an error set if it does not fit.
  bool TakeResults(PyObject* value);

  // Takes the arrays back; `ok` is whether no error is set. Returns the same for the call as a whole.
  bool Finish(bool ok);

 private:
  // A copy is the function's to keep. The others are not: the trial copy is in the place of a view.
  enum class Kind {
    kCopy,
    kReadOnlyCopy,
    kTrialCopy,
    kView,
    kScratch,
    kTrialScratch,
    kWritableView,
    kOnDevice
  };

  Kind KindOf(size_t i, const Dtype& dtype) const;
  const Buffer& buffer(size_t i) const {
    return i < operands_.size() ? operands_[i] : results_[i - operands_.size()];
  }
  const Dtype& dtype(size_t i) const { return *FindDtype(buffer(i).dtype); }
  PyObject* Take(size_t i);
  void Return(size_t i);
  std::vector<int64_t> Kept() const;
  bool JoinDevice(bool ok);
  bool SettleKept(bool ok);

  // Small calls stay off the heap.
  static constexpr size_t kInline = 8;

  CallSite& site_;
  const std::vector<Buffer>& operands_;
  const std::vector<Buffer>& results_;
  Device* const device_;  // null: the host
  const bool watched_;    // the site has views or out
  const bool trial_;
  size_t count_;
  size_t made_ = 0;
  PyObject* inline_[kInline + 1];
  std::vector<PyObject*> heap_;
  PyObject** arguments_ = inline_ + 1;
};

}  // namespace callbax
