#include "outcome.h"

#include "dtypes.h"
#include "interrupt.h"

namespace callbax {
namespace {

// A callback that has reached the recursion limit leaves no frames for its report.
class RecursionHeadroom {
 public:
  RecursionHeadroom() { Py_SetRecursionLimit(Py_GetRecursionLimit() + kFrames); }
  ~RecursionHeadroom() { Py_SetRecursionLimit(Py_GetRecursionLimit() - kFrames); }
  RecursionHeadroom(const RecursionHeadroom&) = delete;
  RecursionHeadroom& operator=(const RecursionHeadroom&) = delete;

 private:
  static constexpr int kFrames = 500;
};

// As in "float32[2,3], int32[]".
std::string DescribeArrays(const std::vector<Buffer>& buffers) {
  std::string text;
  for (const Buffer& buffer : buffers) {
    const Dtype* dtype = FindDtype(buffer.dtype);
    text += (text.empty() ? "" : ", ") + std::string(dtype == nullptr ? "?" : dtype->name) + "[";
    for (int64_t i = 0; i < buffer.rank; ++i) {
      text += (i == 0 ? "" : ",") + std::to_string(buffer.dims[i]);
    }
    text += "]";
  }
  return text;
}

// (message, poison, interrupted), or null with an error set.
nb::object CallReport(PyObject* target, const std::string& flavour, PyObject* exception,
                      int64_t call_number, const FailedCall& call) {
  nb::object sizes = TupleOf(call.sizes.data(), static_cast<int64_t>(call.sizes.size()));
  if (!sizes) return sizes;
  return nb::steal(PyObject_CallFunction(GetHooks().report, "OsOLLOs", target, flavour.c_str(),
                                         exception, static_cast<long long>(call_number),
                                         static_cast<long long>(call.lane), sizes.ptr(),
                                         DescribeArrays(call.arguments).c_str()));
}

}  // namespace

Failure ReportFailure(PyObject* target, const std::string& flavour, int64_t call_number,
                      const FailedCall& call) {
  const nb::object exception = TakeException();
  RecursionHeadroom headroom;
  nb::object report = CallReport(target, flavour, exception.ptr(), call_number, call);
  std::string trouble;
  if (!report) {
    // An interrupt that another thread sent, or a moment without memory, does not come twice.
    trouble = TakeErrorText();
    report = CallReport(target, flavour, exception.ptr(), call_number, call);
  }
  const char* text = nullptr;
  int poison = call_number > 0;
  int interrupted = 0;
  if (report && !PyArg_ParseTuple(report.ptr(), "spp", &text, &poison, &interrupted))
    text = nullptr;
  interrupted |= PyErr_GivenExceptionMatches(exception.ptr(), PyExc_KeyboardInterrupt);
  if (!GilScope::OnForeignThread() && interrupted && TakeSignal()) {
    // A Ctrl-C that this callback happened to receive is meant for the program: the main thread gets
    // its KeyboardInterrupt once it is back in Python, or code that retries could not be stopped.
    InterruptMainThread();
  }
  if (text != nullptr) return {text, poison != 0};
  PyErr_Clear();
  const std::string name = TextOf(target);
  return {"callbax." + flavour + ": the callback " +
              (name.empty() ? "that cannot be named" : name) +
              " failed, and so did reporting it: " + trouble,
          poison != 0};
}

void KeepFailure(const std::string& message) noexcept {
  const CallInFlight keeps_interpreter;
  if (!keeps_interpreter.allowed()) return;
  GilScope gil;
  nb::object kept = nb::steal(PyObject_CallFunction(GetHooks().keep_failure, "s", message.c_str()));
  if (!kept) PyErr_WriteUnraisable(GetHooks().keep_failure);
}

}  // namespace callbax
