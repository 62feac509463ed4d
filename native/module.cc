// The Python module callbax._native: registrations and little else.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include "blocks.h"
#include "call.h"
#include "dtypes.h"
#include "ffi_cpu.h"
#include "interrupt.h"
#include "loop_module.h"
#include "loops.h"
#include "python.h"
#include "registry.h"
#include "scalar_ufuncs.h"
#include "surroundings.h"
#include "symbols.h"
#include "trampolines.h"
#include "views.h"

namespace nb = nanobind;

namespace callbax {
namespace {

void DropSlotReference(void* object) { Release(static_cast<PyObject*>(object)); }

// Keeps the slot of one name alive from Python's side.
struct Registration {
  void KeepContext(nb::object object) {
    context.reset();
    if (!object.is_none()) {
      context = std::shared_ptr<void>(object.release().ptr(), DropSlotReference);
    }
    slot->SetContext(context);
  }

  SlotPtr slot;
  std::shared_ptr<void> context;  // a contextvars.Context
};

nb::object TargetOf(const SlotPtr& slot) {
  return nb::borrow(static_cast<PyObject*>(slot->callable().target));
}

Registration Register(const std::string& name, nb::object target, nb::object function,
                      nb::object keywords, std::pair<uintptr_t, uintptr_t> kernel) {
  Callable callable;
  callable.kernel = {reinterpret_cast<void*>(kernel.first), reinterpret_cast<void*>(kernel.second)};
  callable.target = target.release().ptr();
  callable.function = function.release().ptr();
  callable.keywords = keywords.is_none() ? nullptr : keywords.release().ptr();
  return {AddSlot(name, callable, DropSlotReference), nullptr};
}

nb::object Lookup(const std::string& name) {
  const SlotPtr slot = FindSlot(name);
  return slot ? TargetOf(slot) : nb::none();
}

void SetHooks(nb::object report, nb::object convert, nb::object resolve, nb::object enter_worker,
              nb::object clear_tracebacks, nb::object report_kept, nb::object go_deeper,
              nb::object configure, nb::object follow_tracing) {
  GetHooks() = Hooks{report.release().ptr(),           convert.release().ptr(),
                     resolve.release().ptr(),          enter_worker.release().ptr(),
                     clear_tracebacks.release().ptr(), report_kept.release().ptr(),
                     go_deeper.release().ptr(),        configure.release().ptr(),
                     follow_tracing.release().ptr()};
}

nb::object ScalarUfunc(const std::string& name, const std::string& doc, const std::string& signature,
                       uintptr_t function, uintptr_t user_data, nb::handle owner) {
  PyObject* ufunc =
      MakeScalarUfunc(name, doc, signature, reinterpret_cast<void*>(function),
                      reinterpret_cast<void*>(user_data), owner.ptr());
  if (ufunc == nullptr) nb::raise_python_error();
  return nb::steal(ufunc);
}

std::pair<std::string, std::string> KeepLibrary(uintptr_t address) {
  const Symbol symbol = KeepLibraryOf(reinterpret_cast<void*>(address));
  return {symbol.name, symbol.library};
}

void FollowMove(nb::object object, uintptr_t from, uintptr_t to, int64_t bytes) {
  Follow(object.ptr(), Move{reinterpret_cast<char*>(from), reinterpret_cast<char*>(to), bytes});
}

nb::dict Handlers() {
  nb::dict handlers;
  handlers["instantiate"] = nb::capsule(InstantiateHandler());
  handlers["execute"] = nb::capsule(ExecuteHandler());
  return handlers;
}

nb::dict StateType() {
  nb::dict type;
  type["type_id"] = nb::capsule(StateTypeIdPointer());
  type["type_info"] = nb::capsule(StateTypeInfoPointer());
  return type;
}

nb::dict Statistics() {
  const BlockStatistics blocks = CountBlocks();
  nb::dict statistics;
  statistics["registered"] = LiveSlots();
  statistics["loops"] = LiveLoops();
  statistics["in_flight"] = CallsInFlight();
  statistics["in_flight_on_workers"] = CallsInFlightOnWorkers();
  statistics["idle_bytes"] = blocks.idle_bytes;
  statistics["live_bytes"] = blocks.live_bytes;
  return statistics;
}

}  // namespace
}  // namespace callbax

NB_MODULE(_native, m) {
  using namespace callbax;
  // Programs in JAX's caches may outlive the interpreter, and keep their callbacks registered.
  nb::set_leak_warnings(false);
  m.doc() = "callbax's native runtime: XLA FFI handlers that call Python.";
  if (!ImportDtypes() || !ImportUfuncApi()) nb::raise_python_error();

  nb::class_<Registration>(m, "Registration", "Keeps a registered callback alive.")
      .def_prop_ro("name", [](const Registration& self) { return self.slot->name(); })
      .def_prop_ro("target", [](const Registration& self) { return TargetOf(self.slot); })
      .def("keep_context", &Registration::KeepContext, nb::arg("context").none(),
           "Sets the contextvars.Context of calls that are compiled from now on, on XLA's threads.");

  m.def("register", &Register, nb::arg("name"), nb::arg("target"), nb::arg("function"),
        nb::arg("keywords").none(), nb::arg("kernel") = std::pair<uintptr_t, uintptr_t>(),
        "Enters a callable under a name, unless a living one has it; returns the one that has it.");
  m.def("lookup", &Lookup, nb::arg("name"), nb::sig("def lookup(name: str) -> object | None"),
        "The living target of that name, or None.");
  m.def("set_hooks", &SetHooks, nb::arg("report"), nb::arg("convert"), nb::arg("resolve"),
        nb::arg("enter_worker"), nb::arg("clear_tracebacks"), nb::arg("report_kept"),
        nb::arg("go_deeper"), nb::arg("configure"), nb::arg("follow_tracing"),
        "Sets the Python functions that the runtime calls.");
  m.def(
      "has_scalar_loop",
      [](const std::string& signature) { return FindScalarLoop(signature) != nullptr; },
      nb::arg("signature"), "Whether scalar C functions of that signature can be called.");
  m.def("scalar_ufunc", &ScalarUfunc, nb::arg("name"), nb::arg("doc"), nb::arg("signature"),
        nb::arg("function"), nb::arg("user_data"), nb::arg("owner").none(),
        "A NumPy ufunc that calls a scalar C function, and keeps its owner alive.");
  m.def("keep_library", &KeepLibrary, nb::arg("address"),
        "Name and library of the function at an address; the library stays loaded.");
  m.def("follow", &FollowMove, nb::arg("object"), nb::arg("from_"), nb::arg("to"), nb::arg("bytes"),
        "Points an array or memoryview into the copy of memory that it points into.");
  m.def("handlers", &Handlers, "Capsules of the FFI handlers, by stage.");
  m.def("state_type", &StateType, "Capsules of the handlers' state type.");
  m.def("statistics", &Statistics, "Counts of what the runtime holds.");
  m.def(
      "numbered_calls", [] { return numbered_calls.load(); },
      "How many calls XLA has been given in programs on several devices.");
  m.def("watch_interrupts", &WatchInterrupts, "Chains the Ctrl-C watcher to Python's handler.");
  m.def("level", &Level, "The level of JAX work on this thread.");
  m.def("set_level", &SetLevel, nb::arg("level"),
        "Sets the level of JAX work on this thread; returns the one before.");
  m.def("renew_tracing", &RenewTracing,
        "Lets XLA's threads look anew at what traces and profiles Python's threads.");
  m.def("forget_threads", &ForgetThreads,
        "In a forked child: forgets the threads, and the calls in flight, of the parent.");
  m.def("close", &CloseCalls, nb::arg("seconds"), nb::call_guard<nb::gil_scoped_release>(),
        "Refuses new calls and waits for those in flight; false on time-out.");
  DefineLoops(m);
}
