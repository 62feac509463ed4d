// Ends of a call that come from outside: interpreter shutdown and Ctrl-C.
//
// Shutdown. Every call counts itself in flight before it looks at the closing flag, and CloseCalls
// sets the flag before it looks at the count; so once CloseCalls has seen zero, no call can ask for
// the GIL of an interpreter that is going away.
//
// Ctrl-C. Python handles signals on the main thread only. When a program runs on XLA's own threads,
// the main thread waits inside XLA and handles nothing, so a long callback could not be stopped. A
// watcher thread, woken by the signal itself, therefore raises KeyboardInterrupt in the callbacks
// that are running on foreign threads; the failing program then wakes the main thread. A callback
// that sits in a C call cannot be interrupted by anybody: if the main thread has not come back after
// a grace period either, the process is ended the way an unhandled SIGINT ends it.
//
// Where short C functions are called in a loop, no Python code runs in which Python would raise the
// exception. So a call looks for it when its function has returned (Interrupted), on the main thread
// for any signal. The watcher gets the GIL between two calls as a rule, and finds none running: then the
// next call on a foreign thread is the one that fails, as long as the main thread does not answer.
//
// Race avoided: an interrupt must not hit a program that is called after it. What the watcher asks of the
// next call is taken back by the main thread itself, before it runs Python code other than handlers.
#pragma once

#include <atomic>

#include "python.h"

namespace callbax {

// What waits for a call to end: set by the signal handler and the watcher. kSent: exceptions were sent to
// calls that were running on foreign threads.
enum Attention { kMainThread = 1, kForeignThread = 2, kSent = 4 };
extern std::atomic<int> attention;

// Whether compiled code should ask Interrupted. Costs nothing.
inline bool InterruptWaits() noexcept { return attention.load(std::memory_order_relaxed) != 0; }

bool LookForInterrupt() noexcept;
inline unsigned calls_without_look = 0;  // guarded by the GIL

// After a call: whether it is to fail because of a signal. Then an exception is set. Needs the GIL.
// SIGINT is found at once, other signals within a few calls.
inline bool Interrupted() noexcept {
  return (InterruptWaits() || ++calls_without_look % 64 == 0) && LookForInterrupt();
}

class CallInFlight {
 public:
  CallInFlight() noexcept;
  ~CallInFlight();
  CallInFlight(const CallInFlight&) = delete;
  CallInFlight& operator=(const CallInFlight&) = delete;
  bool allowed() const { return allowed_; }
  // How many were in flight before this one.
  int others() const { return others_; }

 private:
  int others_;
  bool allowed_;
  bool on_worker_;
};

// Refuses new calls, then waits for those in flight. Call without the GIL. False on time-out.
bool CloseCalls(double seconds) noexcept;
int CallsInFlight() noexcept;
// Those of them that run on threads that Python did not make.
int CallsInFlightOnWorkers() noexcept;

// Marks this thread as running `target`, if the thread is not Python's. Needs the GIL.
class RunningCallback {
 public:
  explicit RunningCallback(PyObject* target) noexcept;
  ~RunningCallback();
  RunningCallback(const RunningCallback&) = delete;
  RunningCallback& operator=(const RunningCallback&) = delete;
  // Whether the thread is not Python's, and runs no other callback.
  bool outermost() const { return foreign_ && outer_ == nullptr; }

 private:
  const bool foreign_;
  PyObject* outer_;
};

// Chains the watcher to Python's SIGINT handler, if Python has one installed; otherwise does
// nothing. Called for each program that is compiled: a handler that replaced ours since is chained
// anew. Needs the GIL.
void WatchInterrupts();

// In a forked child: the watcher is the parent's, and so are the calls that were in flight. The next
// program that is compiled starts a watcher. Needs the GIL.
void ForgetThreads() noexcept;

// Whether SIGINT has arrived since this was last asked.
bool TakeSignal() noexcept;

// Raises KeyboardInterrupt on the main thread when it runs Python code again. Needs the GIL. If that is
// the code that shows an uncaught exception, it is left to do so: sys.excepthook is wrapped until then.
void InterruptMainThread() noexcept;

}  // namespace callbax
