#define CALLBAX_IMPORTS_NUMPY
#include "dtypes.h"

#include <array>

#include "python.h"

namespace callbax {
namespace {

struct Row {
  int code;
  const char* module;
  const char* name;
  int bits;
  bool is_signed;
  uint64_t nan = 0;
};

// Codes: xla/xla_data.proto, PrimitiveType.
constexpr Row kRows[] = {
    {1, "numpy", "bool", 8, false},
    {26, "ml_dtypes", "int2", 2, true},
    {21, "ml_dtypes", "int4", 4, true},
    {2, "numpy", "int8", 8, true},
    {3, "numpy", "int16", 16, true},
    {4, "numpy", "int32", 32, true},
    {5, "numpy", "int64", 64, true},
    {27, "ml_dtypes", "uint2", 2, false},
    {22, "ml_dtypes", "uint4", 4, false},
    {6, "numpy", "uint8", 8, false},
    {7, "numpy", "uint16", 16, false},
    {8, "numpy", "uint32", 32, false},
    {9, "numpy", "uint64", 64, false},
    {10, "numpy", "float16", 16, true, 0x7E00},
    {11, "numpy", "float32", 32, true, 0x7FC00000},
    {12, "numpy", "float64", 64, true, 0x7FF8000000000000},
    {16, "ml_dtypes", "bfloat16", 16, true, 0x7FC0},
    {15, "numpy", "complex64", 64, true, 0x7FC00000},
    {18, "numpy", "complex128", 128, true, 0x7FF8000000000000},
    {19, "ml_dtypes", "float8_e5m2", 8, true, 0x7E},
    {29, "ml_dtypes", "float8_e3m4", 8, true, 0x78},
    {28, "ml_dtypes", "float8_e4m3", 8, true, 0x7C},
    {20, "ml_dtypes", "float8_e4m3fn", 8, true, 0x7F},
    {23, "ml_dtypes", "float8_e4m3b11fnuz", 8, true, 0x80},
    {24, "ml_dtypes", "float8_e5m2fnuz", 8, true, 0x80},
    {25, "ml_dtypes", "float8_e4m3fnuz", 8, true, 0x80},
    {32, "ml_dtypes", "float4_e2m1fn", 4, false},
    {33, "ml_dtypes", "float8_e8m0fnu", 8, false, 0xFF},
};

constexpr int kCodes = kDtypeCodes;
std::array<Dtype, kCodes> dtypes;

bool ImportRow(const Row& row) {
  nb::object module = nb::steal(PyImport_ImportModule(row.module));
  if (!module) return false;
  nb::object type = nb::steal(PyObject_GetAttrString(module.ptr(), row.name));
  if (!type) return false;
  PyArray_Descr* descr = nullptr;
  if (!PyArray_DescrConverter(type.ptr(), &descr)) return false;
  dtypes[row.code] = Dtype{
      row.name, row.bits, row.is_signed, descr, descr->type_num, PyDataType_ELSIZE(descr), row.nan};
  return true;
}

}  // namespace

bool ImportDtypes() {
  if (PyArray_ImportNumPyAPI() < 0) return false;
  for (const Row& row : kRows) {
    if (!ImportRow(row)) return false;
  }
  return true;
}

const Dtype* FindDtype(int code) noexcept {
  if (code < 0 || code >= kCodes || dtypes[code].descr == nullptr) return nullptr;
  return &dtypes[code];
}

void* EmptyDescr() {
  static PyArray_Descr* descr = nullptr;
  if (descr != nullptr) return descr;
  nb::object fields = nb::steal(Py_BuildValue("[(ss)]", "float0", "V"));
  if (!fields || !PyArray_DescrConverter(fields.ptr(), &descr)) return nullptr;
  return descr;
}

int DtypeCode(const std::string& name) {
  for (const Row& row : kRows) {
    if (name == row.name) return row.code;
  }
  return -1;
}

int CodeOfType(int type_num) noexcept {
  for (int code = 0; code < kCodes; ++code) {
    if (dtypes[code].descr != nullptr && dtypes[code].type_num == type_num) return code;
  }
  return -1;
}

void Unpack(const Dtype& dtype, const void* packed, int64_t count, void* bytes) noexcept {
  const auto* in = static_cast<const uint8_t*>(packed);
  auto* out = static_cast<uint8_t*>(bytes);
  const int per_byte = 8 / dtype.bits;
  const auto mask = static_cast<uint8_t>((1 << dtype.bits) - 1);
  const auto sign = static_cast<uint8_t>(1 << (dtype.bits - 1));
  for (int64_t i = 0; i < count; ++i) {
    auto value = static_cast<uint8_t>((in[i / per_byte] >> ((i % per_byte) * dtype.bits)) & mask);
    if (dtype.is_signed && (value & sign)) value = static_cast<uint8_t>(value | ~mask);
    out[i] = value;
  }
}

void Pack(const Dtype& dtype, const void* bytes, int64_t count, void* packed) noexcept {
  const auto* in = static_cast<const uint8_t*>(bytes);
  auto* out = static_cast<uint8_t*>(packed);
  const int per_byte = 8 / dtype.bits;
  const auto mask = static_cast<uint8_t>((1 << dtype.bits) - 1);
  for (int64_t start = 0; start < count; start += per_byte) {
    uint8_t byte = 0;
    for (int k = 0; k < per_byte && start + k < count; ++k) {
      byte = static_cast<uint8_t>(byte | ((in[start + k] & mask) << (k * dtype.bits)));
    }
    out[start / per_byte] = byte;
  }
}

}  // namespace callbax
