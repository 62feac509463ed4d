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
#include <string>
#include <vector>

#include "call.h"
#include "loops.h"

namespace callbax {

class PythonGuard final : public LoopGuard {
 public:
  // `policy`: what to do about floating-point errors, as interop/error_state.py writes it. Empty:
  // nothing.
  explicit PythonGuard(const std::string& policy) : policy_(policy) {}
  PythonGuard(const PythonGuard&) = delete;
  PythonGuard& operator=(const PythonGuard&) = delete;
  ~PythonGuard();

  void Enter() noexcept override;
  void Leave() noexcept override;

  // After the loop, on the calling thread: raises what is to be raised, as an outcome.
  Outcome Judge(const Loop& loop, int64_t call_number, const std::vector<Buffer>& operands,
                const std::vector<Buffer>& results) noexcept;

 private:
  void KeepException() noexcept;

  const std::string& policy_;
  std::atomic<int> flags_{0};              // of fenv.h, raised on any thread
  std::atomic<void*> exception_{nullptr};  // the first one; owned
};

// For a loop that ran without a guard: whether it has set an exception on this thread all the same.
bool LoopHasRaised() noexcept;

// The registered loop of that name; asks Python to resolve a name not met before. If it is null,
// `why` says what the name means and why this process does not call it.
LoopPtr ResolveLoop(const std::string& name, std::string* why);

}  // namespace callbax
