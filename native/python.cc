#include "python.h"

#include <atomic>
#include <mutex>
#include <vector>

namespace callbax {
namespace {

// Never destroyed: worker threads may outlive static destructors.
struct Graveyard {
  std::mutex mutex;
  std::vector<PyObject*> objects;    // guarded by mutex
  std::atomic<bool> waiting{false};  // a pending call is scheduled or objects are queued
};

Graveyard& graveyard() {
  static Graveyard* instance = new Graveyard;
  return *instance;
}

int ReleaseFromMainThread(void*) {
  ReleasePending();
  return 0;
}

// Whether this thread is not Python's, and has been given its thread state.
thread_local bool is_foreign = false;

// A foreign thread's state is never destroyed. It cannot be: PyThreadState_Delete of another
// thread's state clears the caller's own GIL-state slot from Python 3.12 on, and taking the GIL in a
// thread's exit path deadlocks against a caller that joins the thread while holding it. The cost is
// one state for each pool thread that ends before the process does.
void AdoptThread() {
  is_foreign = true;
  PyGILState_Ensure();  // never released: keeps the thread state alive between calls
  if (GetHooks().enter_worker != nullptr) {
    nb::object result = nb::steal(PyObject_CallNoArgs(GetHooks().enter_worker));
    if (!result) PyErr_WriteUnraisable(GetHooks().enter_worker);
  }
}

}  // namespace

bool InterpreterAlive() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsInitialized() && !Py_IsFinalizing();
#else
  return Py_IsInitialized() && !_Py_IsFinalizing();
#endif
}

GilScope::GilScope() {
  if (!is_foreign && PyGILState_GetThisThreadState() == nullptr) {
    AdoptThread();
    PyEval_SaveThread();
  }
  state_ = PyGILState_Ensure();
}

bool GilScope::OnForeignThread() noexcept { return is_foreign; }

void GilScope::KeepThread() {
  // A state that ends with the innermost PyGILState_Ensure was made by it. Those of Python's threads
  // count one for the thread itself.
  if (!is_foreign && PyThreadState_Get()->gilstate_counter == 1) AdoptThread();
}

void Release(PyObject* object) noexcept {
  if (object == nullptr || !InterpreterAlive()) return;
  if (PyGILState_Check()) {
    Py_DECREF(object);
    return;
  }
  Graveyard& grave = graveyard();
  {
    std::lock_guard<std::mutex> lock(grave.mutex);
    grave.objects.push_back(object);
  }
  if (!grave.waiting.exchange(true)) {
    // When the queue of pending calls is full, the next callback drops the references instead.
    if (Py_AddPendingCall(ReleaseFromMainThread, nullptr) != 0) grave.waiting = false;
  }
}

void ReleasePending() {
  Graveyard& grave = graveyard();
  std::vector<PyObject*> dead;
  {
    std::lock_guard<std::mutex> lock(grave.mutex);
    dead.swap(grave.objects);
    grave.waiting = false;
  }
  for (PyObject* object : dead) Py_DECREF(object);
}

Hooks& GetHooks() noexcept {
  static Hooks hooks;
  return hooks;
}

bool ThreadHasException() noexcept {
  if (!InterpreterAlive()) return false;
  // Nobody but this thread touches the exception of its own thread state.
  const PyThreadState* state = PyGILState_GetThisThreadState();
  if (state == nullptr) return false;
#if PY_VERSION_HEX >= 0x030C0000
  return state->current_exception != nullptr;
#else
  return state->curexc_type != nullptr;
#endif
}

nb::object TakeException() {
  if (!PyErr_Occurred()) return nb::object();
  return nb::borrow(nb::python_error().value());
}

void SetException(nb::handle exception) {
  PyErr_SetObject(exception.type().ptr(), exception.ptr());
}

std::string TextOf(PyObject* object) {
  const nb::object text = nb::steal(PyObject_Str(object));
  const char* characters = text ? PyUnicode_AsUTF8(text.ptr()) : nullptr;
  if (characters != nullptr) return characters;
  PyErr_Clear();
  return "";
}

nb::object TupleOf(const int64_t* numbers, int64_t count) {
  nb::object tuple = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(count)));
  for (int64_t i = 0; tuple && i < count; ++i) {
    PyObject* number = PyLong_FromLongLong(numbers[i]);
    if (number == nullptr) return nb::object();
    PyTuple_SET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(i), number);
  }
  return tuple;
}

std::string TakeErrorText() {
  const nb::object error = TakeException();
  if (!error) return "unknown error";
  const std::string message = TextOf(error.ptr());
  return Py_TYPE(error.ptr())->tp_name + (message.empty() ? "" : ": " + message);
}

}  // namespace callbax
