#include "rows.h"

#include <numpy/arrayobject.h>

#include <cmath>
#include <cstring>
#include <stdexcept>

namespace nb = nanobind;

namespace callbax {
namespace {

constexpr size_t kMostRows = 4096;

// Field: where it is kept in a Number. The kind is NumPy's letter.
template <class T, auto Field, char kKind>
bool Read(PyObject* value, Number* number) {
  if (!PyArray_Check(value)) return false;
  auto* array = reinterpret_cast<PyArrayObject*>(value);
  const bool alike = PyArray_DESCR(array)->kind == kKind && PyArray_ITEMSIZE(array) == sizeof(T);
  if (!alike || PyArray_SIZE(array) != 1 || PyArray_ISBYTESWAPPED(array)) return false;
  T element;
  std::memcpy(&element, PyArray_DATA(array), sizeof element);
  number->*Field = element;
  return true;
}

struct Dtype {
  const char* name;
  NumberKind kind;
  ReadNumber read;
};

constexpr auto kSigned = &Number::signed_integer;
constexpr auto kUnsigned = &Number::unsigned_integer;
constexpr auto kReal = &Number::real;

constexpr Dtype kDtypes[] = {
    {"b1", NumberKind::kBool, Read<uint8_t, kUnsigned, 'b'>},
    {"i1", NumberKind::kSigned, Read<int8_t, kSigned, 'i'>},
    {"i2", NumberKind::kSigned, Read<int16_t, kSigned, 'i'>},
    {"i4", NumberKind::kSigned, Read<int32_t, kSigned, 'i'>},
    {"i8", NumberKind::kSigned, Read<int64_t, kSigned, 'i'>},
    {"u1", NumberKind::kUnsigned, Read<uint8_t, kUnsigned, 'u'>},
    {"u2", NumberKind::kUnsigned, Read<uint16_t, kUnsigned, 'u'>},
    {"u4", NumberKind::kUnsigned, Read<uint32_t, kUnsigned, 'u'>},
    {"u8", NumberKind::kUnsigned, Read<uint64_t, kUnsigned, 'u'>},
    {"f4", NumberKind::kSingle, Read<float, kReal, 'f'>},
    {"f8", NumberKind::kDouble, Read<double, kReal, 'f'>},
};

nb::object PythonNumber(NumberKind kind, Number number) {
  switch (kind) {
    case NumberKind::kBool: return nb::bool_(number.unsigned_integer != 0);
    case NumberKind::kSigned: return nb::int_(number.signed_integer);
    case NumberKind::kUnsigned: return nb::int_(number.unsigned_integer);
    default: return nb::float_(number.real);
  }
}

}  // namespace

Columns ColumnsOf(const std::vector<std::string>& dtypes) {
  Columns columns;
  for (const std::string& name : dtypes) {
    const Dtype* found = nullptr;
    for (const Dtype& dtype : kDtypes) found = dtype.name == name ? &dtype : found;
    if (found == nullptr) return {};
    columns.kinds.push_back(found->kind);
    columns.read.push_back(found->read);
  }
  return columns;
}

bool Rows::Append(size_t call, const nb::tuple& values) {
  if (call != call_ || size() >= kMostRows) return false;
  if (packed_) return AppendNumbers(values);
  arrays_.push_back(values);
  return true;
}

bool Rows::AppendNumbers(const nb::tuple& values) {
  if (values.size() != width()) return false;
  const size_t before = numbers_.size();
  numbers_.resize(before + width());
  for (size_t k = 0; k < width(); ++k) {
    if (!columns_->read[k](values[k].ptr(), &numbers_[before + k])) {
      numbers_.resize(before);
      return false;
    }
  }
  return true;
}

void Rows::Drop(size_t count) {
  for (size_t row = dropped_; !packed_ && row < dropped_ + count; ++row) arrays_[row] = nb::tuple();
  dropped_ += count;
}

size_t Rows::RowBytes() const {
  if (packed_) return width() * sizeof(Number);
  size_t bytes = 0;
  for (nb::handle value : arrays_.at(dropped_)) {
    if (!PyArray_Check(value.ptr())) continue;
    bytes += static_cast<size_t>(PyArray_NBYTES(reinterpret_cast<PyArrayObject*>(value.ptr())));
  }
  return bytes;
}

nb::list Rows::Arrays() const {
  nb::list rows;
  for (size_t row = dropped_; row < arrays_.size(); ++row) rows.append(arrays_[row]);
  return rows;
}

nb::list Rows::Tuples() const {
  nb::list rows;
  const Number* number = numbers();
  for (size_t row = 0; row < size(); ++row) {
    nb::object values = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(width())));
    if (!values.is_valid()) nb::raise_python_error();
    for (size_t k = 0; k < width(); ++k, ++number) {
      PyObject* value = PythonNumber(columns_->kinds[k], *number).release().ptr();
      PyTuple_SET_ITEM(values.ptr(), static_cast<Py_ssize_t>(k), value);
    }
    rows.append(values);
  }
  return rows;
}

std::string Rows::Lines(std::vector<size_t> columns, std::vector<std::string> before,
                        std::string end) const {
  if (columns.size() != before.size()) throw std::invalid_argument("a text before each column");
  for (size_t column : columns) {
    if (!packed_ || column >= width()) throw std::invalid_argument("not a column of numbers");
  }
  const LineFormat format{std::move(columns), std::move(before), std::move(end)};
  nb::gil_scoped_release release;
  return LinesOf(columns_->kinds, numbers(), size(), format);
}

bool Rows::Finite() const {
  const Number* number = numbers();
  for (size_t row = 0; row < size(); ++row) {
    for (size_t k = 0; k < width(); ++k, ++number) {
      const NumberKind kind = columns_->kinds[k];
      const bool real = kind == NumberKind::kSingle || kind == NumberKind::kDouble;
      if (real && !std::isfinite(number->real)) return false;
    }
  }
  return true;
}

bool ImportNumpy() {
  import_array1(false);
  return true;
}

}  // namespace callbax
