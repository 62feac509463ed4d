// The GPU's part of the Python module.
#include <nanobind/stl/string.h>

#include "cuda_driver.h"
#include "interrupt.h"
#include "long_calls.h"
#include "pinned.h"
#include "python.h"
#include "worker.h"

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
  statistics["kept_bytes"] = found.kept;
  statistics["in_flight_bytes"] = found.in_flight;
  statistics["lost_bytes"] = found.lost;
  statistics["waits"] = found.waits;
  statistics["ordinary_blocks"] = found.ordinary;
  statistics["detached_calls"] = Worker::Get().Count();
  return statistics;
}

PyObject* tell_of_long_call = nullptr;  // (target) -> None; guarded by the GIL

void TellOfLongCall(const std::shared_ptr<Callback>& callback) {
  const CallInFlight keeps_interpreter;
  if (!keeps_interpreter.allowed()) return;
  const PyGILState_STATE gil = PyGILState_Ensure();
  {
    const nb::object told = nb::steal(
        PyObject_CallOneArg(tell_of_long_call, static_cast<PyObject*>(callback->target())));
    if (!told) PyErr_WriteUnraisable(tell_of_long_call);
  }
  PyGILState_Release(gil);
}

void WatchCalls(double seconds, nb::object tell) {
  PyObject* const before = tell_of_long_call;
  tell_of_long_call = tell.release().ptr();
  Py_XDECREF(before);
  WatchLongCalls(std::chrono::duration<double>(seconds), TellOfLongCall);
}

}  // namespace

void DefineCuda(nb::module_& m) {
  m.def("cuda_problem", &Problem, "Why NVIDIA's driver cannot be used; empty: it can.");
  m.def("cuda_statistics", &Statistics, "Page-locked memory, by state; empty without a driver.");
  m.def(
      "await_detached",
      [](double seconds) { return Worker::Get().Await(std::chrono::duration<double>(seconds)); },
      nb::arg("seconds"), nb::call_guard<nb::gil_scoped_release>(),
      "Waits for the calls that are detached from their programs so far; false on time-out.");
  m.def("forget_detached", &Worker::Forget, "In a forked child: such calls are the parent's.");
  m.def("watch_cuda_calls", &WatchCalls, nb::arg("seconds"), nb::arg("tell"),
        "Has tell(target) called for each call in a program on a GPU that takes longer.");
}

}  // namespace callbax
