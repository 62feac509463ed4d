// Calls that JAX's own callbacks make in XLA's place, with NumPy arrays where XLA has buffers.
//
// What a program says of the call, the call and its outcome are those of the handlers (ffi_*): only the
// way there differs. XLA's packed types are arrays with one element per byte here.
#pragma once

#include <nanobind/nanobind.h>

namespace callbax {

// Adds the classes CallbackSite and LoopSite.
void DefineHostSites(nanobind::module_& module);

}  // namespace callbax
