// One call of a compiled loop: its buffers as the arguments of the loop, its outcome, and Python's part in
// it: exceptions that the loop sets, and floating-point errors that the user asked to hear of. Most loops
// need none of that, and then Python is not used while they run.
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
#include <utility>
#include <vector>

#include "call.h"
#include "loops.h"
#include "system.h"

namespace callbax {

template <class Attributes>
bool ReadSite(const Attributes& attributes, LoopSite* site, std::string* why) {
  attributes.Read("errors", &site->policy);
  attributes.Read("serial", &site->serial);
  attributes.Read("widened", &site->widened);
  site->loop = ReadCallee<Loop>(attributes, "loop", why);
  return site->loop != nullptr;
}

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
  // a guard may have set an exception on this thread all the same.
  bool Asks() const noexcept;
  static bool ThreadAsks() noexcept;
  // Raises what is to be raised, as an outcome.
  Outcome Judge(const std::vector<Buffer>& operands, const std::vector<Buffer>& results) noexcept;

 private:
  void KeepException() noexcept;
  void Drop() noexcept;

  LoopSite& site_;
  std::atomic<int> flags_{0};              // of fenv.h, raised on any thread
  std::atomic<void*> exception_{nullptr};  // the first one; owned
};

// Reads buffers as the arguments of a loop. Sizes come from the buffers: in a partitioned program each
// device holds its part only.
class LoopBinder {
 public:
  LoopBinder(const Loop& loop, LoopCall* call) : loop_(loop), call_(*call) {
    call_.loop = &loop;
    call_.converts = false;
  }

  // `buffer(i)` is the i-th of the operands and then the results.
  template <class GetBuffer>
  bool Bind(size_t operands, size_t results, const GetBuffer& buffer) {
    if (operands != loop_.operands || operands + results != loop_.arguments.size()) return false;
    // The results have all items.
    for (size_t i = operands + results; i-- > 0;) {
      if (!BindOne(i, buffer(i))) return false;
    }
    return true;
  }

 private:
  bool BindOne(size_t i, const Buffer& source) {
    const LoopArgument& argument = loop_.arguments[i];
    const bool narrow = source.dtype != argument.code;
    if (narrow && !Fits(argument, source.dtype, i < loop_.operands)) return false;
    const auto core_rank = static_cast<int64_t>(argument.core.size());
    const int64_t rank = source.rank - core_rank;
    if (rank < 0) return false;
    LoopBuffer& buffer = call_.buffers[i];
    buffer.data = static_cast<char*>(source.data);
    buffer.code = source.dtype;
    buffer.elements = 1;
    for (int64_t k = 0; k < core_rank; ++k) {
      if (!SetCore(argument.core[k], source.dims[rank + k])) return false;
      buffer.elements *= source.dims[rank + k];
    }
    const int64_t count = CountElements(rank, source.dims);
    if (!counted_) call_.count = count;
    counted_ = true;
    const bool repeated = i < loop_.operands && count == 1;
    if (count != call_.count && !repeated) return false;
    buffer.stride = repeated ? 0 : buffer.elements * (argument.itemsize >> (narrow ? 1 : 0));
    call_.converts = call_.converts || narrow;
    const int64_t bytes = count * buffer.stride;
    // The page faults of fresh memory cost more than a cheap loop.
    if (i >= loop_.operands && bytes >= kHugeResult) {
      AdviseHugePages(buffer.data, static_cast<size_t>(bytes));
    }
    return true;
  }

  bool SetCore(int dimension, int64_t size) {
    const uint32_t bit = uint32_t{1} << dimension;
    if ((seen_ & bit) != 0) return call_.core_sizes[dimension] == size;
    seen_ |= bit;
    call_.core_sizes[dimension] = size;
    return true;
  }

  const Loop& loop_;
  LoopCall& call_;
  bool counted_ = false;
  uint32_t seen_ = 0;  // core dimensions that have a size
};

// Calls the site's loop. `buffer` is as above. Needs no GIL.
template <class GetBuffer>
Outcome CallLoop(LoopSite& site, size_t operands, size_t results, const GetBuffer& buffer,
                 const ThreadPool& pool) {
  LoopCall call;
  if (!LoopBinder(*site.loop, &call).Bind(operands, results, buffer)) {
    return {false, "callbax: the buffers of this call do not fit the loop " + site.loop->name() +
                       "; in a partitioned program its arguments may be sharded differently"};
  }
  const bool guarded = !site.policy.empty() || site.loop->may_raise;
  if (!guarded) {
    RunLoop(site, call, pool, nullptr);
    if (!PythonGuard::ThreadAsks()) return {};
  }
  PythonGuard guard(site);
  if (guarded && !guard.Run(call, pool)) {
    return {false,
            "callbax: " + site.loop->name() + " was not run: the interpreter is shutting down"};
  }
  if (!guard.Asks()) return {};
  std::vector<Buffer> in;
  std::vector<Buffer> out;
  for (size_t i = 0; i < operands + results; ++i) (i < operands ? in : out).push_back(buffer(i));
  return guard.Judge(in, out);
}

}  // namespace callbax
