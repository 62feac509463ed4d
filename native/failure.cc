#include "failure.h"

#include "interrupt.h"

namespace callbax {

Failure ReportFailure(PyObject* target, const std::string& flavour, bool shared_run) {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback != nullptr && value != nullptr) PyException_SetTraceback(value, traceback);
  Owned exception(value);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  Owned report(PyObject_CallFunction(GetHooks().report, "OsOO", target, flavour.c_str(),
                                     exception.get(), shared_run ? Py_True : Py_False));
  if (!GilScope::OnForeignThread() &&
      PyErr_GivenExceptionMatches(exception.get(), PyExc_KeyboardInterrupt) && TakeSignal()) {
    // A Ctrl-C that this callback happened to receive is meant for the program: the main thread gets
    // its KeyboardInterrupt once it is back in Python, or code that retries could not be stopped.
    PyErr_SetInterrupt();
  }
  const char* text = nullptr;
  int poison = 0;
  if (report && PyArg_ParseTuple(report.get(), "sp", &text, &poison)) return {text, poison != 0};
  return {"a callback failed, and so did reporting it: " + TakeErrorText(), shared_run};
}

}  // namespace callbax
