// Python's part in a compiled loop: exceptions that the loop sets, and floating-point errors that the
// user asked to hear of. Most loops need neither, and then this is not used while they run.
//
// Guarantees
//  * The GIL is held neither while the loop runs nor while a thread waits for another.
//  * No exception stays set on a thread. The first one, of whichever thread, is the call's error.
//
// Race avoided: a loop that raises takes the GIL by PyGILState_Ensure. On a thread without a Python
// thread state that would make one for the moment, and the exception would vanish with it. So such a
// thread gets its lasting one first (see python.h).
#pragma once

#include <atomic>
#include <vector>

#include "call.h"
#include "loops.h"

namespace callbax {

class PythonGuard final : public LoopGuard {
 public:
  explicit PythonGuard(LoopSite& site) : site_(site) {}
  PythonGuard(const PythonGuard&) = delete;
  PythonGuard& operator=(const PythonGuard&) = delete;
  ~PythonGuard() {
    if (exception_.load() != nullptr) Drop();
  }

  // Runs the whole call. False if it was not run: the interpreter is shutting down.
  bool Run(const LoopCall& call, const ThreadPool& pool) noexcept;
  void Enter() noexcept override;
  void Leave() noexcept override;

  // After the loop, on the calling thread: whether there is anything to judge. A loop that was run without
  // this may have set an exception on this thread all the same.
  bool Asks() const noexcept;
  // Raises what is to be raised, as an outcome.
  Outcome Judge(const std::vector<Buffer>& operands, const std::vector<Buffer>& results) noexcept;

 private:
  void KeepException() noexcept;
  void Drop() noexcept;

  LoopSite& site_;
  std::atomic<int> flags_{0};              // of fenv.h, raised on any thread
  std::atomic<void*> exception_{nullptr};  // the first one; owned
};

}  // namespace callbax
