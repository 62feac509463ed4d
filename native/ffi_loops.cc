// XLA FFI handlers for compiled loops: decode a call frame, run the loop, encode the outcome.
#include "call.h"
#include "ffi.h"
#include "loop_call.h"

namespace callbax {
namespace {

// XLA's own threads. An error here (no pool in this run) means that nobody helps.
int64_t CountThreads(void* context) {
  auto* frame = static_cast<XLA_FFI_CallFrame*>(context);
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args{XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr,
                                          frame->ctx, &threads};
  return Ignore(frame->api, frame->api->XLA_FFI_ThreadPool_NumThreads(&args)) ? 1 : threads;
}

bool Schedule(void* context, void (*task)(void*), void* data) {
  auto* frame = static_cast<XLA_FFI_CallFrame*>(context);
  XLA_FFI_ThreadPool_Schedule_Args args{XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr,
                                        frame->ctx, task, data};
  return !Ignore(frame->api, frame->api->XLA_FFI_ThreadPool_Schedule(&args));
}

struct LoopHandler {
  using Site = LoopSite;
  static constexpr const char* kCallee = "the compiled function";

  static XLA_FFI_Error* Execute(XLA_FFI_CallFrame* frame, LoopSite& site) {
    const LoopFrame call(frame, site.widened);
    const ThreadPool pool{frame, CountThreads, Schedule};
    return Encode(frame->api, CallLoop(site, call.operands, call.results, call, pool));
  }
};

}  // namespace

HandlerAddresses LoopHandlers() { return Stages<LoopHandler>::Addresses(); }

}  // namespace callbax
