// A scalar C function as a NumPy ufunc with one loop, so that it is called as every ufunc is.
#pragma once

#include <string>

#include "python.h"

namespace callbax {

// Imports NumPy's ufunc API; call once with the GIL. False with a Python error set on failure.
bool ImportUfuncApi();

// A new ufunc that calls the function by its signature (see trampolines.h). It keeps `owner` alive,
// and dies as Python objects do. Null with a Python error set if there is no such loop. Needs the
// GIL.
PyObject* MakeScalarUfunc(const std::string& name, const std::string& doc,
                          const std::string& signature, void* function, void* user_data,
                          PyObject* owner);

}  // namespace callbax
