#include "interrupt.h"

#include <chrono>
#include <set>
#include <system_error>
#include <thread>

#include "system.h"

namespace callbax {

std::atomic<int> attention{0};

namespace {

using std::chrono::milliseconds;

std::atomic<int> in_flight{0};
std::atomic<int> in_flight_on_workers{0};
std::atomic<bool> closing{false};

constexpr milliseconds kTick{50};
// The main thread gets this long to handle the signal itself; then foreign callbacks are stopped.
constexpr milliseconds kMainThreadGrace{100};
// After that, callbacks get this long to stop before the process is ended.
constexpr milliseconds kCallbackGrace{600};
// For this long, while the main thread waits, the next call on a foreign thread fails, and then the next.
constexpr milliseconds kRepeat{10000};

// One per foreign thread that has run a callback. Leaked with the thread's Python state.
struct Worker {
  unsigned long thread_id = 0;
  PyObject* running = nullptr;  // borrowed from the call that is running; guarded by the GIL
  bool interrupted = false;     // an exception was sent to the running call; guarded by the GIL
};

std::set<Worker*>* workers = nullptr;  // guarded by the GIL
thread_local Worker* this_worker = nullptr;

struct Watcher {
  std::atomic<bool> arrived{false};
  std::atomic<bool> main_answered{true};
  bool started = false;  // guarded by the GIL
};
Watcher watcher;

// Async-signal-safe.
void HearSignal() {
  watcher.arrived = true;
  attention.fetch_or(kMainThread);
}

int MainThreadAnswers(void*) {
  attention = 0;
  watcher.main_answered = true;
  return 0;
}

// How many callbacks on foreign threads are running; each is sent a KeyboardInterrupt.
size_t InterruptWorkers() {
  size_t count = 0;
  if (workers == nullptr) return count;
  for (Worker* worker : *workers) {
    if (worker->running == nullptr) continue;
    PyThreadState_SetAsyncExc(worker->thread_id, PyExc_KeyboardInterrupt);
    worker->interrupted = true;
    ++count;
  }
  if (count > 0) attention.fetch_or(kSent);
  return count;
}

std::string RunningNames() {
  std::string names;
  for (Worker* worker : *workers) {
    if (worker->running == nullptr) continue;
    nb::object running = nb::steal(Py_NewRef(worker->running));  // str() may let its call end
    const std::string name = TextOf(running.ptr());
    names += (names.empty() ? "" : ", ") + (name.empty() ? "a callback" : name);
  }
  return names;
}

void EndProcess(const std::string& names) {
  PySys_WriteStderr(
      "callbax: interrupted, but %s is inside a C call that Python cannot interrupt, and the main "
      "thread is waiting for it; ending the process.\n",
      names.c_str());
  PyObject* standard_out = PySys_GetObject("stdout");  // borrowed
  if (standard_out != nullptr)
    nb::object flushed = nb::steal(PyObject_CallMethod(standard_out, "flush", nullptr));
  PyErr_Clear();
  EndBySigint();
}

bool WaitFor(milliseconds limit, bool (*done)()) {
  for (milliseconds waited{0}; waited < limit; waited += kTick) {
    if (done()) return true;
    std::this_thread::sleep_for(kTick);
  }
  return done();
}

bool MainAnsweredOrGone() { return watcher.main_answered || !InterpreterAlive(); }

bool NobodyRunning() {
  if (!InterpreterAlive()) return true;
  const PyGILState_STATE gil = PyGILState_Ensure();
  bool running = false;
  for (Worker* worker : *workers) running = running || worker->running != nullptr;
  PyGILState_Release(gil);
  return !running;
}

bool MainAnsweredOrSignalled() {
  if (MainAnsweredOrGone() || SigintCame()) return true;
  const PyGILState_STATE gil = PyGILState_Ensure();
  InterruptWorkers();
  // Set under the GIL: the main thread does not answer meanwhile.
  if (!watcher.main_answered) attention.fetch_or(kForeignThread);
  PyGILState_Release(gil);
  return false;
}

// Stops what runs callbacks while the main thread waits.
void InterruptNextCalls() {
  WaitFor(kRepeat, MainAnsweredOrSignalled);
  attention.fetch_and(~(kForeignThread | kSent));
}

void AnswerSignal() {
  watcher.main_answered = Py_AddPendingCall(MainThreadAnswers, nullptr) != 0;
  if (watcher.main_answered) attention = 0;  // the queue is full: nobody would take it back
  WaitFor(kMainThreadGrace, MainAnsweredOrGone);
  if (!InterpreterAlive()) return;
  PyGILState_STATE gil = PyGILState_Ensure();
  const size_t interrupted = InterruptWorkers();
  PyGILState_Release(gil);
  if (interrupted == 0 || WaitFor(kCallbackGrace, NobodyRunning)) return InterruptNextCalls();
  attention.fetch_and(~kSent);
  // A main thread that answered is running Python: it has its KeyboardInterrupt and decides.
  if (MainAnsweredOrGone()) return;
  gil = PyGILState_Ensure();
  EndProcess(RunningNames());
  PyGILState_Release(gil);
}

void Watch() {
  BlockSignals();
  for (;;) {
    AwaitSigint();
    if (!InterpreterAlive()) return;
    AnswerSignal();
  }
}

}  // namespace

CallInFlight::CallInFlight() noexcept : others_(in_flight.fetch_add(1)) {
  on_worker_ = GilScope::OnForeignThread() || PyGILState_GetThisThreadState() == nullptr;
  if (on_worker_) in_flight_on_workers.fetch_add(1);
  allowed_ = !closing.load() && InterpreterAlive();
}

CallInFlight::~CallInFlight() {
  if (on_worker_) in_flight_on_workers.fetch_sub(1);
  in_flight.fetch_sub(1);
}

bool CloseCalls(double seconds) noexcept {
  closing = true;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (in_flight.load() > 0) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(milliseconds{1});
  }
  return true;
}

int CallsInFlight() noexcept { return in_flight.load(); }

int CallsInFlightOnWorkers() noexcept { return in_flight_on_workers.load(); }

RunningCallback::RunningCallback(PyObject* target) noexcept
    : foreign_(GilScope::OnForeignThread()), outer_(nullptr) {
  if (!foreign_) return;
  if (this_worker == nullptr) {
    this_worker = new Worker;
    this_worker->thread_id = PyThread_get_thread_ident();
    if (workers == nullptr) workers = new std::set<Worker*>;
    workers->insert(this_worker);
  }
  outer_ = this_worker->running;
  this_worker->running = target;
}

RunningCallback::~RunningCallback() {
  if (!foreign_) return;
  this_worker->running = outer_;
  if (!this_worker->interrupted) return;
  // An exception that came too late for this call must not hit the thread's next one.
  this_worker->interrupted = false;
  PyThreadState_SetAsyncExc(this_worker->thread_id, nullptr);
}

bool LookForInterrupt() noexcept {
  if (!GilScope::OnForeignThread()) {
    if (PyErr_CheckSignals() == 0) return false;
    attention.fetch_and(~kMainThread);
    return true;
  }
  // Sent to this call, and not raised in it: it runs no Python code.
  PyThreadState* state = PyThreadState_Get();
  if (state->async_exc == nullptr &&
      (!InterruptWaits() || (attention.fetch_and(~kForeignThread) & kForeignThread) == 0)) {
    return false;
  }
  PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), nullptr);
  PyErr_SetNone(PyExc_KeyboardInterrupt);
  return true;
}

void InterruptMainThread() noexcept {
  static PyObject* ours = nullptr;                 // compared only
  PyObject* hook = PySys_GetObject("excepthook");  // borrowed
  if (hook != nullptr && hook != ours) {
    try {
      nb::object quiet = nb::cpp_function([shown = nb::borrow(hook)](const nb::args& exception) {
        PySys_SetObject("excepthook", shown.ptr());
        ours = nullptr;
        if (PyErr_CheckSignals() != 0) {
          if (!PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) throw nb::python_error();
          PyErr_Clear();
        }
        return shown(*exception);
      });
      if (PySys_SetObject("excepthook", quiet.ptr()) == 0) ours = quiet.ptr();
    } catch (const std::exception&) {
      // Then the hook stays as it is.
    }
    PyErr_Clear();
  }
  PyErr_SetInterrupt();
}

bool TakeSignal() noexcept { return watcher.arrived.exchange(false); }

void ForgetThreads() noexcept {
  in_flight = 0;
  in_flight_on_workers = 0;
  if (workers != nullptr) workers->clear();
  watcher.started = false;
}

void WatchInterrupts() {
  const SigintHandler handler = HandlerOfSigint();
  if (handler == SigintHandler::kNone) return;
  if (!watcher.started) {
    PrepareToAwaitSigint();
    try {
      std::thread(Watch).detach();
    } catch (const std::system_error&) {
      return;  // no thread can be started: signals are handled as Python alone handles them
    }
    watcher.started = true;
  }
  if (handler != SigintHandler::kHeard) HearSigint(HearSignal);
}

}  // namespace callbax
