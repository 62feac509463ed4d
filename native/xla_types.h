// XLA's codes of the data types that are converted here (xla/xla_data.proto, PrimitiveType).
#pragma once

namespace callbax {

constexpr int kInt32 = 4;
constexpr int kInt64 = 5;
constexpr int kUint32 = 8;
constexpr int kUint64 = 9;
constexpr int kFloat32 = 11;
constexpr int kFloat64 = 12;
constexpr int kComplex64 = 15;
constexpr int kComplex128 = 18;

}  // namespace callbax
