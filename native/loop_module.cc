#include "loop_module.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "dtypes.h"
#include "ffi_loops.h"
#include "loops.h"
#include "numpy_api.h"
#include "python.h"

#include <numpy/ufuncobject.h>

namespace nb = nanobind;

namespace callbax {
namespace {

// Keeps the loop of one name alive from Python's side.
struct LoopRegistration {
  LoopPtr loop;
};

nb::object OwnerOf(const LoopPtr& loop) {
  return nb::borrow(static_cast<PyObject*>(loop->owner));
}

LoopRegistration RegisterLoop(const std::string& name, uintptr_t function, uintptr_t data,
                              const std::vector<int>& operands, const std::vector<int>& results,
                              const std::vector<std::vector<int>>& core, bool may_raise,
                              nb::object owner) {
  auto loop = std::make_shared<Loop>();
  loop->name = name;
  loop->function = reinterpret_cast<LoopFunction>(function);
  loop->data = reinterpret_cast<void*>(data);
  loop->operands = operands.size();
  loop->may_raise = may_raise;
  const size_t count = operands.size() + results.size();
  if (count > kMaxLoopArguments || results.empty() || (!core.empty() && core.size() != count)) {
    throw nb::value_error("a loop needs a result, at most 32 arguments, and core dimensions for each");
  }
  for (size_t i = 0; i < count; ++i) {
    const int code = i < operands.size() ? operands[i] : results[i - operands.size()];
    const Dtype* dtype = FindDtype(code);
    if (dtype == nullptr || dtype->packed()) {
      throw nb::value_error(("a loop cannot have arguments of XLA's type " + std::to_string(code)).c_str());
    }
    loop->arguments.push_back({code, dtype->itemsize, core.empty() ? std::vector<int>{} : core[i]});
    for (int dimension : loop->arguments.back().core) {
      if (dimension < 0 || dimension >= static_cast<int>(kMaxCoreDimensions)) {
        throw nb::value_error("a loop has at most 16 core dimensions");
      }
      loop->core_dimensions = std::max<size_t>(loop->core_dimensions, dimension + 1);
    }
  }
  loop->owner = owner.release().ptr();
  loop->drop = [](void* object) { Release(static_cast<PyObject*>(object)); };
  return {AddLoop(std::move(loop))};
}

nb::object LookupLoop(const std::string& name) {
  const LoopPtr loop = FindLoop(name);
  return loop ? OwnerOf(loop) : nb::none();
}

std::pair<uintptr_t, uintptr_t> UfuncLoop(nb::handle ufunc, int index) {
  // Not every object that acts as a ufunc is one inside.
  nb::object kind = nb::module_::import_("numpy").attr("ufunc");
  if (!nb::isinstance(ufunc, kind)) throw nb::type_error("not a numpy.ufunc");
  const auto* inside = reinterpret_cast<PyUFuncObject*>(ufunc.ptr());
  if (index < 0 || index >= inside->ntypes) throw nb::index_error("the ufunc has no such loop");
  const auto function = reinterpret_cast<uintptr_t>(inside->functions[index]);
  const auto data = inside->data == nullptr ? nullptr : inside->data[index];
  return {function, reinterpret_cast<uintptr_t>(data)};
}

nb::dict LoopHandlers() {
  nb::dict handlers;
  handlers["instantiate"] = nb::capsule(InstantiateLoopHandler());
  handlers["execute"] = nb::capsule(ExecuteLoopHandler());
  return handlers;
}

nb::dict LoopStateType() {
  nb::dict type;
  type["type_id"] = nb::capsule(LoopStateTypeIdPointer());
  type["type_info"] = nb::capsule(LoopStateTypeInfoPointer());
  return type;
}

void SetLoopHooks(nb::object resolve, nb::object enter, nb::object leave, nb::object judge) {
  Hooks& hooks = GetHooks();
  hooks.resolve_loop = resolve.release().ptr();
  hooks.enter_loop = enter.release().ptr();
  hooks.leave_loop = leave.release().ptr();
  hooks.judge_loop = judge.release().ptr();
}

}  // namespace

void DefineLoops(nb::module_& m) {
  nb::class_<LoopRegistration>(m, "LoopRegistration", "Keeps a registered loop alive.")
      .def_prop_ro("name", [](const LoopRegistration& self) { return self.loop->name; })
      .def_prop_ro("target", [](const LoopRegistration& self) { return OwnerOf(self.loop); });

  m.def("register_loop", &RegisterLoop, nb::arg("name"), nb::arg("function"), nb::arg("data"),
        nb::arg("operands"), nb::arg("results"), nb::arg("core"), nb::arg("may_raise"),
        nb::arg("owner"),
        "Enters a loop under a name, unless a living one has it; returns the one that has it.");
  m.def("lookup_loop", &LookupLoop, nb::arg("name"),
        nb::sig("def lookup_loop(name: str) -> object | None"),
        "The owner of the living loop of that name, or None.");
  m.def("ufunc_loop", &UfuncLoop, nb::arg("ufunc"), nb::arg("index"),
        nb::sig("def ufunc_loop(ufunc: object, index: int) -> tuple[int, int]"),
        "The addresses of a ufunc's loop and of its data.");
  m.def("dtype_code", &DtypeCode, nb::arg("name"), "XLA's code of a dtype, by its name; -1: none.");
  m.def("set_loop_hooks", &SetLoopHooks, nb::arg("resolve"), nb::arg("enter"), nb::arg("leave"),
        nb::arg("judge"), "Sets the Python functions that loops may need.");
  m.def("loop_handlers", &LoopHandlers, "Capsules of the FFI handlers of loops, by stage.");
  m.def("loop_state_type", &LoopStateType, "Capsules of the loop handlers' state type.");
}

}  // namespace callbax
