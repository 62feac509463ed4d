#include "numbers.h"

#include <charconv>
#include <cmath>

#ifndef __cpp_lib_to_chars  // as on macOS, whose older versions have it for integers only
#include <xlocale.h>
#include <cstdio>
#endif

namespace callbax {
namespace {

constexpr size_t kLongest = 32;  // characters of a number

void AppendReal(double real, int digits, std::string* text) {
  if (std::isnan(real)) {  // some C libraries write its sign
    *text += "nan";
    return;
  }
  char written[kLongest];
#ifdef __cpp_lib_to_chars
  const auto end =
      std::to_chars(written, written + kLongest, real, std::chars_format::general, digits).ptr;
#else
  static const locale_t plain = newlocale(LC_ALL_MASK, "C", locale_t{});
  const auto end = written + snprintf_l(written, kLongest, plain, "%.*g", digits, real);
#endif
  text->append(written, end - written);
}

template <class Integer>
void AppendInteger(Integer integer, std::string* text) {
  char written[kLongest];
  text->append(written, std::to_chars(written, written + kLongest, integer).ptr - written);
}

void Append(NumberKind kind, Number number, std::string* text) {
  switch (kind) {
    case NumberKind::kBool: *text += number.unsigned_integer != 0 ? "True" : "False"; return;
    case NumberKind::kSigned: return AppendInteger(number.signed_integer, text);
    case NumberKind::kUnsigned: return AppendInteger(number.unsigned_integer, text);
    case NumberKind::kSingle: return AppendReal(number.real, 9, text);
    case NumberKind::kDouble: return AppendReal(number.real, 17, text);
  }
}

}  // namespace

std::string LinesOf(const std::vector<NumberKind>& kinds, const Number* numbers, size_t rows,
                    const LineFormat& format) {
  std::string text;
  for (size_t row = 0; row < rows; ++row, numbers += kinds.size()) {
    for (size_t place = 0; place < format.columns.size(); ++place) {
      const size_t column = format.columns[place];
      text += format.before[place];
      Append(kinds[column], numbers[column], &text);
    }
    text += format.end;
  }
  return text;
}

}  // namespace callbax
