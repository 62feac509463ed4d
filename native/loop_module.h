// The part of the Python module that is about compiled loops.
#pragma once

#include <nanobind/nanobind.h>

namespace callbax {

void DefineLoops(nanobind::module_& m);

}  // namespace callbax
