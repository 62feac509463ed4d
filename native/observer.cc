// Totals, records and annotations of calls.
#include "observer.h"

#include <chrono>
#include <mutex>
#include <unordered_map>

#include "dtypes.h"
#include "lanes.h"
#include "python.h"
#include "system.h"

namespace callbax {
namespace {

struct Observations {
  std::mutex mutex;
  // Guarded by it:
  std::unordered_map<const Callback*, std::pair<std::shared_ptr<Callback>, CallTotals>> totals;
  std::vector<CallRecord> records;
  size_t limit = 0;
  int64_t lost = 0;
};

Observations& observations() {
  static Observations* instance = new Observations;
  return *instance;
}

int64_t CountBytes(const std::vector<Buffer>& buffers) {
  int64_t bytes = 0;
  for (const Buffer& buffer : buffers) {
    const Dtype* dtype = FindDtype(buffer.dtype);
    if (dtype != nullptr) bytes += CountElements(buffer.rank, buffer.dims) * dtype->itemsize;
  }
  return bytes;
}

int64_t Nanoseconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

}  // namespace

void ObservedCall::Begin(const CallSite& site, const std::vector<Buffer>& operands,
                         const std::vector<Buffer>& results, int64_t run) {
  CallRecord& record = record_.emplace();
  record.callback = site.callback;
  record.flavour = site.flavour;
  record.thread = ThreadNumber();
  record.run = run;
  CallTotals& call = record.of_call;
  call.calls = 1;
  if (!site.lanes.sizes.empty()) {
    const LaneCursor cursor(site.lanes, operands, results);
    if (cursor.problem() == nullptr) call.calls = cursor.count();
  }
  call.bytes_in = CountBytes(operands);
  call.bytes_out = site.no_results ? 0 : CountBytes(results);
  record.begin = Nanoseconds();
}

void CallInPython::Enter() {
  entered_ = Nanoseconds();
  call_.record_->of_call.waiting = entered_ - call_.record_->begin;
  PyObject* annotate = GetHooks().annotate;
  if (!(call_.watch() & kAnnotations) || annotate == nullptr) return;
  annotation_ =
      PyObject_CallOneArg(annotate, static_cast<PyObject*>(call_.record_->callback->target()));
  if (annotation_ == nullptr) PyErr_Clear();  // a profile that fails is not the program's failure
}

void CallInPython::Leave() {
  if (annotation_ != nullptr) {
    auto* annotation = static_cast<PyObject*>(annotation_);
    nb::object error = TakeException();
    PyObject* left = PyObject_CallMethod(annotation, "__exit__", "OOO", Py_None, Py_None, Py_None);
    if (left == nullptr) PyErr_Clear();
    Py_XDECREF(left);
    Py_DECREF(annotation);
    if (error) SetException(error);
  }
  call_.record_->of_call.python = Nanoseconds() - entered_;
}

void ObservedCall::End() {
  record_->end = Nanoseconds();
  Observations& all = observations();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (watch_ & kTotals) {
    auto& [callback, totals] = all.totals[record_->callback.get()];
    const CallTotals& call = record_->of_call;
    if (!callback) callback = record_->callback;
    totals.calls += call.calls;
    totals.errors += call.errors;
    totals.python += call.python;
    totals.waiting += call.waiting;
    totals.bytes_in += call.bytes_in;
    totals.bytes_out += call.bytes_out;
  }
  if (!(watch_ & kRecords)) return;
  if (all.records.size() < all.limit) {
    all.records.push_back(std::move(*record_));
  } else {
    ++all.lost;
  }
}

void LimitRecords(size_t limit) {
  std::vector<CallRecord> forgotten;  // let go of without the lock
  Observations& all = observations();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.limit = limit;
  all.lost = 0;
  forgotten.swap(all.records);
}

std::vector<CallRecord> TakeRecords(int64_t* lost) {
  std::vector<CallRecord> taken;
  Observations& all = observations();
  std::lock_guard<std::mutex> lock(all.mutex);
  taken.swap(all.records);
  *lost = all.lost;
  all.lost = 0;
  return taken;
}

std::vector<std::pair<std::shared_ptr<Callback>, CallTotals>> ReadTotals(bool forget) {
  std::vector<std::pair<std::shared_ptr<Callback>, CallTotals>> found;
  Observations& all = observations();
  std::lock_guard<std::mutex> lock(all.mutex);
  for (const auto& [_, entry] : all.totals) found.push_back(entry);
  if (forget) all.totals.clear();
  return found;
}

}  // namespace callbax
