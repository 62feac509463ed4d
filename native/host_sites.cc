// Calls that JAX's own callbacks make in XLA's place, with NumPy arrays where XLA has buffers.
//
// What a program says of the call, the call and its outcome are those of the handlers (ffi_*): only the
// way there differs. XLA's packed types are arrays with one element per byte here.
#include <string>
#include <vector>

#include "call.h"
#include "dtypes.h"
#include "loop_call.h"
#include "python.h"

namespace callbax {
namespace {

// Attributes of a call as the lowering writes them; what is absent keeps its default.
class HostAttributes {
 public:
  explicit HostAttributes(nb::dict values) : values_(std::move(values)) {}

  void Read(const char* name, std::string* out) const {
    if (values_.contains(name)) *out = nb::str(values_[name]).c_str();
  }
  void Read(const char* name, bool* out) const {
    if (values_.contains(name)) *out = PyObject_IsTrue(nb::object(values_[name]).ptr()) == 1;
  }
  void Read(const char* name, std::vector<int64_t>* out) const {
    if (!values_.contains(name)) return;
    for (nb::handle value : nb::object(values_[name])) {
      out->push_back(nb::cast<int64_t>(nb::int_(value)));
    }
  }

 private:
  nb::dict values_;
};

std::vector<Buffer> BuffersOf(const nb::list& arrays) {
  std::vector<Buffer> buffers;
  for (nb::handle item : arrays) {
    if (!PyArray_Check(item.ptr())) throw nb::type_error("not a NumPy array");
    auto* array = reinterpret_cast<PyArrayObject*>(item.ptr());
    const int code = CodeOfType(PyArray_TYPE(array));
    if (code < 0 || !PyArray_ISCARRAY_RO(array)) {
      throw nb::type_error("not a contiguous, aligned array of a dtype that XLA has");
    }
    buffers.push_back(Buffer{code, PyArray_DATA(array), PyArray_NDIM(array),
                             reinterpret_cast<const int64_t*>(PyArray_DIMS(array)),
                             FindDtype(code)->packed()});
  }
  return buffers;
}

template <class Site>
struct HostSite {
  explicit HostSite(nb::dict attributes) {
    std::string why;
    site = NewSite<Site>(HostAttributes(std::move(attributes)), &why);
    if (!site) throw nb::value_error(("this program calls " + why).c_str());
  }
  std::unique_ptr<Site> site;
};

// Runs a call without the GIL; returns the message of its failure, or None.
template <class Run>
nb::object Message(const Run& run) {
  GilScope::KeepThread();
  Outcome outcome;
  {
    nb::gil_scoped_release released;
    outcome = run();
  }
  if (outcome.ok) return nb::none();
  return nb::str(outcome.message.data(), outcome.message.size());
}

nb::object CallCallback(HostSite<CallSite>& self, nb::list operands, nb::list results) {
  const std::vector<Buffer> in = BuffersOf(operands);
  const std::vector<Buffer> out = BuffersOf(results);
  // The run of a call that JAX makes is not known.
  return Message([&] { return Invoke(*self.site, in, out, kNoRun); });
}

int64_t OneThread(void*) { return 1; }
bool NobodyHelps(void*, void (*)(void*), void*) { return false; }

nb::object CallLoopSite(HostSite<LoopSite>& self, nb::list operands, nb::list results) {
  const std::vector<Buffer> in = BuffersOf(operands);
  const std::vector<Buffer> out = BuffersOf(results);
  const auto buffer = [&](size_t i) { return i < in.size() ? in[i] : out[i - in.size()]; };
  const ThreadPool nobody{nullptr, OneThread, NobodyHelps};
  return Message([&] { return CallLoop(*self.site, in.size(), out.size(), buffer, nobody); });
}

template <class Site, class Call>
void Define(nb::module_& m, const char* name, const char* doc, Call call) {
  nb::class_<HostSite<Site>>(m, name, doc)
      .def(nb::init<nb::dict>(), nb::arg("attributes"))
      .def("__call__", call, nb::arg("operands"), nb::arg("results"),
           nb::sig("def __call__(self, operands: list, results: list) -> str | None"),
           "Calls the callee; returns the message of its failure. The arrays are contiguous.");
}

}  // namespace

// Adds the classes CallbackSite and LoopSite.
void DefineHostSites(nb::module_& m) {
  Define<CallSite>(m, "CallbackSite", "A callback's call in a program, made by JAX.",
                   &CallCallback);
  Define<LoopSite>(m, "LoopSite", "A loop's call in a program, made by JAX.", &CallLoopSite);
}

}  // namespace callbax
