// Consecutive rows of one call in a program: of numbers, which are kept as machine words, or of arrays.
//
// Python's numbers would cost more than the rest of a logged step: the program would make them, and the
// thread that writes would free them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#define PY_SSIZE_T_CLEAN
#include <nanobind/nanobind.h>

#include "numbers.h"

namespace callbax {

// The only element of an array of one dtype; false if the array has several, or another dtype.
using ReadNumber = bool (*)(PyObject* array, Number* number);

// How the numbers of a call are read. None if a row of it may hold something else.
struct Columns {
  std::vector<NumberKind> kinds;
  std::vector<ReadNumber> read;
};

// Of dtypes as "i4", "f4": NumPy's dtype.str without the byte order.
Columns ColumnsOf(const std::vector<std::string>& dtypes);

// All needs the GIL, but for the work of Lines.
class Rows {
 public:
  Rows(size_t call, std::shared_ptr<const Columns> columns, bool packed)
      : call_(call), packed_(packed), columns_(std::move(columns)) {}

  size_t call() const { return call_; }
  bool packed() const { return packed_; }
  size_t size() const { return (packed_ ? numbers_.size() / width() : arrays_.size()) - dropped_; }

  // Returns false if the row does not belong here, or these are many rows.
  bool Append(size_t call, const nanobind::tuple& values);

  // Drops the oldest, up to size().
  void Drop(size_t count);

  // The bytes of the oldest row.
  size_t RowBytes() const;

  // The arrays of each row that are not packed.
  nanobind::list Arrays() const;

  // The numbers of each row that are packed, as Python's; as lines of text; whether all are finite.
  nanobind::list Tuples() const;
  std::string Lines(std::vector<size_t> columns, std::vector<std::string> before,
                    std::string end) const;
  bool Finite() const;

 private:
  size_t width() const { return columns_->kinds.size(); }
  const Number* numbers() const { return numbers_.data() + dropped_ * width(); }
  bool AppendNumbers(const nanobind::tuple& values);

  size_t call_;
  bool packed_;
  std::shared_ptr<const Columns> columns_;
  size_t dropped_ = 0;
  std::vector<Number> numbers_;
  std::vector<nanobind::tuple> arrays_;
};

// Needed once, for NumPy's table of functions. Returns false with an error set.
bool ImportNumpy();

}  // namespace callbax
