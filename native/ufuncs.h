// The loops inside NumPy's ufuncs, and ufuncs that are made for scalar C functions.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "python.h"

namespace callbax {

// Imports NumPy's ufunc API; call once with the GIL. False with a Python error set on failure.
bool ImportUfuncApi();

// The addresses of a ufunc's loop and of its data; zeros with a Python error set if there is none.
// Needs the GIL.
std::pair<uintptr_t, uintptr_t> UfuncLoop(PyObject* ufunc, int index);

// A new ufunc that calls the function by its signature (see loops.h). It keeps `owner` alive,
// and dies as Python objects do. Null with a Python error set if there is no such loop. Needs the
// GIL.
PyObject* MakeScalarUfunc(const std::string& name, const std::string& doc,
                          const std::string& signature, void* function, void* user_data,
                          PyObject* owner);

}  // namespace callbax
