// The numbers of a log's rows: as machine words, and as text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace callbax {

enum class NumberKind { kBool, kSigned, kUnsigned, kSingle, kDouble };

union Number {
  int64_t signed_integer;
  uint64_t unsigned_integer;  // also a bool
  double real;                // also one of single precision
};

// A line of a row is before[0], the number of columns[0], before[1], ..., end.
struct LineFormat {
  std::vector<size_t> columns;
  std::vector<std::string> before;
  std::string end;
};

// A line for each row; a row is kinds.size() numbers. They are written as Python's % operator writes them
// with "%s" (bools), "%d", "%.9g" and "%.17g", so that they can be read back exactly.
std::string LinesOf(const std::vector<NumberKind>& kinds, const Number* numbers, size_t rows,
                    const LineFormat& format);

}  // namespace callbax
