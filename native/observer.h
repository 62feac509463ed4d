// Who watches calls: totals by callee, a record of each call, and the annotations of JAX's profiler.
//
// Nothing is watched unless Python asks for it; a call then pays for one look at `watched`. Totals and
// records are guarded by a mutex of their own, under which nothing is called, and keep their callees
// alive until Python takes or forgets them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "call.h"

namespace callbax {

// What is watched, as bits.
enum Watch : int { kTotals = 1, kRecords = 2, kAnnotations = 4 };
inline std::atomic<int> watched{0};

struct CallTotals {
  int64_t calls = 0;    // of the function: one for each lane
  int64_t errors = 0;   // batches that have failed count as one
  int64_t python = 0;   // nanoseconds from the first argument to the last result
  int64_t waiting = 0;  // nanoseconds for the GIL
  int64_t bytes_in = 0, bytes_out = 0;
};

// One call by XLA: of a function, or of all lanes of a batch.
struct CallRecord {
  std::shared_ptr<Callback> callback;
  std::string flavour;
  int64_t thread = 0;  // the operating system's number
  int64_t run = 0;     // XLA's id of the program's run; kNoRun if it is not known
  int64_t begin = 0;   // in nanoseconds of a clock that starts anywhere
  int64_t end = 0;
  CallTotals of_call;
};

// Watches one call, from its begin to its end. Does nothing if nothing is watched.
class ObservedCall {
 public:
  ObservedCall(const CallSite& site, const std::vector<Buffer>& operands,
               const std::vector<Buffer>& results, int64_t run)
      : watch_(watched.load(std::memory_order_relaxed)) {
    if (watch_) Begin(site, operands, results, run);
  }
  ~ObservedCall() {
    if (watch_) End();
  }
  ObservedCall(const ObservedCall&) = delete;
  ObservedCall& operator=(const ObservedCall&) = delete;

  void Fail() {
    if (watch_) record_->of_call.errors = 1;
  }
  int watch() const { return watch_; }

 private:
  friend class CallInPython;
  void Begin(const CallSite& site, const std::vector<Buffer>& operands,
             const std::vector<Buffer>& results, int64_t run);
  void End();

  const int watch_;
  std::optional<CallRecord> record_;  // if anything is watched
};

// The part of a call that holds the GIL, which it needs.
class CallInPython {
 public:
  explicit CallInPython(ObservedCall& call) : call_(call) {
    if (call_.watch()) Enter();
  }
  ~CallInPython() {
    if (call_.watch()) Leave();
  }
  CallInPython(const CallInPython&) = delete;
  CallInPython& operator=(const CallInPython&) = delete;

 private:
  void Enter();
  void Leave();

  ObservedCall& call_;
  int64_t entered_ = 0;
  void* annotation_ = nullptr;  // a Python object
};

// In their places while nothing is watched.
struct UnobservedCall {
  UnobservedCall(const CallSite&, const std::vector<Buffer>&, const std::vector<Buffer>&, int64_t) {
  }
  void Fail() {}
};
struct UnobservedInPython {
  explicit UnobservedInPython(UnobservedCall&) {}
};

// Keeps at most `limit` records from now on; those that there are go.
void LimitRecords(size_t limit);
// Those that there are, which are forgotten, and how many had no place.
std::vector<CallRecord> TakeRecords(int64_t* lost);
// By callee. `forget`: they start anew.
std::vector<std::pair<std::shared_ptr<Callback>, CallTotals>> ReadTotals(bool forget);

}  // namespace callbax
