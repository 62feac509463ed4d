// The Python module callbax._native: registrations and little else.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "block_pool.h"
#include "call.h"
#include "dtypes.h"
#include "interrupt.h"
#include "loops.h"
#include "observer.h"
#include "python.h"
#include "registry.h"
#include "surroundings.h"
#include "system.h"
#include "ufuncs.h"

namespace callbax {

void DefineHostSites(nb::module_& m);     // host_sites.cc
void DefineDeviceArrays(nb::module_& m);  // dlpack/device_array.cc
void DefineCuda(nb::module_& m);          // cuda/cuda_module.cc

namespace {

Reference Share(nb::object object) {
  if (object.is_none()) return nullptr;
  return Reference(object.release().ptr(),
                   [](void* shared) { Release(static_cast<PyObject*>(shared)); });
}

// Keeps the callee of one name alive from Python's side.
struct Registration {
  void KeepContext(nb::object object) {
    context = Share(std::move(object));
    callee->SetContext(context);
  }

  CalleePtr callee;
  Reference context;  // a contextvars.Context
};

nb::object TargetOf(const CalleePtr& callee) {
  return nb::borrow(static_cast<PyObject*>(callee->target()));
}

Registration RegisterCallback(const std::string& name, nb::object target, nb::object function,
                              nb::object keywords, std::pair<uintptr_t, uintptr_t> kernel) {
  auto callback = std::make_shared<Callback>(name, Share(std::move(target)));
  callback->function = Share(std::move(function));
  callback->keywords = Share(std::move(keywords));
  callback->kernel = {reinterpret_cast<void*>(kernel.first),
                      reinterpret_cast<void*>(kernel.second)};
  return {AddCallee(std::move(callback)), nullptr};
}

Registration RegisterLoop(const std::string& name, nb::object target, uintptr_t function,
                          uintptr_t data, const std::vector<int>& operands,
                          const std::vector<int>& results,
                          const std::vector<std::vector<int>>& core, bool may_raise) {
  auto loop = std::make_shared<Loop>(name, Share(std::move(target)));
  loop->function = reinterpret_cast<LoopFunction>(function);
  loop->data = reinterpret_cast<void*>(data);
  loop->operands = operands.size();
  loop->may_raise = may_raise;
  const size_t count = operands.size() + results.size();
  if (count > kMaxLoopArguments || results.empty() || (!core.empty() && core.size() != count)) {
    throw nb::value_error(
        "a loop needs a result, at most 32 arguments, and core dimensions for each");
  }
  for (size_t i = 0; i < count; ++i) {
    const int code = i < operands.size() ? operands[i] : results[i - operands.size()];
    const Dtype* dtype = FindDtype(code);
    if (dtype == nullptr || dtype->packed()) {
      throw nb::value_error(
          ("a loop cannot have arguments of XLA's type " + std::to_string(code)).c_str());
    }
    loop->arguments.push_back({code, dtype->itemsize, core.empty() ? std::vector<int>{} : core[i]});
    for (int dimension : loop->arguments.back().core) {
      if (dimension < 0 || dimension >= static_cast<int>(kMaxCoreDimensions)) {
        throw nb::value_error("a loop has at most 16 core dimensions");
      }
      loop->core_dimensions = std::max<size_t>(loop->core_dimensions, dimension + 1);
    }
  }
  return {AddCallee(std::move(loop)), nullptr};
}

nb::object Lookup(const std::string& name) {
  const CalleePtr callee = FindCallee(name);
  return callee ? TargetOf(callee) : nb::none();
}

void SetHooks(nb::object report, nb::object convert, nb::object resolve, nb::object enter_worker,
              nb::object clear_tracebacks, nb::object report_kept, nb::object go_deeper,
              nb::object configure, nb::object follow_tracing, nb::object keep_failure) {
  GetHooks() = Hooks{report.release().ptr(),           convert.release().ptr(),
                     resolve.release().ptr(),          enter_worker.release().ptr(),
                     clear_tracebacks.release().ptr(), report_kept.release().ptr(),
                     go_deeper.release().ptr(),        configure.release().ptr(),
                     follow_tracing.release().ptr(),   keep_failure.release().ptr()};
}

void SetLoopHooks(nb::object enter, nb::object leave, nb::object judge) {
  Hooks& hooks = GetHooks();
  hooks.enter_loop = enter.release().ptr();
  hooks.leave_loop = leave.release().ptr();
  hooks.judge_loop = judge.release().ptr();
}

std::pair<uintptr_t, uintptr_t> LoopOfUfunc(nb::handle ufunc, int index) {
  const auto loop = UfuncLoop(ufunc.ptr(), index);
  if (PyErr_Occurred()) nb::raise_python_error();
  return loop;
}

nb::object ScalarUfunc(const std::string& name, const std::string& doc,
                       const std::string& signature, uintptr_t function, uintptr_t user_data,
                       nb::handle owner) {
  PyObject* ufunc = MakeScalarUfunc(name, doc, signature, reinterpret_cast<void*>(function),
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

// (handlers by stage, type of the state), as JAX registers them.
std::pair<nb::dict, nb::dict> Capsules(const HandlerAddresses& addresses) {
  nb::dict handlers;
  handlers["instantiate"] = nb::capsule(addresses.instantiate);
  handlers["execute"] = nb::capsule(addresses.execute);
  nb::dict type;
  type["type_id"] = nb::capsule(addresses.type_id);
  type["type_info"] = nb::capsule(addresses.type_info);
  return {handlers, type};
}

nb::dict Statistics() {
  const BlockStatistics blocks = CountBlocks();
  nb::dict statistics;
  statistics["registered"] = LiveCallees();
  statistics["in_flight"] = CallsInFlight();
  statistics["in_flight_on_workers"] = CallsInFlightOnWorkers();
  statistics["idle_bytes"] = blocks.idle_bytes;
  statistics["live_bytes"] = blocks.live_bytes;
  return statistics;
}

// The flags of `watched`; what annotates calls for JAX's profiler.
void WatchCalls(int what, nb::object annotate) {
  PyObject* before = GetHooks().annotate;
  GetHooks().annotate = annotate.is_none() ? nullptr : annotate.release().ptr();
  watched = what;
  Py_XDECREF(before);
}

nb::tuple NumbersOf(const CallTotals& totals) {
  return nb::make_tuple(totals.calls, totals.errors, totals.python, totals.waiting, totals.bytes_in,
                        totals.bytes_out);
}

nb::list TotalsByCallee(bool forget) {
  nb::list found;
  for (const auto& [callback, totals] : ReadTotals(forget)) {
    found.append(nb::make_tuple(callback->name(), TargetOf(callback), NumbersOf(totals)));
  }
  return found;
}

nb::tuple Records() {
  int64_t lost = 0;
  nb::list found;
  for (const CallRecord& record : TakeRecords(&lost)) {
    nb::object run = nb::none();
    if (record.run != kNoRun) run = nb::int_(record.run);
    found.append(nb::make_tuple(TargetOf(record.callback), record.flavour, record.thread, run,
                                record.begin, record.end, NumbersOf(record.of_call)));
  }
  return nb::make_tuple(found, lost);
}

// What JAX calls to put the results of a program together (see _jax/calls.py). Waits, by Python, if the
// program may not have ended.
//
// Race avoided: were the site taken by Python code, the exception of a signal could come before it is,
// and the thread's next call would be taken for one that has ended.
nb::object FinishCall(nb::tuple plan, nb::object leaves) {
  const int64_t ended = std::exchange(last_site, 0);
  const auto site = nb::cast<int64_t>(plan[2]);
  if (site == 0 || site != ended) plan[3](leaves);
  const auto tokens = nb::cast<Py_ssize_t>(plan[1]);
  const nb::object results = plan[0];
  if (results.is_none()) return leaves[tokens];
  if (tokens == 0) return results.attr("unflatten")(leaves);
  return results.attr("unflatten")(
      nb::steal(PySequence_GetSlice(leaves.ptr(), tokens, PY_SSIZE_T_MAX)));
}

}  // namespace
}  // namespace callbax

NB_MODULE(_native, m) {
  using namespace callbax;
  // Programs in JAX's caches may outlive the interpreter, and keep their callbacks registered.
  nb::set_leak_warnings(false);
  m.doc() = "callbax's native runtime: XLA FFI handlers that call Python.";
  if (!ImportDtypes() || !ImportUfuncApi()) nb::raise_python_error();

  nb::class_<Registration>(m, "Registration", "Keeps a registered callee alive.")
      .def_prop_ro("name", [](const Registration& self) { return self.callee->name(); })
      .def_prop_ro("target", [](const Registration& self) { return TargetOf(self.callee); })
      .def("keep_context", &Registration::KeepContext, nb::arg("context").none(),
           "Sets the contextvars.Context of calls compiled from now on, on XLA's threads.");

  m.def("register_callback", &RegisterCallback, nb::arg("name"), nb::arg("target"),
        nb::arg("function"), nb::arg("keywords").none(),
        nb::arg("kernel") = std::pair<uintptr_t, uintptr_t>(),
        "Enters a callback under a name, unless a living callee has it; returns its holder.");
  m.def("register_loop", &RegisterLoop, nb::arg("name"), nb::arg("target"), nb::arg("function"),
        nb::arg("data"), nb::arg("operands"), nb::arg("results"), nb::arg("core"),
        nb::arg("may_raise"),
        "Enters a loop under a name, unless a living callee has it; returns its holder.");
  m.def("lookup", &Lookup, nb::arg("name"), nb::sig("def lookup(name: str) -> object | None"),
        "The living target of that name, or None.");
  m.def("set_hooks", &SetHooks, nb::arg("report"), nb::arg("convert"), nb::arg("resolve"),
        nb::arg("enter_worker"), nb::arg("clear_tracebacks"), nb::arg("report_kept"),
        nb::arg("go_deeper"), nb::arg("configure"), nb::arg("follow_tracing"),
        nb::arg("keep_failure"), "Sets the Python functions that the runtime calls.");
  m.def("set_loop_hooks", &SetLoopHooks, nb::arg("enter"), nb::arg("leave"), nb::arg("judge"),
        "Sets the Python functions that loops may need.");
  m.def("dtype_code", &DtypeCode, nb::arg("name"), "XLA's code of a dtype, by its name; -1: none.");
  m.def("ufunc_loop", &LoopOfUfunc, nb::arg("ufunc"), nb::arg("index"),
        nb::sig("def ufunc_loop(ufunc: object, index: int) -> tuple[int, int]"),
        "The addresses of a ufunc's loop and of its data.");
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
  m.def(
      "callback_handlers", [] { return Capsules(CallbackHandlers()); },
      "Capsules of the FFI handlers of callbacks, by stage, and of their state type.");
  m.def(
      "loop_handlers", [] { return Capsules(LoopHandlers()); },
      "Capsules of the FFI handlers of loops, by stage, and of their state type.");
  m.def(
      "cuda_callback_handlers", [] { return Capsules(CudaCallbackHandlers()); },
      "The same of callbacks of programs on NVIDIA GPUs.");
  m.def(
      "cuda_loop_handlers", [] { return Capsules(CudaLoopHandlers()); },
      "The same of loops in programs on NVIDIA GPUs.");
  DefineHostSites(m);
  DefineDeviceArrays(m);
  DefineCuda(m);
  m.def("watch_calls", &WatchCalls, nb::arg("what"), nb::arg("annotate").none(),
        "Sets what is watched of calls: 1 totals, 2 records, 4 annotations by annotate(target).");
  m.def("call_totals", &TotalsByCallee, nb::arg("forget"),
        "[(name, target, (calls, errors, ns in Python, ns waiting, bytes in, bytes out))].");
  m.def("limit_records", &LimitRecords, nb::arg("limit"),
        "Keeps at most so many records of calls; forgets those that there are.");
  m.def("take_records", &Records,
        "([(target, flavour, thread, run, begin, end, numbers as in call_totals)], number lost).");
  m.def("statistics", &Statistics, "Counts of what the runtime holds.");
  m.def(
      "numbered_calls", [] { return numbered_calls.load(); },
      "How many calls XLA has been given in programs on several devices.");
  m.def("watch_interrupts", &WatchInterrupts, "Chains the Ctrl-C watcher to Python's handler.");
  m.def(
      "take_last_site", [] { return std::exchange(last_site, 0); },
      "Which call site ended a call on this thread, if it was not asked for since; 0: none.");
  m.def("finish_call", &FinishCall, nb::arg("plan"), nb::arg("leaves"),
        "Puts a call's results together, when the program has ended.");
  m.def("level", &Level, "The level of JAX work on this thread.");
  m.def("set_level", &SetLevel, nb::arg("level"),
        "Sets the level of JAX work on this thread; returns the one before.");
  m.def("renew_tracing", &RenewTracing,
        "Lets XLA's threads look anew at what traces and profiles Python's threads.");
  m.def("forget_threads", &ForgetThreads,
        "In a forked child: forgets the threads, and the calls in flight, of the parent.");
  m.def("close", &CloseCalls, nb::arg("seconds"), nb::call_guard<nb::gil_scoped_release>(),
        "Refuses new calls and waits for those in flight; false on time-out.");
}
