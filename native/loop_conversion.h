// Between the types that buffers may have and those that loops compute in.
#pragma once

#include <cstdint>

#include "xla_types.h"

namespace callbax {

template <class To, class From>
void ConvertElements(const void* from, int64_t count, void* to) noexcept {
  const auto* in = static_cast<const From*>(from);
  auto* out = static_cast<To*>(to);
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<To>(in[i]);
}

// `code` is the narrow type. Complex numbers are pairs.
inline void Widen(int code, const void* from, int64_t count, void* to) noexcept {
  switch (code) {
    case kFloat32: return ConvertElements<double, float>(from, count, to);
    case kComplex64: return ConvertElements<double, float>(from, 2 * count, to);
    case kInt32: return ConvertElements<int64_t, int32_t>(from, count, to);
    case kUint32: return ConvertElements<uint64_t, uint32_t>(from, count, to);
    default: return;
  }
}

inline void Narrow(int code, const void* from, int64_t count, void* to) noexcept {
  switch (code) {
    case kFloat32: return ConvertElements<float, double>(from, count, to);
    case kComplex64: return ConvertElements<float, double>(from, 2 * count, to);
    case kInt32: return ConvertElements<int32_t, int64_t>(from, count, to);
    case kUint32: return ConvertElements<uint32_t, uint64_t>(from, count, to);
    default: return;
  }
}

}  // namespace callbax
