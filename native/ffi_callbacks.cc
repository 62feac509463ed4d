// XLA FFI handlers for callbacks: decode a call frame, hand it to Invoke, encode the outcome.
//
// A call that must not hold a thread of XLA's pool goes to a helper, and XLA gets a future for it.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "call.h"
#include "ffi.h"
#include "helpers.h"

namespace callbax {
namespace {

// A call whose frame is gone when it runs. XLA keeps its buffers until the future is completed, and the
// executable, with the site, too.
struct PostponedCall {
  // Completing a future fails only for what is not one.
  void Run() {
    XLA_FFI_Error* failure = Encode(api, Invoke(*site, operands, results, run_id));
    if (failure == nullptr) {
      XLA_FFI_Future_SetAvailable_Args args{XLA_FFI_Future_SetAvailable_Args_STRUCT_SIZE, nullptr,
                                            future};
      Ignore(api, api->XLA_FFI_Future_SetAvailable(&args));
      return;
    }
    XLA_FFI_Future_SetError_Args args{XLA_FFI_Future_SetError_Args_STRUCT_SIZE, nullptr, future,
                                      failure};
    Ignore(api, api->XLA_FFI_Future_SetError(&args));
  }

  const XLA_FFI_Api* api;
  CallSite* site;
  std::vector<Buffer> operands;
  std::vector<Buffer> results;
  int64_t run_id;
  XLA_FFI_Future* future = nullptr;
  KeptShapes shapes;
};

// Hands the call to a helper. False if it must be run here after all.
bool Postpone(XLA_FFI_CallFrame* frame, CallSite& site, const CallbackFrame& from) {
  XLA_FFI_Future_Create_Args args{XLA_FFI_Future_Create_Args_STRUCT_SIZE, nullptr, nullptr};
  auto call = std::make_shared<PostponedCall>();
  *call = {frame->api, &site, from.operands, from.results, from.run_id, nullptr, {}};
  if (Ignore(frame->api, frame->api->XLA_FFI_Future_Create(&args))) return false;
  call->future = args.future;
  call->shapes.Keep(&call->operands);
  call->shapes.Keep(&call->results);
  frame->future = args.future;
  // If no thread can be started, this one completes the future.
  if (!RunOnHelper([call] { call->Run(); })) call->Run();
  return true;
}

struct CallbackHandler {
  using Site = CallSite;
  static constexpr const char* kCallee = "the host function";

  static XLA_FFI_Error* Execute(XLA_FFI_CallFrame* frame, CallSite& site) {
    CallbackFrame call(frame, site);
    if (site.fence) {
      Pass(call.results);
      return nullptr;
    }
    last_site = 0;
    KeepOrder(frame);
    if (site.needs_pool && OnPoolThread() && Postpone(frame, site, call)) return nullptr;
    Outcome outcome = Invoke(site, call.operands, call.results, call.run_id);
    if (outcome.ok) last_site = site.id;
    return Encode(frame->api, std::move(outcome));
  }
};

}  // namespace

HandlerAddresses CallbackHandlers() { return Stages<CallbackHandler>::Addresses(); }

}  // namespace callbax
