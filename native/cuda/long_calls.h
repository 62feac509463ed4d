// Calls of programs on GPUs that take long. Each is told of, once.
//
// XLA holds a lock of the GPU while a handler runs. What compiles a program for this GPU and measures kernels
// wants the lock alone: it waits for the call, and programs that are called meanwhile wait for it. So a
// callback that waits for such a compilation never ends, and nothing says why.
//
// Thread safety: any thread; whether it holds the GIL does not matter. A thread looks ten times within the
// time that calls are given while there are calls, and sleeps while there are none.
#pragma once

#include <chrono>
#include <list>
#include <memory>

#include "registry.h"

namespace callbax {

// Has `tell` called, on the thread that looks, for each call that has run so long.
void WatchLongCalls(std::chrono::duration<double> limit,
                    void (*tell)(const std::shared_ptr<Callback>& callback));

struct CallBegun {
  std::chrono::steady_clock::time_point at;
  std::shared_ptr<Callback> callback;
  bool is_told = false;
};

// One call, as long as it lives.
class WatchedCall {
 public:
  explicit WatchedCall(const std::shared_ptr<Callback>& callback);
  ~WatchedCall();
  WatchedCall(const WatchedCall&) = delete;
  WatchedCall& operator=(const WatchedCall&) = delete;

 private:
  std::list<CallBegun>::iterator begun_;
};

}  // namespace callbax
