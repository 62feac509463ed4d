// XLA FFI handlers for compiled loops: decode a call frame, run the loop, encode the outcome.
//
// Instantiate looks the loop up by name, once for each call in an executable. Execute runs on any XLA
// thread, several at once; it takes the GIL only for a loop that needs its PythonGuard.
#include "ffi_loops.h"

#include <string>
#include <utility>

#include "blocks.h"
#include "call.h"
#include "ffi.h"
#include "floating_point.h"
#include "interrupt.h"
#include "loop_guard.h"
#include "loops.h"
#include "xla_types.h"

namespace callbax {
namespace {

// One call of a loop in one executable.
struct LoopSite {
  LoopPtr loop;
  std::string policy;            // about floating-point errors
  int64_t number = 0;            // of numbered_calls, if the program runs on several devices
  bool serial = false;           // one thread runs the whole call
  std::atomic<float> cost{0};    // of one item, in ns
};

using State = StateOf<LoopSite>;

XLA_FFI_Error* Instantiate(XLA_FFI_CallFrame* frame) {
  if (AnswerMetadata(frame, State::Id())) return nullptr;
  auto site = std::make_unique<LoopSite>();
  std::string name;
  const Attributes attributes(frame->attrs);
  attributes.Read("loop", &name);
  attributes.Read("errors", &site->policy);
  bool shared_run = false;
  attributes.Read("shared_run", &shared_run);
  if (shared_run) site->number = ++numbered_calls;
  attributes.Read("serial", &site->serial);
  std::string why;
  site->loop = ResolveLoop(name, &why);
  if (!site->loop) {
    return MakeError(frame->api, XLA_FFI_Error_Code_NOT_FOUND,
                     "callbax: this program calls the compiled function " + why);
  }
  return State::Set(frame, std::move(site));
}

int64_t Product(const int64_t* dims, int64_t rank) {
  int64_t product = 1;
  for (int64_t i = 0; i < rank; ++i) product *= dims[i];
  return product;
}

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
    // Widened to 64 bits, a uint32 is the same number whether these are signed or not.
    const bool widens = code == kUint32 && argument.code == kInt64 && i < loop_.operands;
    if (narrow && !widens && code != NarrowCode(argument.code)) return false;
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
    const int64_t count = Product(source.dims, rank);
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
void Destroy(const XLA_FFI_Api* api, XLA_FFI_Error* error) {
  XLA_FFI_Error_Destroy_Args args{XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
  api->XLA_FFI_Error_Destroy(&args);
}

int64_t CountThreads(void* context) {
  auto* frame = static_cast<XLA_FFI_CallFrame*>(context);
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args{XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr,
                                          frame->ctx, &threads};
  XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_NumThreads(&args);
  if (error == nullptr) return threads;
  Destroy(frame->api, error);
  return 1;
}

int64_t OneThread(void*) { return 1; }

bool Schedule(void* context, void (*task)(void*), void* data) {
  auto* frame = static_cast<XLA_FFI_CallFrame*>(context);
  XLA_FFI_ThreadPool_Schedule_Args args{XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr,
                                        frame->ctx, task, data};
  XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_Schedule(&args);
  if (error == nullptr) return true;
  Destroy(frame->api, error);
  return false;
}

std::vector<Buffer> Buffers(void* const* pointers, int64_t size) {
  std::vector<Buffer> buffers;
  for (int64_t i = 0; i < size; ++i) {
    const auto* buffer = static_cast<const XLA_FFI_Buffer*>(pointers[i]);
    buffers.push_back(Buffer{static_cast<int>(buffer->dtype), buffer->data, buffer->rank, buffer->dims});
  }
  return buffers;
}

// Sets the exception of a signal, if there is one for this call.
void RaiseInterrupt() {
  CallInFlight in_flight;
  if (!in_flight.allowed()) return;
  GilScope gil;
  if (!PyErr_Occurred()) Interrupted();
}

XLA_FFI_Error* Finish(XLA_FFI_CallFrame* frame, const LoopSite& site, PythonGuard* guard) {
  if (InterruptWaits()) RaiseInterrupt();
  const Outcome outcome = guard->Judge(*site.loop, site.number,
                                       Buffers(frame->args.args, frame->args.size),
                                       Buffers(frame->rets.rets, frame->rets.size));
  if (outcome.ok) return nullptr;
  return MakeError(frame->api, XLA_FFI_Error_Code_INTERNAL, outcome.message);
}

XLA_FFI_Error* RunGuarded(XLA_FFI_CallFrame* frame, LoopSite& site, const LoopCall& call,
                          const Pool& pool) {
  CallInFlight in_flight;
  if (!in_flight.allowed()) {
    return MakeError(frame->api, XLA_FFI_Error_Code_CANCELLED,
                     "callbax: " + site.loop->name + " was not run: the interpreter is shutting down");
  }
  PythonGuard guard(site.policy);
  RunLoop(call, pool, &guard, &site.cost);
  return Finish(frame, site, &guard);
}

XLA_FFI_Error* Execute(XLA_FFI_CallFrame* frame) {
  if (AnswerMetadata(frame, State::Id())) return nullptr;
  LoopSite* site = nullptr;
  if (XLA_FFI_Error* error = State::Get(frame, &site)) return error;
  LoopCall call;
  if (!Binder(*site->loop, &call).Bind(*frame)) {
    return MakeError(frame->api, XLA_FFI_Error_Code_INVALID_ARGUMENT,
                     "callbax: the buffers of this call do not fit the loop " + site->loop->name +
                         "; in a partitioned program its arguments may be sharded differently");
  }
  const Pool pool{frame, site->serial ? OneThread : CountThreads, Schedule};
  if (!site->policy.empty() || site->loop->may_raise) return RunGuarded(frame, *site, call, pool);
  RunLoop(call, pool, nullptr, &site->cost);
  if (!LoopHasRaised() && !InterruptWaits()) return nullptr;
  PythonGuard guard(site->policy);
  return Finish(frame, *site, &guard);
}

}  // namespace

void* InstantiateLoopHandler() { return reinterpret_cast<void*>(Instantiate); }
void* ExecuteLoopHandler() { return reinterpret_cast<void*>(Execute); }
void* LoopStateTypeIdPointer() { return State::Id(); }
void* LoopStateTypeInfoPointer() { return State::Info(); }

}  // namespace callbax
