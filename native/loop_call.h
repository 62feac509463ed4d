// One call of a compiled loop: its buffers as the arguments of the loop, and its outcome.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "call.h"
#include "loop_guard.h"
#include "loops.h"
#include "system.h"

namespace callbax {

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
    if (!Fits(argument, source.dtype, i < loop_.operands)) return false;
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
  PythonGuard guard(site);
  if (site.policy.empty() && !site.loop->may_raise) {
    RunLoop(site, call, pool, nullptr);
  } else if (!guard.Run(call, pool)) {
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
