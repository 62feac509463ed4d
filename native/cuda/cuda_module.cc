// The GPU's part of the Python module.
#include <nanobind/stl/string.h>

#include "cuda_driver.h"
#include "pinned.h"
#include "python.h"

namespace callbax {
namespace {

std::string Problem() {
  std::string why;
  FindCudaDriver(&why);
  return why;
}

nb::dict Statistics() {
  nb::dict statistics;
  const CudaDriver* driver = FindCudaDriver(nullptr);
  if (driver == nullptr) return statistics;
  const PinnedStatistics found = PinnedPool::Get(*driver).Count();
  statistics["idle_bytes"] = found.idle;
  statistics["held_bytes"] = found.held;
  statistics["in_flight_bytes"] = found.in_flight;
  statistics["lost_bytes"] = found.lost;
  statistics["waits"] = found.waits;
  statistics["ordinary_blocks"] = found.ordinary;
  return statistics;
}

}  // namespace

void DefineCuda(nb::module_& m) {
  m.def("cuda_problem", &Problem, "Why NVIDIA's driver cannot be used; empty: it can.");
  m.def("cuda_statistics", &Statistics, "Page-locked memory, by state; empty without a driver.");
}

}  // namespace callbax
