#include "dlpack.h"

#include <string>
#include <utility>

#include "dtypes.h"
#include "python.h"

namespace callbax {
namespace {

// XLA's codes of types, and DLPack's. DLPack has none for packed types that all libraries agree on.
constexpr std::pair<int, uint8_t> kTypes[] = {
    {2, 0},  {3, 0},  {4, 0},  {5, 0},                                            // integers
    {6, 1},  {7, 1},  {8, 1},  {9, 1},                                            // without sign
    {10, 2}, {11, 2}, {12, 2}, {16, 4},                                           // float, bfloat
    {15, 5}, {18, 5}, {1, 6},                                                     // complex, bool
    {29, 7}, {28, 8}, {23, 9}, {20, 10}, {25, 11}, {19, 12}, {24, 13}, {33, 14},  // float8
};

}  // namespace

DlpackType DlpackTypeOf(int code) {
  for (const auto& [known, type] : kTypes) {
    if (known == code) return {type, static_cast<uint8_t>(FindDtype(code)->bits), 1};
  }
  const Dtype* dtype = FindDtype(code);
  throw nb::buffer_error(
      (std::string("DLPack has no type for ") + (dtype ? dtype->name : "this")).c_str());
}

int CodeOfDlpack(const DlpackType& type) {
  for (const auto& [code, known] : kTypes) {
    if (known == type.code && FindDtype(code)->bits == type.bits && type.lanes == 1) return code;
  }
  const std::string text = std::to_string(type.code) + " of " + std::to_string(type.bits) + " bits";
  throw nb::buffer_error(("JAX has no dtype for DLPack's type " + text).c_str());
}

}  // namespace callbax
