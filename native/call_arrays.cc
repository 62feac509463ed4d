#include "arrays.h"

#include <chrono>
#include <thread>
#include <utility>

#include "outcome.h"

namespace callbax {
namespace {

// A larger argument is not copied for a trial: there may be no room for it.
constexpr int64_t kTrialLimit = int64_t{1} << 30;
// How often, and for how long at first, another thread is waited for; each wait is twice the last.
constexpr int kWaits = 6;
constexpr std::chrono::microseconds kFirstWait{500};

void ClearTracebacks(PyObject* exception) {
  nb::object done =
      nb::steal(PyObject_CallFunctionObjArgs(GetHooks().clear_tracebacks, exception, nullptr));
  if (!done) PyErr_WriteUnraisable(GetHooks().clear_tracebacks);
}

// A list of (array, address of XLA's memory, address of the copy, bytes).
nb::object MovesOf(const std::vector<std::pair<PyObject*, Move>>& moves) {
  nb::object list = nb::steal(PyList_New(0));
  for (const auto& [array, move] : moves) {
    if (!list) break;
    nb::object item = nb::steal(Py_BuildValue("OKKL", array, reinterpret_cast<uintptr_t>(move.from),
                                              reinterpret_cast<uintptr_t>(move.to), move.bytes));
    if (!item || PyList_Append(list.ptr(), item.ptr()) < 0) return nb::object();
  }
  return list;
}

void ReportKept(const CallSite& site, const std::vector<int64_t>& kept, size_t operands,
                const std::vector<std::pair<PyObject*, Move>>& moves, PyObject* exception) {
  nb::object positions = TupleOf(kept.data(), static_cast<int64_t>(kept.size()));
  nb::object moved = MovesOf(moves);
  if (!positions || !moved) return;
  nb::object done = nb::steal(PyObject_CallFunction(
      GetHooks().report_kept, "OOnOO", static_cast<PyObject*>(site.callback->target()),
      positions.ptr(), static_cast<Py_ssize_t>(operands), moved.ptr(),
      exception == nullptr ? Py_None : exception));
}

}  // namespace

CallArrays::CallArrays(CallSite& site, const std::vector<Buffer>& operands,
                       const std::vector<Buffer>& results, Device* device)
    : site_(site),
      operands_(operands),
      results_(results),
      device_(device),
      watched_(site.views || site.out),
      trial_(watched_ && !site.trusted),
      count_(operands.size() + (site.out ? results.size() : 0)) {
  // One list of spare arrays for each; the number is fixed, so this happens once.
  if (site.spare.size() != count_) site.spare.resize(count_);
  if (count_ > kInline) {
    heap_.resize(count_ + 1);
    arguments_ = heap_.data() + 1;
  }
}

CallArrays::~CallArrays() {
  while (made_ > 0) Py_DECREF(arguments_[--made_]);
}

CallArrays::Kind CallArrays::KindOf(size_t i, const Dtype& dtype) const {
  if (device_ != nullptr) return Kind::kOnDevice;
  const bool result = i >= operands_.size();
  if (!result && !site_.views) return Kind::kCopy;
  // XLA packs these, or they are lanes of a buffer that is unpacked for the time of the call.
  if (dtype.packed()) return result ? Kind::kScratch : Kind::kReadOnlyCopy;
  const bool trial =
      trial_ && CountElements(buffer(i).rank, buffer(i).dims) * dtype.itemsize <= kTrialLimit;
  if (result) return trial ? Kind::kTrialScratch : Kind::kWritableView;
  return trial ? Kind::kTrialCopy : Kind::kView;
}

PyObject* CallArrays::Take(size_t i) {
  const Dtype* dtype = FindDtype(buffer(i).dtype);
  if (dtype == nullptr) {
    PyErr_Format(PyExc_TypeError, "argument %zu has XLA data type %d, which has no NumPy dtype", i,
                 buffer(i).dtype);
    return nullptr;
  }
  switch (KindOf(i, *dtype)) {
    case Kind::kCopy: return TakeArgument(site_.spare[i], *dtype, buffer(i));
    case Kind::kReadOnlyCopy:
    case Kind::kTrialCopy: return NewReadOnlyCopy(*dtype, buffer(i));
    case Kind::kView: return TakeView(site_.spare[i], *dtype, buffer(i), false);
    case Kind::kScratch:
    case Kind::kTrialScratch: return NewScratch(*dtype, buffer(i));
    case Kind::kWritableView:
      PrepareToWrite(*dtype, buffer(i));
      return TakeView(site_.spare[i], *dtype, buffer(i), true);
    case Kind::kOnDevice:
      return static_cast<PyObject*>(device_->NewArray(buffer(i), i >= operands_.size()));
  }
  return nullptr;
}

bool CallArrays::Make() {
  while (made_ < count_) {
    arguments_[made_] = Take(made_);
    if (arguments_[made_] == nullptr) return false;
    ++made_;
  }
  return true;
}

bool CallArrays::TakeResults(PyObject* value) {
  if (site_.ignores_result) return true;
  if (!site_.out) return WriteResults(site_, value, results_, device_);
  const bool alone = results_.size() == 1 && value == arguments_[operands_.size()];
  if (value != Py_None && !alone) return WriteResults(site_, value, results_, device_);
  if (device_ != nullptr) return true;
  for (size_t i = operands_.size(); i < count_; ++i) {
    const bool in_place = KindOf(i, dtype(i)) == Kind::kWritableView;
    FinishWriting(in_place ? nullptr : arguments_[i], dtype(i), buffer(i));
  }
  return true;
}

void CallArrays::Return(size_t i) {
  switch (KindOf(i, dtype(i))) {
    case Kind::kCopy: return ReturnArgument(site_.spare[i], dtype(i), buffer(i), arguments_[i]);
    case Kind::kView: return ReturnView(site_.spare[i], dtype(i), buffer(i), false, arguments_[i]);
    case Kind::kWritableView:
      return ReturnView(site_.spare[i], dtype(i), buffer(i), true, arguments_[i]);
    case Kind::kReadOnlyCopy:
    case Kind::kTrialCopy:
    case Kind::kScratch:
    case Kind::kTrialScratch: return Py_DECREF(arguments_[i]);
    case Kind::kOnDevice: device_->Expire(arguments_[i]); return Py_DECREF(arguments_[i]);
  }
}

std::vector<int64_t> CallArrays::Kept() const {
  std::vector<int64_t> kept;
  for (size_t i = 0; i < made_; ++i) {
    if (Py_REFCNT(arguments_[i]) == 1) continue;
    const Kind kind = KindOf(i, dtype(i));
    if (kind == Kind::kCopy || kind == Kind::kReadOnlyCopy || kind == Kind::kScratch) continue;
    kept.push_back(static_cast<int64_t>(i));
  }
  return kept;
}

bool CallArrays::Finish(bool ok) {
  if (device_ != nullptr) ok = JoinDevice(ok);
  if (watched_) ok = SettleKept(ok);
  for (size_t i = 0; i < made_; ++i) Return(i);
  made_ = 0;
  return ok;
}

// Also after a failure, as the function may have begun something.
bool CallArrays::JoinDevice(bool ok) {
  nb::object exception = TakeException();
  const bool joined = device_->Join();
  if (exception) {
    PyErr_Clear();  // the function's own exception matters more
    SetException(exception);
  }
  return ok && joined;
}

bool CallArrays::SettleKept(bool ok) {
  ReleasePending();  // what another library has let go of without the GIL
  std::vector<int64_t> kept = Kept();
  if (kept.empty()) {
    if (ok) site_.trusted = true;
    return ok;
  }
  nb::object exception = TakeException();
  if (exception) {
    ClearTracebacks(exception.ptr());
    kept = Kept();
  }
  if (!kept.empty()) {
    PyGC_Collect();
    kept = Kept();
  }
  auto wait = kFirstWait;
  for (int i = 0; i < kWaits && !kept.empty(); ++i, wait *= 2) {
    Py_BEGIN_ALLOW_THREADS
    std::this_thread::sleep_for(wait);
    Py_END_ALLOW_THREADS
    ReleasePending();
    kept = Kept();
  }
  if (!kept.empty()) {
    site_.trusted = false;
    std::vector<std::pair<PyObject*, Move>> moves;
    for (size_t i : kept) {
      const Kind kind = KindOf(i, dtype(i));
      if (kind != Kind::kView && kind != Kind::kWritableView) continue;
      const Move move = Detach(arguments_[i], dtype(i), buffer(i));
      if (move.bytes > 0) moves.emplace_back(arguments_[i], move);
    }
    ReportKept(site_, kept, operands_.size(), moves, exception.ptr());
    ok = false;
  }
  if (exception) {
    PyErr_Clear();  // of a report that failed: the function's own matters more
    SetException(exception);
  }
  return ok;
}

}  // namespace callbax
