// XLA FFI handlers for compiled loops: decode a call frame, run the loop, encode the outcome.
#include <string>
#include <vector>

#include "call.h"
#include "ffi.h"
#include "loop_guard.h"
#include "loops.h"
#include "system.h"

namespace callbax {
namespace {

// Reads the buffers of a frame as the arguments of a loop. Sizes come from the buffers: in a
// partitioned program each device holds its part only.
class Binder {
 public:
  Binder(const Loop& loop, LoopCall* call) : loop_(loop), call_(*call) {
    call_.loop = &loop;
    call_.converts = false;
  }

  bool Bind(const XLA_FFI_CallFrame& frame) {
    const auto operands = static_cast<size_t>(frame.args.size);
    const auto results = static_cast<size_t>(frame.rets.size);
    if (operands != loop_.operands || operands + results != loop_.arguments.size()) return false;
    // The results have all items.
    for (size_t i = operands + results; i-- > 0;) {
      const void* buffer = i < operands ? frame.args.args[i] : frame.rets.rets[i - operands];
      if (!BindOne(i, *static_cast<const XLA_FFI_Buffer*>(buffer))) return false;
    }
    return true;
  }

 private:
  bool BindOne(size_t i, const XLA_FFI_Buffer& source) {
    const LoopArgument& argument = loop_.arguments[i];
    const int code = static_cast<int>(source.dtype);
    const bool narrow = code != argument.code;
    if (!Fits(argument, code, i < loop_.operands)) return false;
    const auto core_rank = static_cast<int64_t>(argument.core.size());
    const int64_t rank = source.rank - core_rank;
    if (rank < 0) return false;
    LoopBuffer& buffer = call_.buffers[i];
    buffer.data = static_cast<char*>(source.data);
    buffer.code = code;
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

// XLA's own threads. An error here (no pool in this run) means that nobody helps.
int64_t CountThreads(void* context) {
  auto* frame = static_cast<XLA_FFI_CallFrame*>(context);
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args{XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr,
                                          frame->ctx, &threads};
  return Ignore(frame->api, frame->api->XLA_FFI_ThreadPool_NumThreads(&args)) ? 1 : threads;
}

int64_t OneThread(void*) { return 1; }

bool Schedule(void* context, void (*task)(void*), void* data) {
  auto* frame = static_cast<XLA_FFI_CallFrame*>(context);
  XLA_FFI_ThreadPool_Schedule_Args args{XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr,
                                        frame->ctx, task, data};
  return !Ignore(frame->api, frame->api->XLA_FFI_ThreadPool_Schedule(&args));
}

struct LoopHandler {
  using Site = LoopSite;
  static constexpr const char* kCallee = "the compiled function";

  static bool Read(const Attributes& attributes, LoopSite* site, std::string* why) {
    attributes.Read("errors", &site->policy);
    attributes.Read("serial", &site->serial);
    site->loop = ReadCallee<Loop>(attributes, "loop", why);
    return site->loop != nullptr;
  }

  static XLA_FFI_Error* Execute(XLA_FFI_CallFrame* frame, LoopSite& site) {
    LoopCall call;
    if (!Binder(*site.loop, &call).Bind(*frame)) {
      return MakeError(frame->api, XLA_FFI_Error_Code_INVALID_ARGUMENT,
                       "callbax: the buffers of this call do not fit the loop " + site.loop->name() +
                           "; in a partitioned program its arguments may be sharded differently");
    }
    const ThreadPool pool{frame, site.serial ? OneThread : CountThreads, Schedule};
    PythonGuard guard(site);
    if (site.policy.empty() && !site.loop->may_raise) {
      RunLoop(site, call, pool, nullptr);
    } else if (!guard.Run(call, pool)) {
      return MakeError(frame->api, XLA_FFI_Error_Code_CANCELLED,
                       "callbax: " + site.loop->name() +
                           " was not run: the interpreter is shutting down");
    }
    if (!guard.Asks()) return nullptr;
    return Encode(frame->api, guard.Judge(ReadBuffers(frame->args.args, frame->args.size),
                                          ReadBuffers(frame->rets.rets, frame->rets.size)));
  }
};

}  // namespace

HandlerAddresses LoopHandlers() { return Stages<LoopHandler>::Addresses(); }

}  // namespace callbax
