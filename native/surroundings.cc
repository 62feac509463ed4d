#include "surroundings.h"

#include <atomic>

namespace callbax {
namespace {

// Enough for any nest that Python's recursion limit and the memory allow.
constexpr int kMaxLevel = 4096;

std::atomic<int> keeping[kMaxLevel + 1];  // calls that keep their level, beyond the first few

thread_local int this_level = 0;

// What one of XLA's threads is in. Leaked with the thread's Python state.
struct Entered {
  int tracing = -1;  // of the count below, when this thread last looked
  SettingsPtr settings;
  PyObject* context = nullptr;  // the thread's copy of the settings' context; owned
};
thread_local Entered* this_entered = nullptr;

std::atomic<int> tracing_changes{0};

const Settings& Plain() {
  static const Settings* plain = new Settings;
  return *plain;
}

const Settings& OrPlain(const SettingsPtr& settings) { return settings ? *settings : Plain(); }

bool EnterContext(Entered& entered, PyObject* context) {
  if (entered.context != nullptr) {
    if (PyContext_Exit(entered.context) != 0) return false;
    Py_CLEAR(entered.context);
  }
  if (context == nullptr) return true;
  entered.context = PyContext_Copy(context);
  if (entered.context == nullptr) return false;
  if (PyContext_Enter(entered.context) == 0) return true;
  Py_CLEAR(entered.context);
  return false;
}

bool EnterSettings(const SettingsPtr& settings) {
  if (this_entered == nullptr) this_entered = new Entered;
  Entered& entered = *this_entered;
  const Settings& before = OrPlain(entered.settings);
  const Settings& after = OrPlain(settings);
  auto* context = static_cast<PyObject*>(after.context.get());
  if (before.context.get() != context && !EnterContext(entered, context)) return false;
  if (before.configuration != after.configuration) {
    nb::object done =
        nb::steal(PyObject_CallFunction(GetHooks().configure, "s#", after.configuration.data(),
                                        (Py_ssize_t)after.configuration.size()));
    if (!done) return false;
  }
  entered.settings = settings;
  const int tracing = tracing_changes.load();
  if (entered.tracing != tracing) {
    nb::object done = nb::steal(PyObject_CallNoArgs(GetHooks().follow_tracing));
    if (!done) return false;
    entered.tracing = tracing;
  }
  return true;
}

}  // namespace

bool Surroundings::IsIn(const SettingsPtr& settings) noexcept {
  return this_entered != nullptr && this_entered->settings == settings &&
         this_entered->tracing == tracing_changes.load(std::memory_order_relaxed);
}

bool Surroundings::Enter(bool outermost, const CallSite& site) {
  if (outermost) return EnterSettings(site.settings);
  if (this_level >= kMaxLevel) {
    PyErr_SetString(PyExc_RecursionError, "callbax: callbacks are nested too deep");
    return false;
  }
  if (!site.elsewhere) {
    if (keeping[this_level].fetch_add(1) < kKeepFew) {
      keeps_ = true;
      return true;
    }
    keeping[this_level].fetch_sub(1);
  }
  deeper_ = PyObject_CallFunction(GetHooks().go_deeper, "iO", this_level + 1,
                                  site.elsewhere ? Py_True : Py_False);
  if (deeper_ == nullptr) return false;
  ++this_level;
  return true;
}

void Surroundings::Leave() noexcept {
  if (keeps_) {
    keeping[this_level].fetch_sub(1);
    return;
  }
  --this_level;
  const nb::error_scope keeps_error;
  nb::object done = nb::steal(PyObject_CallNoArgs(deeper_));
  if (!done) PyErr_WriteUnraisable(deeper_);
  Py_CLEAR(deeper_);
}

void RenewTracing() noexcept { ++tracing_changes; }

int Level() noexcept { return this_level; }

int SetLevel(int level) noexcept {
  const int before = this_level;
  this_level = level;
  return before;
}

}  // namespace callbax
