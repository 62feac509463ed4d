// C has no way to call a function whose signature is known at run time only. So the signatures of
// numerical functions are instantiated here, as the products of a few types, and looked up by name.
// They hold whatever the machine's calling convention is.
#include <array>
#include <cstdint>
#include <tuple>
#include <utility>

#include "loops.h"

namespace callbax {
namespace {

// C's own complex types: how they are passed differs from a struct on some machines.
__extension__ typedef _Complex double ComplexDouble;
__extension__ typedef _Complex float ComplexFloat;

template <class T>
constexpr char Letter() {
  if constexpr (std::is_same_v<T, double>) return 'd';
  if constexpr (std::is_same_v<T, float>) return 'f';
  if constexpr (std::is_same_v<T, int32_t>) return 'i';
  if constexpr (std::is_same_v<T, int64_t>) return 'l';
  if constexpr (std::is_same_v<T, ComplexDouble>) return 'D';
  if constexpr (std::is_same_v<T, ComplexFloat>) return 'F';
}

// Trailing arguments that are not operands.
struct NoTail {
  static constexpr char kLetter = '\0';
};
struct ZeroTail {
  static constexpr char kLetter = '0';
  static int Value(const ScalarFunction&) { return 0; }
};
struct UserDataTail {
  static constexpr char kLetter = 'p';
  static void* Value(const ScalarFunction& callee) { return callee.user_data; }
};

template <class T>
T& Element(char* address) {
  return *reinterpret_cast<T*>(address);
}

template <class Tail, class Result, class... Arguments>
Result Call(const ScalarFunction& callee, Arguments... arguments) {
  if constexpr (std::is_same_v<Tail, NoTail>) {
    return reinterpret_cast<Result (*)(Arguments...)>(callee.function)(arguments...);
  } else {
    using TailType = decltype(Tail::Value(callee));
    return reinterpret_cast<Result (*)(Arguments..., TailType)>(callee.function)(
        arguments..., Tail::Value(callee));
  }
}

template <class Tail, class Result, class... Arguments, size_t... K>
void Run(char** args, intptr_t count, const intptr_t* steps, const ScalarFunction& callee,
         std::index_sequence<K...>) {
  constexpr size_t kResult = sizeof...(Arguments);
  char* at[] = {args[K]..., args[kResult]};
  for (; count > 0; --count) {
    Element<Result>(at[kResult]) =
        Call<Tail, Result, Arguments...>(callee, Element<Arguments>(at[K])...);
    ((at[K] += steps[K]), ...);
    at[kResult] += steps[kResult];
  }
}

template <class Tail, class Result, class... Arguments>
void RunScalars(char** args, const intptr_t* dims, const intptr_t* steps, void* data) {
  // A copy, which the compiler can keep in registers.
  const ScalarFunction callee = *static_cast<ScalarFunction*>(data);
  Run<Tail, Result, Arguments...>(args, dims[0], steps, callee,
                                  std::index_sequence_for<Arguments...>{});
}

// All functions of `N` arguments with types from two tuples. The signature of number I has in base
// size(ArgumentTypes) the arguments' types as digits, first argument last, and below it the result's.
template <class Tail, class ResultTypes, class ArgumentTypes, size_t N>
class Table {
 public:
  static LoopFunction Find(const char* arguments, char result) {
    size_t index = 0;
    for (size_t k = N; k-- > 0;) {
      const size_t digit = Position<ArgumentTypes>(arguments[k]);
      if (digit == kArguments) return nullptr;
      index = index * kArguments + digit;
    }
    const size_t digit = Position<ResultTypes>(result);
    return digit == kResults ? nullptr : kLoops[index * kResults + digit];
  }

 private:
  static constexpr size_t kResults = std::tuple_size_v<ResultTypes>;
  static constexpr size_t kArguments = std::tuple_size_v<ArgumentTypes>;

  static constexpr size_t Power(size_t base, size_t exponent) {
    return exponent == 0 ? 1 : base * Power(base, exponent - 1);
  }

  // Of the type with that letter; the tuple's size if there is none.
  template <class Types, size_t... I>
  static size_t PositionAmong(char letter, std::index_sequence<I...>) {
    size_t position = sizeof...(I);
    ((Letter<std::tuple_element_t<I, Types>>() == letter ? void(position = I) : void()), ...);
    return position;
  }
  template <class Types>
  static size_t Position(char letter) {
    return PositionAmong<Types>(letter, std::make_index_sequence<std::tuple_size_v<Types>>{});
  }

  template <size_t I, size_t... K>
  static constexpr LoopFunction At(std::index_sequence<K...>) {
    return RunScalars<
        Tail, std::tuple_element_t<I % kResults, ResultTypes>,
        std::tuple_element_t<I / kResults / Power(kArguments, K) % kArguments, ArgumentTypes>...>;
  }
  template <size_t... I>
  static constexpr std::array<LoopFunction, sizeof...(I)> All(std::index_sequence<I...>) {
    return {At<I>(std::make_index_sequence<N>{})...};
  }

  static constexpr auto kLoops = All(std::make_index_sequence<kResults * Power(kArguments, N)>{});
};

// Among the functions of one to `Most` arguments.
template <class Tail, class ResultTypes, class ArgumentTypes, size_t Most>
LoopFunction FindIn(const std::string& arguments, char result, char tail) {
  if constexpr (Most == 0)
    return nullptr;
  else if (arguments.size() != Most) {
    return FindIn<Tail, ResultTypes, ArgumentTypes, Most - 1>(arguments, result, tail);
  } else if (tail != Tail::kLetter) {
    return nullptr;
  } else {
    return Table<Tail, ResultTypes, ArgumentTypes, Most>::Find(arguments.c_str(), result);
  }
}

template <class... T>
using Types = std::tuple<T...>;

}  // namespace

LoopFunction FindScalarLoop(const std::string& signature) noexcept {
  const size_t arrow = signature.find('>');
  if (arrow == std::string::npos || arrow + 1 >= signature.size()) return nullptr;
  const std::string arguments = signature.substr(0, arrow);
  const char result = signature[arrow + 1];
  const char tail = arrow + 2 < signature.size() ? signature[arrow + 2] : '\0';

  using Real = Types<double, float, int32_t, int64_t>;
  using Doubles = Types<double, ComplexDouble>;
  using Floats = Types<float, ComplexFloat>;
  // Real functions; complex ones of one precision; those of Cython modules; those with user data.
  const LoopFunction found[] = {
      FindIn<NoTail, Real, Real, 4>(arguments, result, tail),
      FindIn<NoTail, Doubles, Types<double, ComplexDouble, int32_t, int64_t>, 3>(arguments, result,
                                                                                 tail),
      FindIn<NoTail, Floats, Types<float, ComplexFloat, int32_t, int64_t>, 3>(arguments, result,
                                                                              tail),
      FindIn<ZeroTail, Doubles, Types<double, ComplexDouble, int64_t>, 4>(arguments, result, tail),
      FindIn<ZeroTail, Floats, Floats, 4>(arguments, result, tail),
      FindIn<UserDataTail, Types<double>, Types<double, int32_t, int64_t>, 4>(arguments, result,
                                                                              tail),
  };
  for (LoopFunction loop : found) {
    if (loop != nullptr) return loop;
  }
  return nullptr;
}

}  // namespace callbax
