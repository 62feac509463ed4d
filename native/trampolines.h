// Scalar C functions as loops of the kind that NumPy's ufuncs have (see loops.h).
#pragma once

#include <string>

namespace callbax {

// The address of a function and what it gets as trailing `void*`: the `data` of its loop.
struct ScalarFunction {
  void* function = nullptr;
  void* user_data = nullptr;
};

// strides and sizes are those of a ufunc's inner loop: one element per argument, then the result.
using ScalarLoop = void (*)(char** args, const intptr_t* dims, const intptr_t* steps, void* data);

// The loop that calls a C function of that signature; null if there is none.
//
// The signature is "arguments>result", in NumPy's letters: d double, f float, i int32, l int64,
// D double complex, F float complex; then the function's trailing argument, which is no operand: "0"
// for an int that is 0 (Cython's skip_dispatch), "p" for the user data. As in "ddl>d", "D>D0".
ScalarLoop FindScalarLoop(const std::string& signature) noexcept;

}  // namespace callbax
