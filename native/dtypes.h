// XLA's data types as NumPy dtypes.
#pragma once

#include <cstdint>
#include <string>

namespace callbax {

struct Dtype {
  const char* name = nullptr;
  int bits = 0;            // as XLA stores an element; below 8: packed, low bits first
  bool is_signed = false;  // sub-byte integers only: sign-extend on unpacking
  void* descr = nullptr;   // PyArray_Descr*, owned
  int type_num = -1;
  int64_t itemsize = 0;  // as NumPy stores an element
  uint64_t nan = 0;      // the bits of a NaN (of complex types, of each part); 0: it has none

  bool packed() const { return bits < 8; }
  int64_t stored_bytes(int64_t count) const { return (count * bits + 7) / 8; }
};

constexpr int kDtypeCodes = 64;  // XLA's codes are below

// Imports NumPy and ml_dtypes; call once with the GIL. False with a Python error set on failure.
bool ImportDtypes();

// Null for a code that NumPy has no dtype for (tokens, 1-bit integers).
const Dtype* FindDtype(int code) noexcept;

// JAX's float0 (a PyArray_Descr*, borrowed), or null with a Python error set.
void* EmptyDescr();

// The code of a dtype by its name, or by NumPy's number of it; or -1.
int DtypeCode(const std::string& name);
int CodeOfType(int type_num) noexcept;

void Unpack(const Dtype& dtype, const void* packed, int64_t count, void* bytes) noexcept;
void Pack(const Dtype& dtype, const void* bytes, int64_t count, void* packed) noexcept;

}  // namespace callbax
