// callbax.tools._log_queue: the rows of a log that wait to be written.
//
// Guarantees. All of a queue needs the GIL, so rows are appended, taken and dropped one after the other,
// in the order in which programs append them. Rows that have been taken belong to who took them, and lines
// are made of them without the GIL, while programs append more.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <deque>

#include "rows.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace callbax {
namespace {

class RowQueue {
 public:
  bool idle = true;
  size_t attend_above = 0;

  size_t AddCall(const std::vector<std::string>& dtypes) {
    calls_.push_back(std::make_shared<const Columns>(ColumnsOf(dtypes)));
    return calls_.size() - 1;
  }

  bool Append(size_t call, const nb::tuple& values) {
    if (runs_.empty() || !runs_.back()->Append(call, values)) AppendToNewRun(call, values);
    ++size_;
    return idle || size_ > attend_above;
  }

  std::shared_ptr<Rows> Take() {
    if (runs_.empty()) return nullptr;
    std::shared_ptr<Rows> rows = std::move(runs_.front());
    runs_.pop_front();
    size_ -= rows->size();
    return rows;
  }

  void PutBack(std::shared_ptr<Rows> rows) {
    size_ += rows->size();
    runs_.push_front(std::move(rows));
  }

  void Drop(size_t count) {
    while (count > 0 && !runs_.empty()) {
      Rows& oldest = *runs_.front();
      const size_t dropped = std::min(count, oldest.size());
      oldest.Drop(dropped);
      size_ -= dropped;
      count -= dropped;
      if (oldest.size() == 0) runs_.pop_front();
    }
  }

  size_t size() const { return size_; }

 private:
  void AppendToNewRun(size_t call, const nb::tuple& values) {
    const std::shared_ptr<const Columns>& columns = calls_.at(call);
    auto rows = std::make_shared<Rows>(call, columns, !columns->kinds.empty());
    if (!rows->Append(call, values)) {  // an array has several lanes
      rows = std::make_shared<Rows>(call, columns, false);
      rows->Append(call, values);
    }
    runs_.push_back(std::move(rows));
  }

  std::vector<std::shared_ptr<const Columns>> calls_;
  std::deque<std::shared_ptr<Rows>> runs_;
  size_t size_ = 0;  // of all runs
};

}  // namespace

NB_MODULE(_log_queue, module) {
  module.doc() = "The rows of a log that wait to be written.";
  if (!ImportNumpy()) nb::raise_python_error();

  nb::class_<Rows>(module, "Rows", "Consecutive rows of one call in a program.")
      .def("__len__", &Rows::size)
      .def_prop_ro("call", &Rows::call, "What RowQueue.add_call has returned.")
      .def_prop_ro("packed", &Rows::packed, "Whether all are numbers, and not arrays.")
      .def("row_bytes", &Rows::RowBytes, "The bytes of the oldest row.")
      .def("arrays", &Rows::Arrays, "The arrays of each row that is not packed.")
      .def("tuples", &Rows::Tuples, "The numbers of each row that is packed.")
      .def("lines", &Rows::Lines, "columns"_a, "before"_a, "end"_a,
           "A line for each row that is packed: before[0], the number of columns[0], ..., end.")
      .def("finite", &Rows::Finite, "Whether no number is infinite or NaN.");

  nb::class_<RowQueue>(module, "RowQueue", "The rows that wait, in the order in which they came.")
      .def(nb::init<>())
      .def("__len__", &RowQueue::size)
      .def_rw("idle", &RowQueue::idle, "Whether the thread that writes sleeps until it is woken.")
      .def_rw("attend_above", &RowQueue::attend_above, "See `append`.")
      .def("add_call", &RowQueue::AddCall, "dtypes"_a,
           "A number for a call whose rows are numbers of these dtypes ('i4', ...), or any arrays.")
      .def("append", &RowQueue::Append, "call"_a, "values"_a,
           "Appends arrays; returns whether the thread is idle, or more than `attend_above` rows "
           "wait.")
      .def("take", &RowQueue::Take, nb::sig("def take(self) -> Rows | None"),
           "Takes some of the oldest rows, if there are any.")
      .def("put_back", &RowQueue::PutBack, "rows"_a,
           "Puts rows that were taken in front of all others.")
      .def("drop", &RowQueue::Drop, "count"_a, "Drops the oldest rows.");
}

}  // namespace callbax
