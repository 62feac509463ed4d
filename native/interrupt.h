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
#pragma once

#include "python.h"

namespace callbax {

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

}  // namespace callbax
